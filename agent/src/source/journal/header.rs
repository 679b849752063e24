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

/// Offset of `state` in the header: online, offline or archived.
const STATE_AT: u64 = 16;

/// Offset of `n_entries` in the header.
const N_ENTRIES_AT: u64 = 152;

/// From `state` to the end of `n_entries`.
const PART: usize = 144;
const _: () = assert!(STATE_AT + PART as u64 == N_ENTRIES_AT + 8);

/// How many active files are watched: one for each machine id, and a host has one of those.
const FILES_MAX: usize = 8;

/// The active files of this host.
#[derive(Debug, Default)]
pub(super) struct Headers {
    files: Vec<(File, Header)>,
}

/// What matters of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    state: u8,
    entries: u64,
}

/// What headers tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// There are more records.
    pub(super) grown: bool,
    /// journald may have put a file away and begun another one.
    pub(super) turned: bool,
}

impl Headers {
    /// Opens the files that are active now.
    pub(super) fn open(root: &Path) -> Self {
        let open = |path: PathBuf| File::open(path).ok();
        let files = active_files(root).into_iter().filter_map(open).map(|file| {
            let header = header(&file).unwrap_or_default();
            (file, header)
        });
        Self { files: files.take(FILES_MAX).collect() }
    }

    /// What changed since the last call.
    pub(super) fn look(&mut self) -> Look {
        let mut look = Look::default();
        for (file, last) in &mut self.files {
            // A file that is cut off is as good as put away.
            let now = header(file).unwrap_or_default();
            look.grown |= now.entries != last.entries;
            look.turned |= now.state != last.state;
            *last = now;
        }
        look
    }
}

fn header(file: &File) -> io::Result<Header> {
    let mut part = [0; PART];
    file.read_exact_at(&mut part, STATE_AT)?;
    let (state, rest) = (part[0], part.last_chunk::<8>());
    Ok(Header { state, entries: rest.copied().map(u64::from_le_bytes).unwrap_or_default() })
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
        let same = Look::default();
        assert_eq!(headers.look(), same);
        file.seek(SeekFrom::Start(N_ENTRIES_AT)).unwrap();
        file.write_all(&7u64.to_le_bytes()).unwrap();
        assert_eq!(headers.look(), Look { grown: true, turned: false });
        assert_eq!(headers.look(), same);
        file.seek(SeekFrom::Start(STATE_AT)).unwrap();
        file.write_all(&[2]).unwrap();
        assert_eq!(headers.look(), Look { grown: false, turned: true });
        file.set_len(100).unwrap();
        assert!(headers.look().turned);
        assert_eq!(headers.look(), same);
    }
}
