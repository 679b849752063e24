//! Whether a journal file has grown, without waiting for journald to say so.
//!
//! journald tells its readers 0.25 to 0.45 s after it wrote a record, but the number of entries in the header of the
//! file changes at once: eight bytes to read instead of a wait. Layout: `struct Header` of systemd's journal-def.h,
//! a stable on-disk format.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where journals lie below a root: lost at reboot, and kept.
const DIRECTORIES: [&str; 2] = ["run/log/journal", "var/log/journal"];

/// The file that journald appends the records of the system and its services to.
const ACTIVE: &str = "system.journal";

/// Offset of `n_entries` in the header.
const N_ENTRIES_AT: u64 = 152;

/// How many active files are watched: one for each machine id, and a host has one of those.
const FILES_MAX: usize = 8;

/// The active files of this host.
#[derive(Debug, Default)]
pub(super) struct Headers {
    files: Vec<(File, u64)>,
}

impl Headers {
    /// Opens the files that are active now.
    pub(super) fn open(root: &Path) -> Self {
        let open = |path: PathBuf| File::open(path).ok();
        let files = active_files(root).into_iter().filter_map(open).map(|file| {
            let entries = entries(&file).unwrap_or_default();
            (file, entries)
        });
        Self { files: files.take(FILES_MAX).collect() }
    }

    /// Whether any has grown since the last call.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (file, last) in &mut self.files {
            let now = entries(file).unwrap_or(*last);
            changed |= now != *last;
            *last = now;
        }
        changed
    }
}

fn entries(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, N_ENTRIES_AT)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Why the journal cannot be read, and what would mend it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blind {
    pub(super) reason: String,
    pub(super) grant: String,
}

/// Whether the journal can be read at all. libsystemd itself opens what it may and is silent about the rest.
pub(super) fn sight(root: &Path) -> Result<(), Blind> {
    let mut denied = None;
    for directory in DIRECTORIES {
        let directory = root.join(directory);
        if let Err(error) = fs::read_dir(&directory)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            denied = Some((directory, error));
        }
    }
    for path in active_files(root) {
        match File::open(&path) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => denied = Some((path, error)),
        }
    }
    Err(match denied {
        Some((path, error)) => Blind {
            reason: format!("cannot read {}: {error}", path.display()),
            grant: "add the user of the agent to group systemd-journal".into(),
        },
        None => Blind {
            reason: "no journal in /run/log/journal or /var/log/journal".into(),
            grant: "run systemd-journald with Storage=auto, persistent or volatile".into(),
        },
    })
}

fn active_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in DIRECTORIES {
        let Ok(machines) = fs::read_dir(root.join(directory)) else { continue };
        files.extend(machines.flatten().map(|machine| machine.path().join(ACTIVE)));
    }
    files
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::*;

    #[test]
    fn a_new_entry_shows_in_the_header() {
        let root = tempfile::tempdir().unwrap();
        assert!(sight(root.path()).unwrap_err().reason.starts_with("no journal"));
        let machine = root.path().join("run/log/journal/0123");
        fs::create_dir_all(&machine).unwrap();
        assert!(sight(root.path()).unwrap_err().reason.starts_with("no journal"));
        let mut file = File::create(machine.join(ACTIVE)).unwrap();
        file.write_all(&[0; 256]).unwrap();
        assert_eq!(sight(root.path()), Ok(()));
        let mut headers = Headers::open(root.path());
        assert!(!headers.changed());
        file.seek(SeekFrom::Start(N_ENTRIES_AT)).unwrap();
        file.write_all(&7u64.to_le_bytes()).unwrap();
        assert!(headers.changed());
        assert!(!headers.changed());
        file.set_len(100).unwrap();
        assert!(!headers.changed());
    }
}
