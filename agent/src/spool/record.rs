//! One record of a spool file: found again after damage, and worth nothing unless every byte of it is right.
//!
//! `magic u16 | length u32 | crc32 u32 | payload`, little endian; the checksum covers length and payload. A reader that
//! meets anything else searches for the next place where a whole record stands, so damage costs only what
//! it hit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use prost::Message;
use why502_proto::v1;

/// Begins every record, so that a search after damage checks few checksums.
const MAGIC: [u8; 2] = [0x50, 0x2a];

const HEADER_LEN: usize = 10;

/// Largest payload: a fact has some 200 bytes, and the longest (many lines of a log) stays below 32 KiB.
pub(super) const PAYLOAD_MAX: usize = 64 * 1024;

/// What the reader holds in memory: two records of the largest size.
const BUFFER_MAX: usize = 2 * (HEADER_LEN + PAYLOAD_MAX);

/// First read of a buffer; what follows a live tail is short.
const BUFFER_MIN: usize = 16 * 1024;

/// What one record holds. Fact and mark stand together, so that no crash parts them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(message, optional, tag = "1")]
    pub(super) fact: Option<v1::Fact>,
    #[prost(string, tag = "2")]
    pub(super) mark: String,
    #[prost(string, tag = "3")]
    pub(super) position: String,
    /// The segment is complete: what is missing before this place was lost.
    #[prost(bool, tag = "4")]
    pub(super) end: bool,
}

/// Appends the record of `entry`. `false`, and nothing appended: it is larger than [`PAYLOAD_MAX`].
pub(super) fn write(entry: &Entry, out: &mut Vec<u8>) -> bool {
    let payload = entry.encode_to_vec();
    let Some(length) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_MAX)
    else {
        return false;
    };
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(length, &payload).to_le_bytes());
    out.extend_from_slice(&payload);
    true
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// The record at the beginning of `bytes`, and its length in the file.
fn parse(bytes: &[u8]) -> Option<(Entry, usize)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let size = usize::try_from(length).ok().filter(|size| *size <= PAYLOAD_MAX)?;
    let payload = rest.get(..size)?;
    if checksum(length, payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((Entry::decode(payload).ok()?, HEADER_LEN + size))
}

/// What stands at a place of a file.
#[derive(Debug)]
pub(super) enum Read {
    /// A record. `damaged` bytes before it were none.
    Entry {
        /// What it holds.
        entry: Box<Entry>,
        /// Bytes before it that are no record.
        damaged: u64,
    },
    /// The end. `damaged` bytes before it were no record.
    End {
        /// Bytes before it that are no record.
        damaged: u64,
    },
}

/// Reads records from `offset` on, up to `end`, with bounded memory.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a File,
    /// File offset of the next record.
    offset: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where in `buffer` the next record begins.
    at: usize,
    want: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, offset: u64, end: u64) -> Self {
        Self { file, offset, end, buffer: Vec::new(), at: 0, want: BUFFER_MIN }
    }

    /// Where the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record, behind whatever is none.
    pub(super) fn next(&mut self) -> io::Result<Read> {
        let mut damaged = 0;
        loop {
            if let Some((entry, length)) = parse(&self.buffer[self.at..]) {
                self.advance(length);
                return Ok(Read::Entry { entry: Box::new(entry), damaged });
            }
            // A record may be cut by the end of the buffer: judge only what is there as a whole.
            if self.buffer.len() - self.at < HEADER_LEN + PAYLOAD_MAX && self.fill()? {
                continue;
            }
            let rest = &self.buffer[self.at..];
            if rest.is_empty() {
                return Ok(Read::End { damaged });
            }
            let step =
                1 + rest[1..].iter().position(|byte| *byte == MAGIC[0]).unwrap_or(rest.len() - 1);
            self.advance(step);
            damaged += step as u64;
        }
    }

    fn advance(&mut self, by: usize) {
        self.at += by;
        self.offset += by as u64;
    }

    /// Reads more behind what is there. `false`: there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let have = self.buffer.len();
        let from = self.offset + have as u64;
        let left = usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX);
        let room = left.min(self.want.max(have)).min(BUFFER_MAX - have);
        self.want = BUFFER_MAX;
        self.buffer.resize(have + room, 0);
        let got = self.file.read_at(&mut self.buffer[have..], from)?;
        self.buffer.truncate(have + got);
        Ok(got > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64, text: &str) -> Entry {
        let fact = v1::Fact { seq, ..v1::Fact::default() };
        Entry { fact: Some(fact), mark: text.to_owned(), ..Entry::default() }
    }

    fn read_all(bytes: &[u8]) -> (Vec<Entry>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut reader = Reader::new(&file, 0, bytes.len() as u64);
        let (mut entries, mut lost) = (Vec::new(), 0);
        loop {
            match reader.next().unwrap() {
                Read::Entry { entry, damaged } => {
                    entries.push(*entry);
                    lost += damaged;
                }
                Read::End { damaged } => return (entries, lost + damaged),
            }
        }
    }

    #[test]
    fn a_record_that_is_too_large_is_refused() {
        let mut bytes = Vec::new();
        assert!(!write(&entry(1, &"x".repeat(PAYLOAD_MAX)), &mut bytes));
        assert!(bytes.is_empty());
        assert!(write(&entry(1, &"x".repeat(PAYLOAD_MAX - 100)), &mut bytes));
        assert!(write(&entry(2, ""), &mut bytes));
        assert_eq!(read_all(&bytes).0.len(), 2, "the largest record is read back");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damage_costs_only_what_it_hits(
            lengths in proptest::collection::vec(0usize..3000, 1..12), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for (seq, length) in lengths.iter().enumerate() {
                write(&entry(seq as u64 + 1, &"y".repeat(*length)), &mut bytes);
                ends.push(bytes.len());
            }
            let at = at.index(bytes.len());
            let hit = ends.iter().position(|end| at < *end).unwrap() as u64 + 1;
            bytes[at] ^= 1 << bit;
            let (entries, lost) = read_all(&bytes);
            let seqs: Vec<u64> = entries.iter().map(|entry| entry.fact.as_ref().unwrap().seq).collect();
            let expected: Vec<u64> = (1..=lengths.len() as u64).filter(|seq| *seq != hit).collect();
            prop_assert_eq!(seqs, expected);
            prop_assert!(lost > 0);
        }
    }
}
