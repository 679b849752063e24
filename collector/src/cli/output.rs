//! Where answers go: standard output with its width and colours, or a buffer in tests.

use std::io::{self, IsTerminal as _, Write};

use jiff::Timestamp;
use serde_json::Value;
use terminal_size::{Width, terminal_size};

use super::error::CliError;
use crate::chain::chain;
use crate::text::{Paint, clean};

/// No terminal is narrower, and wider lines are hard to read.
const WIDTH_MIN: usize = 40;
const WIDTH_MAX: usize = 120;

/// Where an answer is written, and how.
pub(super) struct Output<'a> {
    writer: Box<dyn Write + 'a>,
    pub(super) paint: Paint,
    /// Where ages count from; `None`: the clock.
    now: Option<Timestamp>,
}

impl Output<'static> {
    /// Colours and width as the terminal has them; a pipe gets neither.
    pub(super) fn stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = match terminal_size() {
            Some((Width(columns), _)) if terminal => {
                usize::from(columns).clamp(WIDTH_MIN, WIDTH_MAX)
            }
            _ => Paint::PLAIN.width,
        };
        let paint = Paint { colours: terminal && !unwanted, width };
        Self { writer: Box::new(io::stdout().lock()), paint, now: None }
    }
}

#[cfg(test)]
impl<'a> Output<'a> {
    pub(super) fn to(buffer: &'a mut Vec<u8>, now: Timestamp) -> Self {
        Self { writer: Box::new(buffer), paint: Paint::PLAIN, now: Some(now) }
    }
}

impl Output<'_> {
    pub(super) fn now(&self) -> Timestamp {
        self.now.unwrap_or_else(Timestamp::now)
    }

    /// Text as it is, which ends its own lines; shown at once.
    pub(super) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.writer.write_all(text.as_bytes())?;
        Ok(self.writer.flush()?)
    }

    /// JSON for reading and for programs alike.
    pub(super) fn json(&mut self, json: &Value) -> Result<(), CliError> {
        self.text(&format!("{json:#}\n"))
    }

    /// JSON on one line.
    pub(super) fn json_line(&mut self, json: &Value) -> Result<(), CliError> {
        self.text(&format!("{json}\n"))
    }
}

/// Tells an error with its causes, and what to do.
#[expect(clippy::print_stderr, reason = "the one place where the verbs tell errors")]
pub(super) fn complain(error: &CliError) {
    let text = chain(error);
    eprintln!("why502: {}\n{}", clean(&text), clean(&error.hint()));
}

/// Tells what is going on beside the answers.
#[expect(clippy::print_stderr, reason = "progress is no part of the answer")]
pub(super) fn progress(text: &str) {
    eprintln!("why502: {}", clean(text));
}

/// Lines of columns, each as wide as its widest cell; the last one is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
