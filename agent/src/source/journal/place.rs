//! Where in the journal to read: where an earlier reader stopped, or what comes from now on.

use systemd::Journal;
use systemd::journal::{OpenDirectoryOptions, OpenOptions};
use why502_proto::{Kind, v1};

use super::header::Blind;
use super::record::VALUE_MAX;
use crate::clock::Moment;

/// How far back a reader goes that was away for long. Older facts explain no incident of now.
const BACKLOG_MAX_US: i64 = 3_600_000_000;

/// Opens the journal below `root`.
pub(super) fn open(root: &str) -> systemd::Result<Journal> {
    let mut journal = if root == "/" {
        OpenOptions::default().system(true).local_only(true).open()?
    } else {
        OpenDirectoryOptions::default().os_root(true).open_directory(root)?
    };
    journal.set_data_threshold(VALUE_MAX)?;
    Ok(journal)
}

/// Goes to where the next record to read follows. Gives back a fact where records were lost on the way.
pub(super) fn seek(journal: &mut Journal, cursor: &str) -> systemd::Result<Option<v1::Fact>> {
    if cursor.is_empty() {
        to_tail(journal)?;
        return Ok(None);
    }
    let now = Moment::now();
    let left = left_at(cursor).map(|us| now.at_realtime(us).boottime_us);
    if journal.seek_cursor(cursor).is_err() {
        to_tail(journal)?;
        return Ok(Some(gap("its place in the journal was not valid", left)));
    }
    // libsystemd goes to the nearest record where the one of the cursor is gone, and does not say so.
    if journal.next()? == 0 {
        to_tail(journal)?;
        return Ok(Some(gap("records were removed before they were read", left)));
    }
    let oldest_us = u64::try_from(now.realtime_us - BACKLOG_MAX_US).unwrap_or(0);
    if journal.timestamp_usec()? < oldest_us {
        journal.seek_realtime_usec(oldest_us)?;
        return Ok(Some(gap("it was away for more than an hour", left)));
    }
    if journal.test_cursor(cursor)? {
        return Ok(None);
    }
    // We stand at the record that follows the gap, and it is to be read.
    if journal.previous()? == 0 {
        journal.seek_head()?;
    }
    Ok(Some(gap("records were removed before they were read", left)))
}

/// When journald took in the record of a cursor: its part "t=", microseconds since 1970 in hexadecimal.
fn left_at(cursor: &str) -> Option<i64> {
    let time = cursor.split(';').find_map(|part| part.strip_prefix("t="))?;
    i64::from_str_radix(time, 16).ok()
}

fn to_tail(journal: &mut Journal) -> systemd::Result<()> {
    journal.seek_tail()?;
    if journal.previous()? == 0 {
        journal.seek_head()?;
    }
    Ok(())
}

fn gap(reason: &str, since_us: Option<u64>) -> v1::Fact {
    blinded(Blind { reason: reason.into(), grant: String::new() }, since_us)
}

/// The fact that the journal is not seen, or was not.
pub(super) fn blinded(blind: Blind, since_us: Option<u64>) -> v1::Fact {
    fact(
        Moment::now(),
        Kind::SourceBlinded(v1::SourceBlinded {
            source: v1::Source::Journal.into(),
            scope: String::new(),
            reason: blind.reason,
            grant: blind.grant,
            since_us,
        }),
    )
}

/// A fact without its place in the sequence.
pub(super) fn fact(at: Moment, kind: Kind) -> v1::Fact {
    v1::Fact { seq: 0, boottime_us: at.boottime_us, realtime_us: at.realtime_us, kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cursor_tells_its_time() {
        let cursor = "s=00;i=1700d;b=37d37f91;m=18e9b5f20;t=661069279ca48;x=3037097fbaf4c5ee";
        assert_eq!(super::left_at(cursor), Some(0x6_6106_9279_ca48));
        assert_eq!(super::left_at("s=1;t=zz"), None);
        assert_eq!(super::left_at(""), None);
    }
}
