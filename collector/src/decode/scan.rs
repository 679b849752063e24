//! Bytes of logs, in pieces, and the lines in them that tell of failures.

use std::io::{self, Read};

use jiff::tz::TimeZone;
use why502_gateway::any::{Any, LINE_MAX, Search};
use why502_gateway::lines::Told;

use super::tally::Tally;

/// Bytes that are looked at together. Large enough that a search costs nothing to begin, and no
/// more than a cache holds.
const PIECE: usize = 1 << 20;

/// A reader of any number of logs, one after the other.
#[derive(Debug)]
pub struct Scan {
    search: Option<Search>,
    any: Any,
    told: Vec<Told>,
    /// What was found.
    pub tally: Tally,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            search: Search::new(),
            // Error logs have the local time of a host that nobody names: it is shown as it stands
            // there.
            any: Any::new(TimeZone::UTC),
            told: Vec::new(),
            tally: Tally::default(),
        }
    }
}

impl Scan {
    /// Reads `input` to its end; `goes_on` is told the bytes of each piece, and ends it with
    /// `false`.
    ///
    /// # Errors
    ///
    /// As `input` has them; what was read before counts.
    pub fn read(
        &mut self,
        mut input: impl Read,
        mut goes_on: impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let mut kept = 0;
        // The rest of a line of which the beginning was read.
        let mut skipping = false;
        loop {
            let got = match input.read(piece.get_mut(kept..).unwrap_or_default()) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.lines(piece.get(..kept).unwrap_or_default(), skipping);
                    return Err(error);
                }
            };
            let filled = kept + got;
            let bytes = piece.get(..filled).unwrap_or_default();
            let end = match memchr::memrchr(b'\n', bytes) {
                Some(at) => at + 1,
                // The last line has no end, or a line is longer than a piece.
                None if got == 0 || filled == PIECE => filled,
                None => 0,
            };
            let end = if got == 0 { filled } else { end };
            let whole = bytes.get(..end).unwrap_or_default();
            self.lines(whole, skipping);
            if !whole.is_empty() {
                skipping = !whole.ends_with(b"\n");
            }
            piece.copy_within(end..filled, 0);
            kept = filled - end;
            if got == 0 || !goes_on(got) {
                return Ok(());
            }
        }
    }

    /// Whole lines; with `skipping` the first is the rest of one.
    fn lines(&mut self, bytes: &[u8], skipping: bool) {
        self.tally.bytes += bytes.len() as u64;
        let mut from = 0;
        if skipping {
            from = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        }
        let Some(rest) = bytes.get(from..).filter(|rest| !rest.is_empty()) else { return };
        let ends = memchr::memchr_iter(b'\n', rest).count() as u64;
        self.tally.lines += ends + u64::from(!rest.ends_with(b"\n"));
        self.look(rest);
        let Some(search) = self.search.take() else { return };
        while let Some((start, end)) = search.next(bytes, from) {
            self.line(bytes.get(start..end).unwrap_or_default());
            from = end;
        }
        self.search = Some(search);
    }

    /// Finds out what kind of log this is, also where nothing fails: by some lines of each piece.
    fn look(&mut self, bytes: &[u8]) {
        const LOOKS: usize = 8;
        for line in bytes.split(|byte| *byte == b'\n').take(LOOKS) {
            if let Some(name) = self.any.knows(&text(line)) {
                self.tally.known(name);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(name) = self.any.read(&text(line), &mut self.told) {
            self.tally.known(name);
        }
        self.told.drain(..).for_each(|told| self.tally.add(told));
    }

    /// No more logs: what readers kept for the next line is counted.
    pub fn end(&mut self) {
        self.any.pause(&mut self.told);
        self.told.drain(..).for_each(|told| self.tally.add(told));
    }
}

/// A line as text, cut at its bound, without its end.
fn text(line: &[u8]) -> std::borrow::Cow<'_, str> {
    let line = line.get(..LINE_MAX).unwrap_or(line);
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFUSED: &str = "2026/11/24 13:46:09 [error] 8#8: *1 connect() failed (111: Connection refused) while connecting \
                           to upstream, client: ::1, server: a, request: \"GET /x HTTP/1.1\", upstream: \
                           \"http://10.0.0.7:80/x\", host: \"a\"";

    /// Gives what it has in pieces of these lengths.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn scanned(bytes: &[u8], piece: usize) -> Tally {
        let mut scan = Scan::default();
        scan.read(Pieces(bytes, piece), |_| true).unwrap();
        scan.tally
    }

    #[test]
    fn long_lines_binary_lines_and_a_last_line_without_its_end() {
        let mut log = vec![b'x'; 3 << 20];
        log.extend(b" 502 \n\0\xff\xfe 502 \xe9\n");
        log.extend(REFUSED.as_bytes());
        log.extend(b"\r\n");
        log.extend(REFUSED.as_bytes());
        for piece in [1 << 20, 4096, 7777] {
            let tally = scanned(&log, piece);
            assert_eq!(tally.failures().iter().map(|(_, kind)| kind.count).sum::<u64>(), 2);
            assert_eq!((tally.lines, tally.bytes), (4, log.len() as u64));
        }
    }

    #[test]
    fn pieces_do_not_matter() {
        let log = format!("{REFUSED}\nnothing\n").repeat(50);
        for piece in [1, 13, 4096] {
            let tally = scanned(log.as_bytes(), piece);
            assert_eq!(tally.failures()[0].1.count, 50);
            assert_eq!(tally.lines, 100);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, text in "(502|503| |\n|\\{|\"|error\\]|status|:){0,60}", piece in 1usize..64) {
            scanned(&bytes, piece);
            scanned(text.as_bytes(), piece);
        }
    }
}
