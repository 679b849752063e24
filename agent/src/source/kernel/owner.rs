//! Which processes hold a socket: the links below /proc/PID/fd that name its inode.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat_raw};

/// Holders remembered for one listener: enough for any prefork server; the oldest come first.
pub(super) const HOLDERS_MAX: usize = 64;

/// What a search found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Pids by inode of the socket, in the order in which they were searched.
    pub(super) holders: BTreeMap<u64, Vec<u32>>,
    /// The agent may not look into some process.
    pub(super) denied: bool,
}

/// Looks for the holders of `wanted` among `pids`.
pub(super) fn search(
    proc: &Path,
    pids: impl IntoIterator<Item = u32>,
    wanted: &BTreeSet<u64>,
) -> Found {
    let mut found = Found::default();
    for pid in pids {
        let result = each_socket(proc, pid, |inode| {
            if wanted.contains(&inode) {
                let holders = found.holders.entry(inode).or_default();
                if holders.last() != Some(&pid) && holders.len() < HOLDERS_MAX {
                    holders.push(pid);
                }
            }
        });
        // A process that is gone holds nothing.
        found.denied |= result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    }
    found
}

fn each_socket(proc: &Path, pid: u32, mut each: impl FnMut(u64)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(proc.join(format!("{pid}/fd")), flags, Mode::empty())?;
    let mut entries = [std::mem::MaybeUninit::uninit(); 4096];
    let mut target = [0u8; 64];
    let mut listing = RawDir::new(&directory, &mut entries);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().first() == Some(&b'.') {
            continue;
        }
        // Closed in between is not an error.
        let Ok(length) = readlinkat_raw(&directory, name, &mut target[..]) else { continue };
        if let Some(inode) = target.get(..length).and_then(socket_inode) {
            each(inode);
        }
    }
    Ok(())
}

/// The number in `socket:[123]`.
fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn links_of_sockets_and_of_others() {
        assert_eq!(socket_inode(b"socket:[4026]"), Some(4026));
        for other in [&b"pipe:[4026]"[..], b"socket:[]", b"socket:[1", b"/tmp/socket:[1]", b""] {
            assert_eq!(socket_inode(other), None);
        }
    }

    #[test]
    fn this_process_holds_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let link = std::fs::read_link(link).unwrap();
        let inode = socket_inode(link.to_str().unwrap().as_bytes()).unwrap();
        let wanted = BTreeSet::from([inode]);
        let found = search(Path::new("/proc"), [u32::MAX, std::process::id()], &wanted);
        assert_eq!(found.holders[&inode], [std::process::id()]);
        let none = search(Path::new("/proc"), [1], &wanted);
        assert!(none.holders.is_empty());
    }
}
