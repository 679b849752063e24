//! Reading the spool: once at the start, to find what is there and what was lost, and then by the stream.

use std::fs::File;
use std::io::{self, Write};

use prost::Message;
use tracing::warn;
use why502_proto::v1;

use super::Spool;
use super::queue::Loss;
use super::record::{self, Entry, Read, Reader};
use super::segment::{self, Scan, Segment};

/// Where a read of one boot's facts ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    index: u64,
    offset: u64,
    boot: String,
    seq: u64,
}

/// Facts of one boot, in the order of `seq`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Batch {
    boot: String,
    facts: Vec<v1::Fact>,
}

/// Bounds of a batch; one fact is always in it, however large.
struct Room {
    facts: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, fact: &v1::Fact, first: bool) -> bool {
        // Tag and length around the fact in its batch.
        let length = fact.encoded_len() + 6;
        if self.facts == 0 || (self.bytes < length && !first) {
            return false;
        }
        self.facts -= 1;
        self.bytes = self.bytes.saturating_sub(length);
        true
    }
}

impl Spool {
    /// Facts of `boot` behind `seq` that the collector has not, at most `facts_max` and `bytes_max`, but at least one.
    /// What cannot be read is left out and told of. Going on where the last read ended costs only what is new.
    pub fn read_after(
        &mut self,
        boot: &str,
        seq: u64,
        facts_max: usize,
        bytes_max: usize,
    ) -> Vec<v1::Fact> {
        let mut room = Room { facts: facts_max, bytes: bytes_max };
        let mut batch = Batch { boot: boot.to_owned(), facts: Vec::new() };
        let mut cursor = std::mem::take(&mut self.cursor);
        if cursor.boot != boot || cursor.seq != seq {
            cursor = Cursor { boot: boot.to_owned(), seq, ..Cursor::default() };
        }
        if self.read_segments(&mut cursor, &mut batch, &mut room) {
            self.read_queue(&mut cursor, &mut batch, &mut room);
        }
        self.cursor = cursor;
        batch.facts
    }

    /// `true`: to their end.
    fn read_segments(&mut self, cursor: &mut Cursor, batch: &mut Batch, room: &mut Room) -> bool {
        for segment in &self.segments {
            if segment.index < cursor.index || segment.boot != batch.boot {
                continue;
            }
            let acked = self.acked.of(&segment.boot);
            match read_segment(segment, acked, cursor, batch, room) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    warn!(%error, path = %segment.path.display(), "cannot read the spool");
                    let (first_seq, last_seq) = (cursor.seq.max(acked) + 1, segment.last_seq);
                    let count = (last_seq + 1).saturating_sub(first_seq);
                    self.queue.lose(Loss {
                        count,
                        first_seq,
                        last_seq,
                        reason: "spool unreadable",
                    });
                    cursor.index = segment.index + 1;
                    cursor.offset = 0;
                }
            }
        }
        true
    }

    /// Facts that the disk refused.
    fn read_queue(&self, cursor: &mut Cursor, batch: &mut Batch, room: &mut Room) {
        if batch.boot != self.boot {
            return;
        }
        let floor = cursor.seq.max(self.acked.of(&self.boot));
        for fact in self.queue.facts().filter(|fact| fact.seq > floor) {
            if !room.take(fact, batch.facts.is_empty()) {
                return;
            }
            cursor.seq = fact.seq;
            batch.facts.push(fact.clone());
        }
    }

    /// Scans all files, and finds out where to go on. Returns the files that are damaged.
    pub(super) fn recover(&mut self) -> Vec<u64> {
        let mut damaged = Vec::new();
        let mut before: Option<(u64, String, u64, bool)> = None;
        let mut last_clean = false;
        for at in 0..self.segments.len() {
            let scan = self.scan(at);
            let segment = &self.segments[at];
            let (boot, first_seq, last_seq) =
                (segment.boot.clone(), segment.first_seq, segment.last_seq);
            let index = segment.index;
            self.next_index = index + 1;
            let mut lost = scan.lost.clone();
            if let Some((index_before, boot_before, last_before, false)) = &before
                && *boot_before == boot
                && first_seq > last_before + 1
            {
                lost.push((last_before + 1, first_seq - 1));
                damaged.push(*index_before);
            }
            last_clean = scan.lost.is_empty() && !scan.torn;
            if !last_clean {
                damaged.push(index);
            }
            let is_last = self.segments.get(at + 1).is_none_or(|next| next.boot != boot);
            if scan.torn && is_last {
                lost.push((last_seq + 1, last_seq + 1));
            }
            self.lose_ranges(&boot, &lost);
            if boot == self.boot {
                let torn = u64::from(scan.torn && is_last);
                self.next_seq = self.next_seq.max(last_seq + 1 + torn);
                let sign = (last_seq >= first_seq).then_some(scan.last_boottime_us);
                self.last_sign_us = self.last_sign_us.max(sign);
            }
            before = Some((index, boot, last_seq, scan.ended));
        }
        self.next_seq = self.next_seq.max(self.acked.of(&self.boot) + 1);
        if last_clean {
            self.reopen_last();
        }
        damaged
    }

    fn scan(&mut self, at: usize) -> Scan {
        let Self { segments, marks, .. } = self;
        let segment = &mut segments[at];
        let scanned = segment.scan(|entry| {
            if !entry.mark.is_empty() {
                marks.insert(entry.mark.clone(), entry.position.clone());
            }
        });
        scanned.unwrap_or_else(|error| {
            warn!(%error, path = %segment.path.display(), "cannot read the spool");
            segment.bytes = 0;
            Scan { torn: true, ..Scan::default() }
        })
    }

    fn lose_ranges(&mut self, boot: &str, ranges: &[(u64, u64)]) {
        let acked = self.acked.of(boot);
        for (first, last_seq) in ranges {
            let first_seq = (*first).max(acked + 1);
            if *last_seq >= first_seq {
                let count = last_seq - first_seq + 1;
                warn!(count, boot, "damaged records in the spool");
                self.queue.lose(Loss {
                    count,
                    first_seq,
                    last_seq: *last_seq,
                    reason: "spool record damaged",
                });
            }
        }
    }

    /// Goes on in the last file, if it is of this boot.
    fn reopen_last(&mut self) {
        let Some(last) = self.segments.back().filter(|segment| segment.boot == self.boot) else {
            return;
        };
        match last.reopen() {
            Ok(file) => self.active = Some(file),
            Err(error) => warn!(%error, path = %last.path.display(), "cannot write the spool"),
        }
    }

    /// Writes a damaged file anew without its damage, so that it is told of once.
    pub(super) fn mend(&mut self, index: u64) {
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.index == index) else {
            return;
        };
        if let Err(error) = copy_good(segment) {
            warn!(%error, path = %segment.path.display(), "cannot mend a file of the spool");
        }
    }
}

/// Reads one segment from the cursor on. `true`: to its end.
fn read_segment(
    segment: &Segment,
    acked: u64,
    cursor: &mut Cursor,
    batch: &mut Batch,
    room: &mut Room,
) -> io::Result<bool> {
    if segment.index != cursor.index {
        cursor.index = segment.index;
        cursor.offset = 0;
    }
    let floor = cursor.seq.max(acked);
    if segment.last_seq <= floor {
        cursor.offset = segment.bytes;
        return Ok(true);
    }
    let file = File::open(&segment.path)?;
    let mut reader = Reader::new(&file, cursor.offset, segment.bytes);
    while let Read::Entry { entry, .. } = reader.next()? {
        if let Some(fact) = entry.fact.filter(|fact| fact.seq > cursor.seq.max(acked)) {
            if !room.take(&fact, batch.facts.is_empty()) {
                return Ok(false);
            }
            cursor.seq = fact.seq;
            batch.facts.push(fact);
        }
        cursor.offset = reader.offset();
    }
    Ok(true)
}

/// Replaces the file by a copy of its good records, closed in order.
fn copy_good(segment: &mut Segment) -> io::Result<()> {
    let new = segment.path.with_extension("mended");
    let mut file = File::create(&new)?;
    let mut bytes = Vec::new();
    segment.bytes = std::fs::metadata(&segment.path)?.len();
    segment.scan(|entry| {
        record::write(entry, &mut bytes);
    })?;
    record::write(&Entry { end: true, ..Entry::default() }, &mut bytes);
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, &segment.path)?;
    segment.bytes = bytes.len() as u64;
    if let Some(dir) = segment.path.parent() {
        segment::sync_dir(dir)?;
    }
    Ok(())
}
