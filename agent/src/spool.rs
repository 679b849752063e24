//! Where facts wait for the collector: a log of checksummed records in files of some 4 MiB each.
//!
//! Invariants: what [`Spool::append`] called durable is found again after any crash, once; a mark is never durable
//! before the facts that it stands behind; a file is removed only when everything in it is stored by the collector, or
//! at the bound, and then a `facts_dropped` tells. No file refers to another, so there is no order of unlink and
//! sync that a crash could break. While the disk refuses, the newest facts wait in memory and are still delivered.

mod acked;
mod queue;
mod record;
mod renumber;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};
use why502_proto::v1::Fact;
use why502_proto::{Kind, v1};

use crate::clock::Moment;
use crate::observe::{Mark, Marks};
use acked::Acked;
use queue::{Loss, Queue};
use record::Entry;
use replay::Cursor;
use segment::Segment;

/// A segment is followed by the next one soon after this size: small enough to give the disk back in steps, large
/// enough that files are rare.
const SEGMENT_MAX: u64 = 4 * 1024 * 1024;

/// How much is encoded and written at once.
const WRITE_MAX: usize = 256 * 1024;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Directory, owned by the agent, on a local disk. Made if need be.
    pub dir: PathBuf,
    /// Bound on the files in it. The oldest go first, and a `facts_dropped` tells.
    pub bytes_max: u64,
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory cannot be made or listed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Facts on disk, from the first that the collector has not to the newest.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    boot: String,
    size_max: u64,
    segment_max: u64,
    /// Oldest first. The last one is written to while `active` is there.
    segments: VecDeque<Segment>,
    active: Option<File>,
    next_index: u64,
    next_seq: u64,
    acked: Acked,
    /// Marks that are on disk.
    marks: Marks,
    queue: Queue,
    /// The last write failed.
    refused: bool,
    last_sign_us: Option<u64>,
    /// Where the last read ended: the next one goes on from there.
    cursor: Cursor,
}

impl Spool {
    /// Opens the spool, and makes it if need be. Damaged records are left out and told of. `boot` is the boot that new
    /// facts belong to.
    ///
    /// # Errors
    /// If the directory cannot be made or listed. Files that cannot be read or written are no error.
    pub fn open(config: &SpoolConfig, boot: &str) -> Result<Self, SpoolError> {
        let dir = &config.dir;
        let error = |what| move |source| SpoolError::Io { what, path: dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error("create"))?;
        let mut spool = Self {
            boot: boot.to_owned(),
            size_max: config.bytes_max,
            segment_max: SEGMENT_MAX.min(config.bytes_max / 4),
            segments: Segment::list(dir).map_err(error("list"))?.into(),
            active: None,
            next_index: 1,
            next_seq: 1,
            acked: Acked::load(dir),
            marks: Marks::new(),
            queue: Queue::default(),
            refused: false,
            last_sign_us: None,
            cursor: Cursor::default(),
            dir: dir.clone(),
        };
        let damaged = spool.recover();
        // Told first, mended then: a crash between the two tells twice, never not at all.
        if spool.append(&mut []) {
            for index in damaged {
                spool.mend(index);
            }
        }
        spool.remove_stored();
        Ok(spool)
    }

    /// Marks that were on disk when the last append was.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Boot time of the last sign of an earlier run in this boot.
    pub fn last_sign_us(&self) -> Option<u64> {
        self.last_sign_us
    }

    /// The next fact will have this `seq`.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The disk refuses: facts wait in memory.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Boots that have facts here, oldest first; the running one is the last, with or without.
    pub fn boots(&self) -> Vec<String> {
        let mut boots: Vec<String> = Vec::new();
        let others =
            self.segments.iter().filter(|s| s.boot != self.boot && s.last_seq >= s.first_seq);
        for segment in others {
            if !boots.contains(&segment.boot) {
                boots.push(segment.boot.clone());
            }
        }
        boots.push(self.boot.clone());
        boots
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Gives each fact its `seq` and makes the batch durable. `false`: the disk refused, and the facts wait in memory
    /// until it does not; nothing needs to be appended again.
    ///
    /// A mark without a fact waits for the next fact, or for [`Spool::save`]: to read again what made no fact does no
    /// harm, and saves a write.
    pub fn append(&mut self, batch: &mut [(Option<Fact>, Option<Mark>)]) -> bool {
        self.tell_losses();
        for (fact, mark) in batch {
            match (fact, mark) {
                (Some(fact), mark) => {
                    fact.seq = self.next_seq;
                    self.next_seq += 1;
                    self.queue.push(fact.clone(), mark.clone());
                }
                (None, Some(mark)) => self.queue.mark(mark.clone()),
                (None, None) => {}
            }
        }
        if self.queue.is_empty() { !self.refused } else { self.write_queue() }
    }

    /// Something was lost outside of the spool; the next append tells.
    pub fn lost(&mut self, count: u64, reason: &'static str) {
        self.queue.lose(Loss { count, first_seq: 0, last_seq: 0, reason });
    }

    /// Makes waiting marks durable too, and what the disk refused before.
    pub fn save(&mut self) -> bool {
        self.tell_losses();
        self.save_acked();
        self.queue.is_saved() || self.write_queue()
    }

    /// The collector has stored everything of `boot` up to `seq`.
    pub fn forget(&mut self, boot: &str, seq: u64) {
        self.acked.raise(boot, seq);
        if boot == self.boot {
            self.queue.forget(seq);
        }
        self.remove_stored();
    }

    /// Losses are told when there is room: while the disk refuses they only add up.
    fn tell_losses(&mut self) {
        if self.refused {
            return;
        }
        for loss in self.queue.take_losses() {
            let Loss { count, first_seq, last_seq, reason } = loss;
            let reason = reason.to_owned();
            let dropped = v1::FactsDropped { count, first_seq, last_seq, reason };
            let Moment { boottime_us, realtime_us } = Moment::now();
            let kind = Some(Kind::FactsDropped(dropped));
            self.queue.push(Fact { seq: self.next_seq, boottime_us, realtime_us, kind }, None);
            self.next_seq += 1;
        }
    }

    fn write_queue(&mut self) -> bool {
        match self.try_write_queue() {
            Ok(()) => {
                if std::mem::take(&mut self.refused) {
                    info!(dir = %self.dir.display(), "the spool can be written again");
                }
                self.hold_bound();
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.refused, true) {
                    warn!(%error, dir = %self.dir.display(),
                        "cannot write the spool; the newest facts wait in memory and would not survive a restart");
                }
                self.queue.hold_bound();
                false
            }
        }
    }

    /// One write, one fdatasync, however much waits.
    fn try_write_queue(&mut self) -> io::Result<()> {
        let first_seq = self.queue.first_seq().unwrap_or(self.next_seq);
        self.active(first_seq)?;
        let entries = self.queue.entries();
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let written = write_entries(file, &entries);
        match written {
            Ok(bytes) => {
                segment.bytes += bytes;
                for entry in entries {
                    segment.last_seq =
                        entry.fact.as_ref().map_or(segment.last_seq, |fact| fact.seq);
                    if !entry.mark.is_empty() {
                        self.marks.insert(entry.mark.clone(), entry.position.clone());
                    }
                }
                self.queue.saved();
                Ok(())
            }
            Err(error) => {
                // After a failed sync nobody knows what the disk holds: cut it off, and go on in a new file
                // if even that fails.
                if file.set_len(segment.bytes).is_err() {
                    self.active = None;
                }
                Err(error)
            }
        }
    }

    /// Makes sure that there is a file to write to, with room in it.
    fn active(&mut self, first_seq: u64) -> io::Result<()> {
        if let (Some(file), Some(segment)) = (&mut self.active, self.segments.back_mut()) {
            if segment.bytes < self.segment_max {
                return Ok(());
            }
            let end = Entry { end: true, ..Entry::default() };
            segment.bytes += write_entries(file, &[&end])?;
            self.active = None;
        }
        let (mut segment, mut file) =
            Segment::create(&self.dir, self.next_index, first_seq, &self.boot)?;
        self.next_index += 1;
        // Older files may go at any time: the marks go with the newest.
        let marks: Vec<Entry> =
            self.marks.iter().map(|(name, position)| mark_entry(name, position)).collect();
        match write_entries(&mut file, &marks.iter().collect::<Vec<_>>()) {
            Ok(bytes) => segment.bytes = bytes,
            Err(error) => {
                remove(&segment.path);
                return Err(error);
            }
        }
        self.segments.push_back(segment);
        self.active = Some(file);
        Ok(())
    }

    /// Drops the oldest files until the rest is within the bound.
    fn hold_bound(&mut self) {
        while self.size() > self.size_max && self.segments.len() > 1 {
            let Some(oldest) = self.segments.pop_front() else { return };
            remove(&oldest.path);
            let first_seq = oldest.first_seq.max(self.acked.of(&oldest.boot) + 1);
            if oldest.last_seq >= first_seq {
                let count = oldest.last_seq - first_seq + 1;
                warn!(count, "the spool is full; the oldest facts are dropped");
                self.queue.lose(Loss {
                    count,
                    first_seq,
                    last_seq: oldest.last_seq,
                    reason: "spool full",
                });
            }
        }
    }

    /// Removes the files that hold nothing that the collector has not.
    fn remove_stored(&mut self) {
        let active = self.active.as_ref().and(self.segments.back()).map(|segment| segment.index);
        let acked = &self.acked;
        self.segments.retain(|segment| {
            let stored =
                segment.last_seq < segment.first_seq || segment.last_seq <= acked.of(&segment.boot);
            let done = stored && Some(segment.index) != active;
            if done {
                remove(&segment.path);
            }
            !done
        });
    }

    fn save_acked(&mut self) {
        let mut boots: Vec<&str> =
            self.segments.iter().map(|segment| segment.boot.as_str()).collect();
        boots.push(&self.boot);
        self.acked.keep(&boots);
        if let Err(error) = self.acked.save()
            && !self.refused
        {
            warn!(%error, "cannot note what the collector has; it will be sent again after a restart");
        }
    }
}

/// Appends and syncs; the length that was added.
fn write_entries(file: &mut File, entries: &[&Entry]) -> io::Result<u64> {
    let mut bytes = Vec::new();
    let mut written = 0;
    for entry in entries {
        // Too large for a record: the sources bound their texts, so nothing real is.
        record::write(entry, &mut bytes);
        if bytes.len() >= WRITE_MAX {
            file.write_all(&bytes)?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_all(&bytes)?;
    file.sync_data()?;
    Ok(written + bytes.len() as u64)
}

fn mark_entry(name: &str, position: &str) -> Entry {
    Entry { mark: name.to_owned(), position: position.to_owned(), ..Entry::default() }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "cannot remove a file of the spool");
    }
}
