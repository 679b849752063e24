//! A real nginx of its own directory and loopback port, watched by the gateway source.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use why502_agent::observe::{Marks, Observations, Observed, channel};
use why502_agent::source::gateway::journal_lines::JournalLines;
use why502_agent::source::{Interest, Roots, gateway};
use why502_proto::{FactLine, Kind};

/// How long a fact may take before a test fails; facts come in milliseconds, machines are loaded.
const PATIENCE: Duration = Duration::from_secs(20);

/// An nginx in the foreground.
pub struct Nginx {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Nginx {
    /// Starts with `http` as the inside of `http {}`; DIR and PORT in it are replaced.
    pub fn start(http: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("agent-nginx-").tempdir().unwrap();
        let port = free_port();
        write_config(dir.path(), port, http);
        let log = fs::File::create(dir.path().join("stderr")).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .args(["-p", dir.path().to_str().unwrap(), "-c", "nginx.conf", "-g", "daemon off;"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let nginx = Self { dir, port, child };
        let begin = std::time::Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = fs::read_to_string(nginx.dir.path().join("stderr")).unwrap();
            assert!(begin.elapsed() < PATIENCE, "nginx does not listen: {said}");
            std::thread::yield_now();
        }
        nginx
    }

    /// Writes another configuration and has it loaded.
    pub fn reload(&self, http: &str) {
        write_config(self.dir.path(), self.port, http);
        self.signal(rustix::process::Signal::HUP);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn instance(&self) -> String {
        self.path("nginx.conf").to_string_lossy().into_owned()
    }

    /// Requests a path; the status line.
    pub fn get(&self, path: &str) -> String {
        get(self.port, path)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn write_config(dir: &Path, port: u16, http: &str) {
    let text = format!(
        "pid DIR/nginx.pid;\nworker_processes 2;\nerror_log DIR/error.log warn;\nevents {{}}\nhttp {{\n\
         access_log DIR/access.log;\n{http}\n}}\n"
    );
    let text = text.replace("DIR", dir.to_str().unwrap()).replace("PORT", &port.to_string());
    fs::write(dir.join("nginx.conf"), text).unwrap();
}

pub fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned()
}

/// Facts of one instance as they come.
pub struct Facts {
    observations: Observations,
    instance: String,
    pub all: Vec<Observed>,
}

impl Facts {
    /// The next fact that `wanted` takes, among those that came already too.
    pub async fn wait(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let mut at = 0;
        loop {
            while let Some(observed) = self.all.get(at) {
                at += 1;
                let text = observed.kind.as_ref().map(|kind| text(kind, &self.instance));
                if let Some(text) = text.filter(|text| self.is_ours(text) && wanted(text)) {
                    self.all.remove(at - 1);
                    return text;
                }
            }
            match tokio::time::timeout(PATIENCE, self.observations.next()).await {
                Ok(Some(observed)) => self.all.push(observed),
                _ => panic!("it did not come; what came: {:#?}", self.texts()),
            }
        }
    }

    pub fn texts(&self) -> Vec<String> {
        let kinds = self.all.iter().filter_map(|observed| observed.kind.as_ref());
        let texts = kinds.map(|kind| text(kind, &self.instance));
        texts.filter(|text| self.is_ours(text)).collect()
    }

    /// Other tests, and other people, run nginx on this machine too.
    fn is_ours(&self, text: &str) -> bool {
        text.contains("CONF") || text.contains(self.instance.trim_end_matches("nginx.conf"))
    }
}

fn text(kind: &Kind, instance: &str) -> String {
    let line = FactLine { offset_us: 0, host: "h".into(), kind: kind.clone() }.to_string();
    line.replace(instance, "CONF").split_once(" h ").map(|(_, text)| text.to_owned()).unwrap()
}

/// Runs the source for as long as `body` runs.
pub fn watched<F: AsyncFnOnce(&mut Facts)>(instance: &str, marks: Marks, body: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (observer, observations) = channel();
    let mut facts = Facts { observations, instance: instance.to_owned(), all: Vec::new() };
    runtime.block_on(async {
        let tell = |_: Interest| {};
        let given = gateway::Given {
            marks,
            journal: JournalLines::default(),
            named: [].into(),
        };
        tokio::select! {
            () = gateway::run(Roots::default(), observer, tell, given) => panic!("the source ended"),
            () = body(&mut facts) => {}
        }
    });
}
