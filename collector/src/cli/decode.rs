//! `why502 decode`: what gateway logs say, without any agent.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;

use super::Format;
use super::error::CliError;
use super::output::{Output, complain, progress_line};
use crate::decode::report;
use crate::decode::scan::Scan;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Logs of any gateways, mixed as they come; .gz too. `-` or none: standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How many routes and endpoints to name for each kind of failure
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let stdin = [PathBuf::from("-")];
    let files = if arguments.files.is_empty() { &stdin[..] } else { &arguments.files };
    let mut progress = Progress::new(files);
    let interrupted = on_interrupt();
    let mut scan = Scan::default();
    let mut unread = 0;
    for file in files {
        if let Err(error) = read(file, &mut scan, &mut progress, &interrupted) {
            progress.end();
            complain(&CliError::File { name: file.display().to_string(), source: error });
            unread += 1;
        }
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    progress.end();
    scan.end();
    let tally = &scan.tally;
    let interrupted = interrupted.load(Ordering::Relaxed);
    if tally.formats.is_empty() && tally.lines > 0 && !interrupted {
        let hint = report::known_formats();
        return Err(CliError::NotUnderstood { lines: tally.lines, hint });
    }
    if tally.lines > 0 || unread == 0 {
        match arguments.format {
            Format::Json => out.json(&report::json(tally, arguments.top))?,
            Format::Text => out.text(&report::text(tally, arguments.top, out.paint))?,
        }
    }
    match (interrupted, unread) {
        (true, _) => Err(CliError::Interrupted),
        (false, 0) => Ok(()),
        (false, count) => Err(CliError::Unread { count }),
    }
}

fn read(
    path: &Path,
    scan: &mut Scan,
    progress: &mut Progress,
    interrupted: &AtomicBool,
) -> io::Result<()> {
    let raw: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Box::new(file)
    };
    let compressed = path.extension().is_some_and(|ending| ending == "gz");
    if compressed {
        // What is counted is what the file has, not what comes out.
        let mut read = 0;
        let counted = Counted { raw, read: &mut read, progress };
        return scan.read(MultiGzDecoder::new(counted), |_| !interrupted.load(Ordering::Relaxed));
    }
    scan.read(raw, |bytes| {
        progress.add(bytes);
        !interrupted.load(Ordering::Relaxed)
    })
}

/// Tells how much was read of a file.
struct Counted<'a> {
    raw: Box<dyn Read>,
    read: &'a mut u64,
    progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.raw.read(buffer)?;
        *self.read += got as u64;
        self.progress.add(got);
        Ok(got)
    }
}

/// Set once Ctrl-C was pressed; the second one ends the program, should the first have been of no use.
fn on_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    if let Ok(runtime) = runtime {
        std::thread::spawn(move || {
            runtime.block_on(async {
                while tokio::signal::ctrl_c().await.is_ok() {
                    if set.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        });
    }
    flag
}

/// How far it is, on a terminal.
struct Progress {
    /// 0: not known.
    total: u64,
    done: u64,
    began: Instant,
    /// `None`: nobody looks.
    shown: Option<Instant>,
    visible: bool,
}

impl Progress {
    /// The bar moves this often.
    const PAUSE: Duration = Duration::from_millis(200);

    fn new(files: &[PathBuf]) -> Self {
        let sizes = files.iter().map(|path| path.metadata().ok().filter(|file| file.is_file()));
        let sizes: Option<Vec<u64>> = sizes.map(|file| file.map(|file| file.len())).collect();
        let began = Instant::now();
        let shown = (io::stderr().is_terminal()).then_some(began);
        Self {
            total: sizes.map_or(0, |all| all.iter().sum()),
            done: 0,
            began,
            shown,
            visible: false,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let Some(shown) = self.shown.filter(|shown| shown.elapsed() >= Self::PAUSE) else { return };
        let _since = shown;
        self.shown = Some(Instant::now());
        self.visible = true;
        let megabytes = u128::from(self.done / 1_000_000);
        let rate = megabytes * 1000 / self.began.elapsed().as_millis().max(1);
        let bar = match self.done.saturating_mul(100).checked_div(self.total) {
            Some(percent) => {
                let full = usize::try_from(percent.min(100) / 5).unwrap_or(0);
                format!("[{}{}] {percent:3} %  ", "#".repeat(full), ".".repeat(20 - full))
            }
            None => format!("{megabytes} MB  "),
        };
        progress_line(&format!("{bar}{rate} MB/s"));
    }

    /// Takes the bar away.
    fn end(&mut self) {
        if std::mem::take(&mut self.visible) {
            progress_line("");
        }
    }
}
