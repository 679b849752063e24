//! The agent's own log: standard error, without secrets, and never so much of it that it becomes a fault of its own.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use why502_gateway::redact;

/// Lines in one [`WINDOW`]: a start with every source blind takes some twenty.
const LINES_MAX: u32 = 60;
/// How long a flood is held back before the next lines come through.
const WINDOW: Duration = Duration::from_secs(10);

/// Begins to log, panics included.
pub fn init() {
    let builder = tracing_subscriber::fmt()
        .with_writer(Limited { state: Mutex::new(Limit::new(Instant::now())) })
        .with_target(false)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO);
    // The journal has its own time; a terminal shows what happens now.
    if std::env::var_os("JOURNAL_STREAM").is_some() || io::stderr().is_terminal() {
        builder.without_time().init();
    } else {
        builder.init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("a fault of the agent: {panic}")));
}

/// How many lines there were in this window.
#[derive(Debug)]
struct Limit {
    begun: Instant,
    lines: u32,
    held_back: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { begun: now, lines: 0, held_back: 0 }
    }

    /// What to write for `line` at `now`.
    fn pass(&mut self, line: &[u8], now: Instant) -> Option<String> {
        let mut text = String::new();
        if now.duration_since(self.begun) >= WINDOW {
            if self.held_back > 0 {
                text = format!("{} further lines were held back\n", self.held_back);
            }
            *self = Self::new(now);
        }
        if self.lines >= LINES_MAX {
            self.held_back += 1;
            return None;
        }
        self.lines += 1;
        text.push_str(&redact::line(line));
        text.push('\n');
        Some(text)
    }
}

/// Where tracing writes.
#[derive(Debug)]
struct Limited {
    state: Mutex<Limit>,
}

/// One event; tracing writes it as a whole.
struct Event<'a> {
    limit: MutexGuard<'a, Limit>,
}

impl<'a> MakeWriter<'a> for Limited {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { limit: self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Write for Event<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(text) = self.limit.pass(line, Instant::now()) {
            io::stderr().write_all(text.as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_floods_are_held_back_and_the_flood_is_told() {
        let begun = Instant::now();
        let mut limit = Limit::new(begun);
        let line = limit.pass(b" WARN cannot reach http://u:p@h/?token=x\n", begun).unwrap();
        assert_eq!(line, " WARN cannot reach http://***@h/?***\n");
        let passed = (1..500).filter(|_| limit.pass(b"again\n", begun).is_some()).count();
        assert_eq!(passed, 59);
        let later = limit.pass(b"later\n", begun + WINDOW).unwrap();
        assert_eq!(later, "440 further lines were held back\nlater\n");
    }
}
