//! Follows a log across rotation by rename, copytruncate, truncation, re-creation and a swapped symbolic link, without
//! loss or repeat, also across a restart of this program.
//!
//! A file is known by device, inode and its first bytes; the inode alone is used again by the next file. After a rename
//! the old file is read on, because its writers keep it open until they are told; after a truncation a copy with the
//! same beginning is looked for, and what was not read yet is read from there.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest line that is kept; nginx cuts its own at 2 KiB, access logs have long URLs and cookies.
const LINE_MAX: usize = 64 << 10;
/// How much is read at a time, so that one busy log does not keep the others waiting.
const CHUNK: usize = 64 << 10;
/// How many first bytes tell a file from another: two lines of a log with their times.
const HEAD_MAX: usize = 256;
/// A renamed file that nobody wrote to for so long is closed: reopening takes nginx milliseconds, logrotate's
/// `sharedscripts` may take some seconds to tell it.
const DRAIN: Duration = Duration::from_secs(60);
/// Files of one log that are read at a time. More rotations than this within [`DRAIN`] are a runaway script.
const FILES_MAX: usize = 8;
/// Neighbours of a log that are compared when it was rotated.
const SIBLINGS_MAX: usize = 128;

/// A log and how far it was read.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// Oldest first; the last one is, or was last, at `path`.
    files: VecDeque<Followed>,
    mark: Option<String>,
    /// Whatever appears at `path` now is new, so it is read from its beginning.
    from_start: bool,
    /// Lines that were longer than [`LINE_MAX`] and were cut.
    pub cut: u64,
    /// Something was written that could not be read any more: rotated and compressed, while nobody looked.
    pub lost: bool,
}

#[derive(Debug)]
struct Followed {
    file: File,
    id: (u64, u64),
    /// Up to here it was read.
    offset: u64,
    /// The beginning of a line whose end was not there yet.
    partial: Vec<u8>,
    /// The rest of a line that was cut is passed over.
    skipping: bool,
    head: Vec<u8>,
    grown: Instant,
}

impl Tail {
    /// Begins at `mark`, or, without one, at what is written from now on.
    pub fn new(path: PathBuf, mark: Option<String>) -> Self {
        Self { path, files: VecDeque::new(), mark, from_start: false, cut: 0, lost: false }
    }

    /// Where the log is looked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file is at the path now, as far as is known.
    pub fn current(&self) -> Option<(u64, u64)> {
        self.files.back().map(|file| file.id)
    }

    /// Looks whether the file at the path is still the same.
    ///
    /// # Errors
    /// As open(2); a file that is not there is none, because it may come.
    pub fn look(&mut self, now: Instant) -> io::Result<()> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.from_start |= self.mark.is_none();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let id = (metadata.dev(), metadata.ino());
        let Some(current) = self.files.back_mut() else { return self.first(now) };
        if current.id != id {
            self.files.push_back(Followed::open(&self.path, 0, now)?);
        } else if metadata.len() < current.offset || !current.same_head() {
            self.truncated(now)?;
        }
        self.close_old(now);
        Ok(())
    }

    /// Reads up to [`CHUNK`] bytes and hands over the lines that are whole. `false`: nothing more was there.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(&mut self, now: Instant, lines: &mut Vec<String>) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        for file in &mut self.files {
            let read = file.file.read_at(&mut buffer, file.offset)?;
            if read > 0 {
                file.take(&buffer[..read], lines, &mut self.cut);
                file.grown = now;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where reading begins again when every line that was handed over has been dealt with.
    pub fn position(&self) -> String {
        let mut position = String::new();
        for file in &self.files {
            let unread = u64::try_from(file.partial.len()).unwrap_or(0);
            let (dev, ino) = file.id;
            let (length, sum) = (file.head.len(), crc32fast::hash(&file.head));
            let offset = file.offset - unread;
            let _ = write!(position, "{dev}:{ino}:{length}:{sum}:{offset} ");
        }
        position.truncate(position.trim_end().len());
        position
    }

    fn first(&mut self, now: Instant) -> io::Result<()> {
        if let Some(mark) = self.mark.clone() {
            self.resume(&mark, now)?;
            self.mark = None;
            return Ok(());
        }
        let mut file = Followed::open(&self.path, 0, now)?;
        if !self.from_start {
            file.offset = file.file.metadata()?.len();
        }
        file.grow_head();
        self.files.push_back(file);
        Ok(())
    }

    fn resume(&mut self, mark: &str, now: Instant) -> io::Result<()> {
        let current = Followed::open(&self.path, 0, now)?;
        let siblings = self.siblings();
        let mut found_last = false;
        for part in mark.split(' ').filter_map(Known::parse) {
            let paths = std::iter::once(&self.path).chain(siblings.iter().map(|(path, _)| path));
            // After copytruncate the inode is the new content's, and the copy has the head.
            let by_head = part.length > 0;
            let files: Vec<_> =
                paths.filter_map(|path| Followed::open(path, part.offset, now).ok()).collect();
            let at = files.iter().position(|file| file.id == part.id && part.fits(file));
            let at = at.or_else(|| files.iter().position(|file| by_head && part.fits(file)));
            found_last = at.is_some();
            if let Some(mut file) = at.and_then(|at| files.into_iter().nth(at)) {
                file.grow_head();
                self.files.push_back(file);
            }
        }
        self.lost |= !found_last;
        if let Some(last) = self.files.back().filter(|last| last.id != current.id) {
            // Rotated more than once since.
            let since = last.file.metadata()?.mtime();
            let last = last.id;
            for (path, mtime) in siblings.iter().filter(|(_, mtime)| *mtime > since) {
                let file = Followed::open(path, 0, now)?;
                if file.id != last && file.id != current.id && self.files.len() < FILES_MAX {
                    tracing::debug!(path = %path.display(), mtime, "reading a rotated log");
                    self.files.push_back(file);
                }
            }
        }
        if self.files.back().is_none_or(|last| last.id != current.id) {
            self.files.push_back(current);
        }
        Ok(())
    }

    fn truncated(&mut self, now: Instant) -> io::Result<()> {
        let siblings = self.siblings();
        let Some(current) = self.files.back_mut() else { return Ok(()) };
        let consumed = current.offset - u64::try_from(current.partial.len()).unwrap_or(0);
        let head = std::mem::take(&mut current.head);
        current.partial.clear();
        (current.offset, current.skipping) = (0, false);
        if head.is_empty() {
            return Ok(());
        }
        let copies =
            siblings.iter().filter_map(|(path, _)| Followed::open(path, consumed, now).ok());
        let is_copy = |copy: &Followed| {
            let mut beginning = vec![0; head.len()];
            copy.file.read_exact_at(&mut beginning, 0).is_ok()
                && beginning == head
                && copy.file.metadata().is_ok_and(|metadata| metadata.len() >= consumed)
        };
        if let Some(mut copy) = copies.into_iter().find(is_copy) {
            copy.head = head;
            let last = self.files.len() - 1;
            self.files.insert(last, copy);
        }
        Ok(())
    }

    /// Other files named like this one, with the times of their last change, oldest first.
    fn siblings(&self) -> Vec<(PathBuf, i64)> {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Vec::new();
        };
        let name = name.to_string_lossy();
        let stem = name.strip_suffix(".log").unwrap_or(&name).to_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            let packed = [".gz", ".xz", ".bz2", ".zst"].iter().any(|end| other.ends_with(end));
            let alike = other.starts_with(&stem) && *other != *name && !packed;
            if let Some(metadata) = entry.metadata().ok().filter(|m| alike && m.is_file()) {
                found.push((entry.path(), metadata.mtime()));
            }
            if found.len() == SIBLINGS_MAX {
                break;
            }
        }
        found.sort_by_key(|(_, mtime)| *mtime);
        found
    }

    fn close_old(&mut self, now: Instant) {
        // A script that copies over the last copy: what is there now was read elsewhere.
        let last = self.files.len().saturating_sub(1);
        let mut at = 0;
        self.files.retain(|file| {
            at += 1;
            at > last || file.same_head()
        });
        let done = |file: &Followed| {
            now.duration_since(file.grown) >= DRAIN
                && file.file.metadata().is_ok_and(|metadata| metadata.len() <= file.offset)
        };
        while self.files.len() > FILES_MAX || (self.files.len() > 1 && done(&self.files[0])) {
            self.files.pop_front();
        }
    }
}

/// A file in a mark.
struct Known {
    id: (u64, u64),
    length: usize,
    sum: u32,
    offset: u64,
}

impl Known {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut part = || parts.next();
        let id = (part()?.parse().ok()?, part()?.parse().ok()?);
        let length = part()?.parse().ok().filter(|length| *length <= HEAD_MAX)?;
        let (sum, offset) = (part()?.parse().ok()?, part()?.parse().ok()?);
        Some(Self { id, length, sum, offset })
    }

    fn fits(&self, file: &Followed) -> bool {
        let mut head = vec![0; self.length];
        file.file.read_exact_at(&mut head, 0).is_ok()
            && crc32fast::hash(&head) == self.sum
            && file.file.metadata().is_ok_and(|metadata| metadata.len() >= self.offset)
    }
}

impl Followed {
    fn open(path: &Path, offset: u64, now: Instant) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        let (partial, head) = (Vec::new(), Vec::new());
        Ok(Self { file, id, offset, partial, skipping: false, head, grown: now })
    }

    fn same_head(&self) -> bool {
        let mut beginning = vec![0; self.head.len()];
        self.file.read_exact_at(&mut beginning, 0).is_ok() && beginning == self.head
    }

    /// Takes more of the beginning as the file grows, but never beyond what was read.
    fn grow_head(&mut self) {
        let length = usize::try_from(self.offset).unwrap_or(HEAD_MAX).min(HEAD_MAX);
        if self.head.len() < length {
            let mut head = vec![0; length];
            if self.file.read_exact_at(&mut head, 0).is_ok() {
                self.head = head;
            }
        }
    }

    fn take(&mut self, bytes: &[u8], lines: &mut Vec<String>, cut: &mut u64) {
        self.offset += u64::try_from(bytes.len()).unwrap_or(0);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n");
            if self.skipping {
                self.skipping = !whole;
                continue;
            }
            let room = LINE_MAX.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            let full = self.partial.len() >= LINE_MAX;
            if whole || full {
                self.skipping = !whole;
                *cut += u64::from(full);
                let line = String::from_utf8_lossy(&self.partial);
                lines.push(line.trim_end_matches(['\n', '\r']).to_owned());
                self.partial.clear();
            }
        }
        self.grow_head();
    }
}
