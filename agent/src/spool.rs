//! Facts wait here until the collector has them on its disk.
//!
//! A directory of segments, each an append-only file: a header (`length u8, boot, next sequence number u64 LE`), then
//! records of `length u32 LE, crc32 u32 LE, payload`. A payload is one [`Record`]. Invariants:
//! - [`Spool::append`] returns after `fdatasync`: what it took survives `kill -9` and power loss.
//! - A segment is deleted when all of it is acknowledged, or as the oldest at [`SpoolConfig::bytes_max`]; the loss
//!   is returned so that a fact can tell it.
//! - A damaged record costs itself and what follows it in its segment, never the segment before or after.
//! - Marks travel in the records, and are repeated at the head of each new segment, so that deleting the old ones
//!   forgets none.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use why502_proto::v1::Fact;

use crate::observe::{Mark, Marks};

/// A segment is closed at this size: small enough that space comes back soon, large enough that creating files does
/// not show.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// Larger records are damage: a fact is at most some KiB.
const RECORD_BYTES_MAX: u32 = 1 << 20;

/// Numbers left out after damage: what stood there may have been delivered, and a number must never name two facts.
const DAMAGE_GAP: u64 = 1 << 20;

/// The newest facts are also kept in memory, so that delivering one does not read a segment: some 250 KiB.
const RECENT_FACTS_MAX: usize = 1024;

/// Where and how much.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Directory of the segments, created if absent.
    pub dir: PathBuf,
    /// Bound on all segments together.
    pub bytes_max: u64,
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Facts that were lost, to be told by a `facts_dropped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// How many, as far as that can be told; at least 1 for each damaged place.
    pub count: u64,
    /// Lowest and highest sequence number among them; 0: not known.
    pub first_seq: u64,
    /// Highest.
    pub last_seq: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    fact: Option<Fact>,
    #[prost(string, tag = "2")]
    mark_name: String,
    #[prost(string, tag = "3")]
    mark_position: String,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    boot: String,
    path: PathBuf,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    facts: u64,
}

/// The spool of one agent. The caller holds the lock on the state directory.
#[derive(Debug)]
pub struct Spool {
    config: SpoolConfig,
    boot: String,
    next_seq: u64,
    segments: VecDeque<Segment>,
    active: Option<File>,
    marks: Marks,
    /// The last facts of the running boot, without a gap.
    recent: VecDeque<Fact>,
}

/// What the spool found at its start.
#[derive(Debug, Default)]
pub struct Opened {
    /// Damage that was met.
    pub lost: Lost,
    /// There was a spool of the same boot: the agent carries on.
    pub continued: bool,
}

impl Spool {
    /// Opens or creates the spool for `boot`.
    ///
    /// # Errors
    /// If the directory cannot be created or listed. Damaged files are no error.
    pub fn open(config: SpoolConfig, boot: &str) -> Result<(Self, Opened), SpoolError> {
        fs::create_dir_all(&config.dir).map_err(io_error("create", &config.dir))?;
        let mut opened = Opened::default();
        let mut spool = Self {
            boot: boot.to_owned(),
            next_seq: 1,
            segments: VecDeque::new(),
            active: None,
            marks: BTreeMap::new(),
            recent: VecDeque::new(),
            config,
        };
        for (number, path) in list(&spool.config.dir)? {
            let Some((segment, marks, damaged)) = scan(number, &path) else {
                opened.lost.count += 1;
                let _ = fs::remove_file(&path);
                continue;
            };
            opened.lost.count += damaged;
            spool.marks.extend(marks);
            if segment.boot == spool.boot {
                opened.continued = true;
                let gap = if damaged > 0 { DAMAGE_GAP } else { 0 };
                spool.next_seq = spool.next_seq.max(segment.last_seq + 1 + gap);
            }
            spool.segments.push_back(segment);
        }
        Ok((spool, opened))
    }

    /// Sequence number that the next fact will get.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The collector knows facts of this boot up to `stored`, more than the spool ever wrote: its directory was lost.
    /// What is here gets numbers behind those.
    ///
    /// # Errors
    /// If the facts cannot be read or written anew.
    pub fn renumber_after(&mut self, stored: u64) -> Result<(), SpoolError> {
        let boot = self.boot.clone();
        let facts = self.read_after(&boot, 0, usize::MAX, usize::MAX)?;
        let old: Vec<u64> =
            self.segments.iter().filter(|s| s.boot == boot).map(|s| s.number).collect();
        self.next_seq = self.next_seq.max(stored + 1);
        self.recent.clear();
        self.create_segment()?;
        let mut batch: Vec<_> = facts.into_iter().map(|fact| (Some(fact), None)).collect();
        self.append(&mut batch)?;
        self.segments.retain(|segment| {
            let goes = old.contains(&segment.number);
            if goes {
                let _ = fs::remove_file(&segment.path);
            }
            !goes
        });
        Ok(())
    }

    /// Where each source begins again.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Numbers the facts and makes them and the marks durable. On failure nothing is taken and the same batch may be
    /// tried again.
    ///
    /// # Errors
    /// If the disk is full or the file cannot be written.
    pub fn append(&mut self, batch: &mut [(Option<Fact>, Option<Mark>)]) -> Result<(), SpoolError> {
        let mut bytes = Vec::new();
        let mut seq = self.next_seq;
        let mut facts = 0;
        for (fact, mark) in batch.iter_mut() {
            if let Some(fact) = fact {
                fact.seq = seq;
                seq += 1;
                facts += 1;
            }
            encode(&mut bytes, fact.clone(), mark.as_ref());
        }
        self.ensure_active()?;
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        let Some(file) = self.active.as_mut() else { return Ok(()) };
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // Cut off what was half written, so that a later attempt does not stand behind damage.
            let _ = file.set_len(segment.bytes);
            self.active = None;
            return Err(SpoolError::Io { what: "write", path: segment.path.clone(), source });
        }
        segment.bytes += bytes.len() as u64;
        if facts > 0 {
            if segment.first_seq == 0 {
                segment.first_seq = self.next_seq;
            }
            segment.last_seq = seq - 1;
            segment.facts += facts;
        }
        self.next_seq = seq;
        self.recent.extend(batch.iter().filter_map(|(fact, _)| fact.clone()));
        let surplus = self.recent.len().saturating_sub(RECENT_FACTS_MAX);
        self.recent.drain(..surplus);
        for mark in batch.iter().filter_map(|(_, mark)| mark.as_ref()) {
            self.marks.insert(mark.name.clone(), mark.position.clone());
        }
        Ok(())
    }

    /// Deletes the oldest segments beyond the bound and tells what was in them.
    pub fn enforce_bound(&mut self) -> Option<Lost> {
        let mut lost = Lost::default();
        while self.bytes() > self.config.bytes_max && self.segments.len() > 1 {
            let Some(segment) = self.segments.pop_front() else { break };
            let _ = fs::remove_file(&segment.path);
            lost.count += segment.facts;
            if segment.boot == self.boot && segment.facts > 0 {
                lost.first_seq =
                    if lost.first_seq == 0 { segment.first_seq } else { lost.first_seq };
                lost.last_seq = segment.last_seq;
            }
        }
        (lost.count > 0).then_some(lost)
    }

    /// The collector has everything of `boot` up to `seq`: whole segments of it go. The newest segment of the running
    /// boot stays, for its marks and its numbering.
    pub fn forget(&mut self, boot: &str, seq: u64) {
        let newest = self.segments.back().map(|segment| segment.number);
        self.segments.retain(|segment| {
            let done = segment.boot == boot
                && segment.last_seq <= seq
                && (Some(segment.number) != newest || segment.boot != self.boot);
            if done {
                let _ = fs::remove_file(&segment.path);
            }
            !done
        });
    }

    /// Boots with facts in the spool, oldest first; the running boot is the last.
    pub fn boots(&self) -> Vec<String> {
        let mut boots: Vec<String> = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.facts > 0) {
            if !boots.contains(&segment.boot) && segment.boot != self.boot {
                boots.push(segment.boot.clone());
            }
        }
        boots.push(self.boot.clone());
        boots
    }

    /// Facts of `boot` after `seq`, in order, at most `facts_max` and about `bytes_max`.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn read_after(
        &self,
        boot: &str,
        seq: u64,
        facts_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Fact>, SpoolError> {
        if boot == self.boot && self.recent.front().is_some_and(|first| first.seq <= seq + 1) {
            let newer = self.recent.iter().filter(|fact| fact.seq > seq).cloned();
            return Ok(bounded(newer, facts_max, bytes_max));
        }
        let mut facts = Vec::new();
        let mut size = 0;
        for segment in &self.segments {
            if segment.boot != boot || segment.last_seq <= seq {
                continue;
            }
            let bytes = fs::read(&segment.path).map_err(io_error("read", &segment.path))?;
            let Some((_, _, mut rest)) = header(&bytes) else { continue };
            while let Step::Record(record, after) = next_record(rest) {
                rest = after;
                let Some(fact) = record.fact.filter(|fact| fact.seq > seq) else { continue };
                let len = fact.encoded_len();
                if !facts.is_empty() && (facts.len() >= facts_max || size + len > bytes_max) {
                    return Ok(facts);
                }
                size += len;
                facts.push(fact);
            }
        }
        Ok(facts)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The last segment, if it is of this boot and has room; else a new one.
    fn ensure_active(&mut self) -> Result<(), SpoolError> {
        let usable = self
            .segments
            .back()
            .is_some_and(|last| last.boot == self.boot && last.bytes < SEGMENT_BYTES_MAX);
        if usable && self.active.is_some() {
            return Ok(());
        }
        if usable && let Some(last) = self.segments.back() {
            // Behind damage nothing would be read: a segment is only continued where it was read to its end.
            let whole = fs::metadata(&last.path).is_ok_and(|meta| meta.len() == last.bytes);
            if whole {
                let file = OpenOptions::new().append(true).open(&last.path);
                self.active = Some(file.map_err(io_error("open", &last.path))?);
                return Ok(());
            }
        }
        self.create_segment()
    }

    fn create_segment(&mut self) -> Result<(), SpoolError> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let path = self.config.dir.join(format!("{number:016}.spool"));
        let mut bytes = vec![u8::try_from(self.boot.len()).unwrap_or(0)];
        bytes.extend_from_slice(self.boot.as_bytes());
        bytes.extend_from_slice(&self.next_seq.to_le_bytes());
        for (name, position) in &self.marks {
            let mark = Mark { name: name.clone(), position: position.clone() };
            encode(&mut bytes, None, Some(&mark));
        }
        let created = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let mut file = created.map_err(io_error("create", &path))?;
        let written = file
            .write_all(&bytes)
            .and_then(|()| file.sync_all())
            // The name must be on disk before a record in it counts as safe.
            .and_then(|()| File::open(&self.config.dir)?.sync_all());
        if let Err(source) = written {
            let _ = fs::remove_file(&path);
            return Err(SpoolError::Io { what: "write", path, source });
        }
        self.active = Some(file);
        self.segments.push_back(Segment {
            number,
            boot: self.boot.clone(),
            path,
            bytes: bytes.len() as u64,
            first_seq: 0,
            last_seq: self.next_seq - 1,
            facts: 0,
        });
        Ok(())
    }
}

fn bounded(facts: impl Iterator<Item = Fact>, facts_max: usize, bytes_max: usize) -> Vec<Fact> {
    let mut size = 0;
    let mut taken = Vec::new();
    for fact in facts {
        size += fact.encoded_len();
        if !taken.is_empty() && (taken.len() >= facts_max || size > bytes_max) {
            break;
        }
        taken.push(fact);
    }
    taken
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { what, path, source }
}

/// Segments by number. Other files are left alone.
fn list(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, SpoolError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let number = (path.extension().is_some_and(|extension| extension == "spool"))
            .then(|| path.file_stem()?.to_str()?.parse().ok())
            .flatten();
        if let Some(number) = number {
            found.insert(number, path);
        }
    }
    Ok(found)
}

fn encode(bytes: &mut Vec<u8>, fact: Option<Fact>, mark: Option<&Mark>) {
    let record = Record {
        fact,
        mark_name: mark.map(|mark| mark.name.clone()).unwrap_or_default(),
        mark_position: mark.map(|mark| mark.position.clone()).unwrap_or_default(),
    };
    let payload = record.encode_to_vec();
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
}

/// Boot of a segment, the number of its first fact, and its records.
fn header(bytes: &[u8]) -> Option<(String, u64, &[u8])> {
    let len = usize::from(*bytes.first()?);
    let boot = std::str::from_utf8(bytes.get(1..=len)?).ok()?;
    // A header has no checksum of its own: only the form of a boot id is taken.
    let plausible =
        !boot.is_empty() && boot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let next_seq = u64::from_le_bytes(bytes.get(len + 1..len + 9)?.try_into().ok()?);
    (plausible && next_seq > 0).then(|| (boot.to_owned(), next_seq, &bytes[len + 9..]))
}

enum Step<'a> {
    Record(Record, &'a [u8]),
    End,
    Damaged,
}

fn next_record(bytes: &[u8]) -> Step<'_> {
    if bytes.is_empty() {
        return Step::End;
    }
    let parsed = (|| {
        let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let crc = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
        if len > RECORD_BYTES_MAX {
            return None;
        }
        let end = 8 + usize::try_from(len).ok()?;
        let payload = bytes.get(8..end)?;
        (crc32fast::hash(payload) == crc).then_some(())?;
        Some((Record::decode(payload).ok()?, &bytes[end..]))
    })();
    parsed.map_or(Step::Damaged, |(record, rest)| Step::Record(record, rest))
}

/// Reads a segment: what is in it, its marks, and how many damaged places. `None`: not even its header can be read.
fn scan(number: u64, path: &Path) -> Option<(Segment, Marks, u64)> {
    let bytes = fs::read(path).ok()?;
    let (boot, next_seq, mut rest) = header(&bytes)?;
    let mut segment = Segment {
        number,
        boot,
        path: path.to_owned(),
        bytes: 0,
        first_seq: 0,
        last_seq: next_seq - 1,
        facts: 0,
    };
    let mut marks = Marks::new();
    let mut damaged = 0;
    loop {
        match next_record(rest) {
            Step::Record(record, after) => {
                rest = after;
                if !record.mark_name.is_empty() {
                    marks.insert(record.mark_name, record.mark_position);
                }
                if let Some(fact) = record.fact {
                    if segment.first_seq == 0 {
                        segment.first_seq = fact.seq;
                    }
                    segment.last_seq = fact.seq;
                    segment.facts += 1;
                }
            }
            Step::End => break,
            Step::Damaged => {
                damaged = 1;
                break;
            }
        }
    }
    segment.bytes = (bytes.len() - rest.len()) as u64;
    Some((segment, marks, damaged))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use why502_proto::{Kind, v1};

    use super::*;

    fn config(dir: &Path) -> SpoolConfig {
        SpoolConfig { dir: dir.to_owned(), bytes_max: 64 << 20 }
    }

    fn open(dir: &Path) -> (Spool, Opened) {
        Spool::open(config(dir), "boot-a").unwrap()
    }

    fn fact(pid: u32) -> Fact {
        let exited = v1::ProcessExited { pid, ..v1::ProcessExited::default() };
        Fact { kind: Some(Kind::ProcessExited(exited)), ..Fact::default() }
    }

    fn pids(spool: &Spool, after: u64) -> Vec<u32> {
        let facts = spool.read_after("boot-a", after, usize::MAX, usize::MAX).unwrap();
        assert!(facts.is_sorted_by(|a, b| a.seq < b.seq));
        facts
            .into_iter()
            .map(|fact| match fact.kind {
                Some(Kind::ProcessExited(exited)) => exited.pid,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn mark(position: u32) -> Mark {
        Mark { name: "journal".into(), position: position.to_string() }
    }

    proptest! {
        /// Against a model, with a crash (drop and open again) at any point.
        #[test]
        fn holds_what_it_took(steps in proptest::collection::vec((0u8..4, 1u32..40), 1..40)) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = open(dir.path()).0;
            let (mut model, mut next, mut marked) = (Vec::new(), 1u32, None);
            for (step, n) in steps {
                match step {
                    0 => spool = open(dir.path()).0,
                    1 => {
                        let acked = u64::from(n).min(spool.next_seq() - 1);
                        spool.forget("boot-a", acked);
                    }
                    _ => {
                        let mut batch: Vec<_> =
                            (next..next + n).map(|pid| (Some(fact(pid)), Some(mark(pid)))).collect();
                        spool.append(&mut batch).unwrap();
                        model.extend(next..next + n);
                        next += n;
                        marked = Some((next - 1).to_string());
                    }
                }
                prop_assert_eq!(spool.next_seq(), u64::from(next));
                prop_assert_eq!(spool.marks().get("journal").cloned(), marked.clone());
                let held = pids(&spool, 0);
                prop_assert!(model.ends_with(&held), "{:?} is no end of {:?}", held, model);
            }
        }

        /// One flipped bit, or a cut tail: the facts before it are there, and the spool goes on.
        #[test]
        fn damage_costs_only_itself(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = open(dir.path()).0;
            for pid in 1..=20 {
                spool.append(&mut [(Some(fact(pid)), None)]).unwrap();
            }
            drop(spool);
            let path = list(dir.path()).unwrap().into_values().next().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            fs::write(&path, &bytes).unwrap();

            let (mut spool, opened) = open(dir.path());
            let kept = pids(&spool, 0);
            prop_assert!((1..=20).collect::<Vec<_>>().starts_with(&kept));
            // A cut between two records cannot be told from a spool that ended there.
            prop_assert!(opened.lost.count > 0 || kept.len() == 20 || cut || at < 16, "{:?}", opened);
            spool.append(&mut [(Some(fact(99)), None)]).unwrap();
            drop(spool);
            let mut expected = kept;
            expected.push(99);
            prop_assert_eq!(pids(&open(dir.path()).0, 0), expected);
        }
    }

    #[test]
    fn the_bound_costs_the_oldest_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { dir: dir.path().to_owned(), bytes_max: 9 << 20 };
        let (mut spool, _) = Spool::open(config, "boot-a").unwrap();
        let mut lost = Lost::default();
        let text = "x".repeat(1000);
        for _ in 0..12 {
            let words = v1::UnitLastWords { lines: vec![text.clone()], ..Default::default() };
            let fact = Fact { kind: Some(Kind::UnitLastWords(words)), ..Fact::default() };
            let mut batch = vec![(Some(fact), Some(mark(7))); 1000];
            spool.append(&mut batch).unwrap();
            if let Some(more) = spool.enforce_bound() {
                assert_eq!(more.first_seq, lost.last_seq + 1, "no gap between two losses");
                lost = Lost { count: lost.count + more.count, ..more };
            }
        }
        assert!(spool.bytes() <= 9 << 20);
        assert_eq!(lost.count, lost.last_seq, "what is told is what is gone");
        let left = spool.read_after("boot-a", 0, usize::MAX, usize::MAX).unwrap();
        assert_eq!(left[0].seq, lost.last_seq + 1);
        assert_eq!(left.last().unwrap().seq, 12_000);
        assert_eq!(open(dir.path()).0.marks()["journal"], "7");
    }

    #[test]
    fn another_boot_keeps_its_facts_and_starts_at_one() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).0.append(&mut [(Some(fact(1)), Some(mark(1)))]).unwrap();
        let (mut spool, opened) = Spool::open(config(dir.path()), "boot-b").unwrap();
        assert!(!opened.continued);
        assert_eq!(spool.next_seq(), 1);
        assert_eq!(spool.boots(), ["boot-a", "boot-b"]);
        spool.append(&mut [(Some(fact(2)), None)]).unwrap();
        assert_eq!(pids(&spool, 0), [1]);
        spool.forget("boot-a", 1);
        assert_eq!(spool.boots(), ["boot-b"]);
    }

    #[test]
    fn a_lost_directory_does_not_reuse_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path()).0;
        spool.append(&mut [(Some(fact(1)), Some(mark(3))), (Some(fact(2)), None)]).unwrap();
        spool.renumber_after(100).unwrap();
        let facts = spool.read_after("boot-a", 100, 10, 1 << 20).unwrap();
        assert_eq!(facts.iter().map(|fact| fact.seq).collect::<Vec<_>>(), [101, 102]);
        let spool = open(dir.path()).0;
        assert_eq!(spool.next_seq(), 103);
        assert_eq!(spool.marks()["journal"], "3");
    }

    #[test]
    fn a_batch_is_cut_by_count_and_by_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path()).0;
        spool.append(&mut (1..=10).map(|pid| (Some(fact(pid)), None)).collect::<Vec<_>>()).unwrap();
        assert_eq!(spool.read_after("boot-a", 2, 3, 1 << 20).unwrap().len(), 3);
        assert_eq!(spool.read_after("boot-a", 0, 100, 1).unwrap().len(), 1, "one always goes");
    }
}
