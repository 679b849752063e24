//! A file of the spool. Its name tells what a damaged first record could not: where it stands in the order of files,
//! the first `seq` it may hold, and the boot that its facts belong to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::record::{Read, Reader};

/// Ends the name of every segment.
const SUFFIX: &str = ".spool";

/// A segment on disk.
#[derive(Debug)]
pub(super) struct Segment {
    /// Order of the files, never used twice.
    pub(super) index: u64,
    /// First `seq` that may be in it.
    pub(super) first_seq: u64,
    /// Highest `seq` in it; `first_seq - 1` when there is none.
    pub(super) last_seq: u64,
    /// Boot of its facts.
    pub(super) boot: String,
    /// Length of the part that is known to be good.
    pub(super) bytes: u64,
    pub(super) path: PathBuf,
}

/// What a scan of a segment found besides its records.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Facts that should be there and are not, as ranges of `seq`.
    pub(super) lost: Vec<(u64, u64)>,
    /// There are bytes that are no record behind the last fact, so how many facts they were is not known.
    pub(super) torn: bool,
    /// The segment was closed in order.
    pub(super) ended: bool,
    /// When the last fact in it happened.
    pub(super) last_boottime_us: u64,
}

impl Segment {
    /// Path of the segment with these properties.
    pub(super) fn path(dir: &Path, index: u64, first_seq: u64, boot: &str) -> PathBuf {
        dir.join(format!("{index:010}-{first_seq}-{boot}{SUFFIX}"))
    }

    /// All segments in `dir`, oldest first. Other files are left alone.
    pub(super) fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(segment) = name.to_str().and_then(|name| Self::parse(name, entry.path())) {
                let bytes = entry.metadata()?.len();
                segments.push(Self { bytes, ..segment });
            }
        }
        segments.sort_by_key(|segment| segment.index);
        Ok(segments)
    }

    fn parse(name: &str, path: PathBuf) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.splitn(3, '-');
        let index = parts.next()?.parse().ok()?;
        let first_seq: u64 = parts.next()?.parse().ok().filter(|seq| *seq > 0)?;
        let boot = parts.next()?.to_owned();
        Some(Self { index, first_seq, last_seq: first_seq - 1, boot, bytes: 0, path })
    }

    /// Reads every record, hands its entry to `each`, and sets `last_seq` and `bytes`.
    pub(super) fn scan(&mut self, mut each: impl FnMut(&super::record::Entry)) -> io::Result<Scan> {
        let file = File::open(&self.path)?;
        let mut reader = Reader::new(&file, 0, self.bytes);
        let mut scan = Scan::default();
        let mut good = 0;
        self.last_seq = self.first_seq - 1;
        loop {
            match reader.next()? {
                Read::Entry { entry, damaged } => {
                    scan.torn |= damaged > 0;
                    if entry.fact.as_ref().is_some_and(|fact| fact.seq <= self.last_seq) {
                        // Left on the disk by an earlier file, and uncovered by a power cut.
                        scan.torn = true;
                        continue;
                    }
                    good = reader.offset();
                    scan.ended |= entry.end && !scan.torn;
                    if let Some(fact) = &entry.fact {
                        if damaged > 0 && fact.seq > self.last_seq + 1 {
                            scan.lost.push((self.last_seq + 1, fact.seq - 1));
                        }
                        self.last_seq = self.last_seq.max(fact.seq);
                        scan.torn = false;
                        scan.last_boottime_us = fact.boottime_us;
                    }
                    each(&entry);
                }
                Read::End { damaged } => {
                    scan.torn |= damaged > 0;
                    self.bytes = good;
                    return Ok(scan);
                }
            }
        }
    }

    /// Makes the file, and makes its name durable.
    pub(super) fn create(
        dir: &Path,
        index: u64,
        first_seq: u64,
        boot: &str,
    ) -> io::Result<(Self, File)> {
        let path = Self::path(dir, index, first_seq, boot);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        sync_dir(dir)?;
        let boot = boot.to_owned();
        Ok((Self { index, first_seq, last_seq: first_seq - 1, boot, bytes: 0, path }, file))
    }

    /// Opens the file to go on behind its last good record; what stands behind that is cut off.
    pub(super) fn reopen(&self) -> io::Result<File> {
        let file = OpenOptions::new().append(true).open(&self.path)?;
        if file.metadata()?.len() != self.bytes {
            file.set_len(self.bytes)?;
            file.sync_all()?;
        }
        Ok(file)
    }
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
