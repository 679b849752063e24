//! A record of the journal: the fields that are needed of it, see systemd.journal-fields(7).
//!
//! Fields that begin with `_` are journald's own and can be trusted; all others are what some process said.

/// Longest value that is kept of a field. Messages may have 1 MiB and more; what matters stands at their beginning.
pub(super) const VALUE_MAX: usize = 4096;

/// How many fields of one record are read; systemd-coredump writes some forty.
pub(super) const FIELDS_MAX: usize = 128;

/// Fields of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    fields: Vec<(String, String)>,
}

impl Record {
    /// Adds a field; of a repeated one the first counts.
    pub(super) fn add(&mut self, name: &str, value: &[u8]) {
        if self.fields.len() < FIELDS_MAX {
            self.fields.push((name.to_owned(), text(value)));
        }
    }

    /// Value of a field, "" where it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Value of a field that is a number.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.get(name).parse().ok()
    }
}

/// A value as text, at most [`VALUE_MAX`] bytes; what is not UTF-8 becomes U+FFFD.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(VALUE_MAX)]).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record from the text export format: a line per field.
    pub(in super::super) fn record(export: &str) -> Record {
        let mut record = Record::default();
        for line in export.trim().lines() {
            let (name, value) = line.trim().split_once('=').unwrap();
            record.add(name, value.as_bytes());
        }
        record
    }

    #[test]
    fn values_are_bounded_and_readable() {
        let mut record = record("MESSAGE=one\nMESSAGE=two\n_PID=17");
        assert_eq!(record.get("MESSAGE"), "one");
        assert_eq!(record.number::<u32>("_PID"), Some(17));
        assert_eq!(record.number::<u32>("MESSAGE"), None);
        record.add("LONG", &[0xff; 1 << 20]);
        assert_eq!(record.get("LONG").chars().count(), VALUE_MAX);
        for n in 0..1000 {
            record.add(&n.to_string(), b"");
        }
        assert_eq!(record.fields.len(), FIELDS_MAX);
    }
}
