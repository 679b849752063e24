//! The facts that the agent on a host tells, live.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use why502_tests::lab::Host;

/// Longer than any of the gateways' timers.
const WAIT: Duration = Duration::from_secs(5);

/// They are kept, so that one that came early is found too.
pub(crate) struct Facts {
    seen: Arc<(Mutex<Vec<String>>, Condvar)>,
    agent: Child,
}

impl Facts {
    /// Starts the agent.
    pub(crate) fn start(host: &Host) -> Self {
        let mut agent =
            host.command("why502-agent").arg("facts").stdout(Stdio::piped()).spawn().unwrap();
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (told, lines) = (Arc::clone(&seen), BufReader::new(agent.stdout.take().unwrap()));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // Time and host stand before the kind.
                let fact = line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
                told.0.lock().unwrap().push(fact);
                told.1.notify_all();
            }
        });
        Self { seen, agent }
    }

    /// The first fact that is `wanted`; `None`: it did not come in time.
    pub(crate) fn wait(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let (seen, changed) = &*self.seen;
        let none = |seen: &mut Vec<String>| !seen.iter().any(|fact| wanted(fact));
        let (seen, _) = changed.wait_timeout_while(seen.lock().unwrap(), WAIT, none).unwrap();
        seen.iter().find(|fact| wanted(fact)).cloned()
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
