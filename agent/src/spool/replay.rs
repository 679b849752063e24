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

/// How far a reader of the spool is. The default begins at the first fact that the collector has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    index: u64,
    offset: u64,
    boot: String,
    seq: u64,
}

/// Facts of one boot, in the order of `seq`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Boot of the facts.
    pub boot: String,
    /// Empty: there is nothing more now.
    pub facts: Vec<v1::Fact>,
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
    /// What follows `cursor` and the collector has not, at most `facts_max` and `bytes_max`; moves the cursor.
    pub fn read(&mut self, cursor: &mut Cursor, facts_max: usize, bytes_max: usize) -> Batch {
        let mut room = Room { facts: facts_max, bytes: bytes_max };
        let mut batch = Batch::default();
        for at in 0..self.segments.len() {
            let segment = &self.segments[at];
            if segment.index < cursor.index {
                continue;
            }
            if !batch.facts.is_empty() && batch.boot != segment.boot {
                return batch;
            }
            let more = match read_segment(
                segment,
                self.acked.of(&segment.boot),
                cursor,
                &mut batch,
                &mut room,
            ) {
                Ok(more) => more,
                Err(error) => {
                    warn!(%error, path = %segment.path.display(), "cannot read the spool");
                    let (first_seq, last_seq) = (cursor.seq + 1, segment.last_seq);
                    let count = last_seq.saturating_sub(cursor.seq);
                    self.queue.lose(Loss {
                        count,
                        first_seq,
                        last_seq,
                        reason: "spool unreadable",
                    });
                    cursor.index = segment.index + 1;
                    cursor.offset = 0;
                    true
                }
            };
            if !more {
                return batch;
            }
        }
        self.read_queue(cursor, &mut batch, &mut room);
        batch
    }

    /// Facts that the disk refused.
    fn read_queue(&self, cursor: &mut Cursor, batch: &mut Batch, room: &mut Room) {
        if !batch.facts.is_empty() && batch.boot != self.boot {
            return;
        }
        let read = if cursor.boot == self.boot { cursor.seq } else { 0 };
        let floor = read.max(self.acked.of(&self.boot));
        for fact in self.queue.facts().filter(|fact| fact.seq > floor) {
            if !room.take(fact, batch.facts.is_empty()) {
                return;
            }
            cursor.seq = fact.seq;
            cursor.boot.clone_from(&self.boot);
            batch.boot.clone_from(&self.boot);
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
    let read = if cursor.boot == segment.boot { cursor.seq } else { 0 };
    let floor = read.max(acked);
    if segment.last_seq <= floor {
        cursor.offset = segment.bytes;
        return Ok(true);
    }
    let file = File::open(&segment.path)?;
    let mut reader = Reader::new(&file, cursor.offset, segment.bytes);
    while let Read::Entry { entry, .. } = reader.next()? {
        if let Some(fact) = entry.fact.filter(|fact| fact.seq > floor) {
            if !room.take(&fact, batch.facts.is_empty()) {
                return Ok(false);
            }
            cursor.seq = fact.seq;
            cursor.boot.clone_from(&segment.boot);
            batch.boot.clone_from(&segment.boot);
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
