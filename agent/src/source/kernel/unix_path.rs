//! What is at a unix socket path, and whether the gateway's user may connect to it (unix(7), path_resolution(7)).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Stat, lstat, readlink};
use why502_proto::v1::{self, UnixPathState};

use crate::source::UnixClient;

/// As many links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;
/// Listening sockets named because they look like the path.
const SIMILAR_MAX: usize = 5;
/// `S_IXUGO`'s bit for others; shifted for group and owner.
const SEARCH: u32 = 1;
const WRITE: u32 = 2;

/// A listening unix socket, as sock_diag tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) path: PathBuf,
    /// Low 32 bits of the inode at the path. `None`: it listens in another network namespace.
    pub(super) file_inode: Option<u32>,
}

/// What one path was found to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inspected {
    pub(super) fact: v1::UnixSocketPath,
    /// The deepest directory on the way that exists: where a change would show.
    pub(super) directory: PathBuf,
    /// Inode of what is at the path.
    pub(super) inode: Option<u64>,
}

/// The end of a walk down a path.
struct Walk {
    /// The last component, if it is there.
    found: Option<Stat>,
    directory: PathBuf,
    /// The first directory that the client may not search.
    denied: Option<(PathBuf, Stat)>,
    /// Where the last component is.
    place: PathBuf,
}

/// Looks at one path. An error says that the agent itself may not look.
pub(super) fn inspect(root: &Path, client: &UnixClient, bound: &[Bound]) -> io::Result<Inspected> {
    let walk = walk(root, &client.path, client.user.as_ref())?;
    let mut fact = v1::UnixSocketPath {
        address: format!("unix:{}", client.path.display()),
        client_uid: client.user.as_ref().map(|(uid, _)| *uid),
        client_gids: client.user.as_ref().map(|(_, gids)| gids.clone()).unwrap_or_default(),
        similar: similar(&client.path, bound),
        ..v1::UnixSocketPath::default()
    };
    let mut denied = walk.denied;
    let state = match walk.found {
        None => UnixPathState::Missing,
        Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            UnixPathState::NotASocket
        }
        Some(stat) => {
            (fact.mode, fact.uid, fact.gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
            if denied.is_none()
                && let Some(user) = &client.user
                && !allows(&walk.place, &stat, user, WRITE)
            {
                denied = Some((walk.place.clone(), stat));
            }
            if listens(&client.path, &walk.place, &stat, bound) {
                UnixPathState::Alive
            } else {
                UnixPathState::Stale
            }
        }
    };
    fact.set_state(state);
    if let Some((place, stat)) = denied {
        let place =
            place.strip_prefix(root).map_or(place.clone(), |rest| Path::new("/").join(rest));
        fact.denied_at = place.display().to_string();
        (fact.denied_mode, fact.denied_uid, fact.denied_gid) =
            (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
    }
    let inode = walk.found.map(|stat| stat.st_ino);
    Ok(Inspected { fact, directory: walk.directory, inode })
}

/// Walks down `path` as the kernel does for the client: each directory must be searchable, links are followed.
fn walk(root: &Path, path: &Path, user: Option<&(u32, Vec<u32>)>) -> io::Result<Walk> {
    let mut left: VecDeque<OsString> = parts(path);
    let mut place = root.to_path_buf();
    let mut directory = place.clone();
    let mut denied = None;
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        let above = lstat(&place)?;
        directory.clone_from(&place);
        if denied.is_none()
            && let Some(user) = user
            && !allows(&place, &above, user, SEARCH)
        {
            denied = Some((place.clone(), above));
        }
        if part == ".." {
            if place != root {
                place.pop();
            }
            continue;
        }
        let next = place.join(&part);
        let stat = match lstat(&next) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                return Ok(Walk { found: None, directory, denied, place: next });
            }
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::other("too many symbolic links"));
            }
            let target = readlink(&next, Vec::new())?;
            let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
            if target.is_absolute() {
                place = root.to_path_buf();
            }
            for part in parts(&target).into_iter().rev() {
                left.push_front(part);
            }
            continue;
        }
        place = next;
    }
    let found = lstat(&place).ok();
    Ok(Walk { found, directory, denied, place })
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Whether a user has a right on a file by its mode. Root always has; so does, for us, whoever an access control list
/// may have given it to: the mode does not tell then.
fn allows(place: &Path, stat: &Stat, (uid, gids): &(u32, Vec<u32>), right: u32) -> bool {
    let shift = if *uid == stat.st_uid {
        6
    } else if gids.contains(&stat.st_gid) {
        3
    } else {
        0
    };
    *uid == 0 || stat.st_mode >> shift & right == right || has_access_list(place)
}

fn has_access_list(place: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::lgetxattr(place, "system.posix_acl_access", &mut none[..])
        .is_ok_and(|size| size > 0)
}

/// Whether a listening socket is bound to the file.
fn listens(path: &Path, place: &Path, stat: &Stat, bound: &[Bound]) -> bool {
    let inode = u32::try_from(stat.st_ino & 0xffff_ffff).unwrap_or(u32::MAX);
    bound.iter().any(|socket| {
        let same_path = socket.path == path || socket.path == place;
        match socket.file_inode {
            Some(file_inode) if file_inode == inode => {
                // The number is unique only in its file system, so the name must agree too, whatever mount or link
                // the server saw it through.
                same_path || socket.path.file_name() == path.file_name()
            }
            // An overlay shows other inode numbers than the kernel keeps.
            Some(_) => same_path && is_overlay(place),
            // Of a socket in another network namespace only the name is known: it cannot be called stale.
            None => same_path || socket.path.file_name() == path.file_name(),
        }
    })
}

/// `OVERLAYFS_SUPER_MAGIC`
fn is_overlay(place: &Path) -> bool {
    rustix::fs::statfs(place).is_ok_and(|fs| fs.f_type == 0x794c_7630)
}

/// Paths of listening sockets in the same directory or with the same name.
fn similar(path: &Path, bound: &[Bound]) -> Vec<String> {
    let alike = |other: &&Bound| {
        other.path != path
            && (other.path.parent() == path.parent() || other.path.file_name() == path.file_name())
    };
    let mut similar: Vec<String> =
        bound.iter().filter(alike).map(|b| format!("unix:{}", b.path.display())).collect();
    similar.sort_unstable();
    similar.dedup();
    similar.truncate(SIMILAR_MAX);
    similar
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A host of its own, with /run/app/app.sock to be made in it.
    fn host() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        mode(root.path(), 0o755);
        let directory = root.path().join("run/app");
        std::fs::create_dir_all(&directory).unwrap();
        for path in ["run", "run/app"] {
            mode(&root.path().join(path), 0o755);
        }
        (root, directory.join("app.sock"))
    }

    fn look(root: &Path, user: Option<(u32, Vec<u32>)>, bound: &[Bound]) -> v1::UnixSocketPath {
        let client = UnixClient { path: "/run/app/app.sock".into(), user };
        inspect(root, &client, bound).unwrap().fact
    }

    fn inode(path: &Path) -> Option<u32> {
        Some(u32::try_from(std::fs::metadata(path).unwrap().ino() & 0xffff_ffff).unwrap())
    }

    #[test]
    fn missing_stale_alive_and_something_else() {
        let (root, socket) = host();
        assert_eq!(look(root.path(), None, &[]).state(), UnixPathState::Missing);
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(look(root.path(), None, &[]).state(), UnixPathState::Stale);
        let alive = Bound { path: socket.clone(), file_inode: inode(&socket) };
        assert_eq!(look(root.path(), None, &[alive]).state(), UnixPathState::Alive);
        let replaced = Bound { path: "/run/app/app.sock".into(), file_inode: Some(1) };
        assert_eq!(look(root.path(), None, &[replaced]).state(), UnixPathState::Stale);
        let elsewhere = Bound { path: "/c/app.sock".into(), file_inode: None };
        assert_eq!(look(root.path(), None, &[elsewhere]).state(), UnixPathState::Alive);
        let stranger = Bound { path: "/x/other.sock".into(), file_inode: inode(&socket) };
        assert_eq!(look(root.path(), None, &[stranger]).state(), UnixPathState::Stale);
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "").unwrap();
        assert_eq!(look(root.path(), None, &[]).state(), UnixPathState::NotASocket);
    }

    #[test]
    fn the_first_place_that_denies_is_named() {
        let (root, socket) = host();
        let _listener = UnixListener::bind(&socket).unwrap();
        let client = || Some((4711, vec![4712]));
        let denied = |user| look(root.path(), user, &[]).denied_at;
        mode(&socket, 0o666);
        assert_eq!(denied(client()), "");
        mode(&socket, 0o660);
        let fact = look(root.path(), client(), &[]);
        assert_eq!((fact.denied_at.as_str(), fact.denied_mode), ("/run/app/app.sock", 0o660));
        assert_eq!(denied(Some((0, vec![]))), "", "root is never denied");
        assert_eq!(denied(None), "", "nobody knows who connects");
        let group = std::fs::metadata(&socket).unwrap().gid();
        assert_eq!(denied(Some((4711, vec![group]))), "", "by its group");
        mode(&root.path().join("run/app"), 0o700);
        assert_eq!(denied(client()), "/run/app");
        mode(&root.path().join("run"), 0o700);
        assert_eq!(denied(client()), "/run", "the first one");
    }

    #[test]
    fn the_owner_may_have_less_than_others() {
        let (root, socket) = host();
        let _listener = UnixListener::bind(&socket).unwrap();
        mode(&socket, 0o066);
        if let Err(error) = chown(&socket, Some(4711), None) {
            eprintln!("only root can make another user the owner: {error}");
            return;
        }
        assert_eq!(look(root.path(), Some((4711, vec![])), &[]).denied_at, "/run/app/app.sock");
    }

    #[test]
    fn links_are_followed_below_the_root() {
        let (root, socket) = host();
        let real = root.path().join("srv");
        std::fs::create_dir(&real).unwrap();
        mode(&real, 0o755);
        std::fs::remove_dir(socket.parent().unwrap()).unwrap();
        symlink("/srv", root.path().join("run/app")).unwrap();
        let _listener = UnixListener::bind(real.join("app.sock")).unwrap();
        let fact = look(root.path(), None, &[]);
        assert_eq!(fact.state(), UnixPathState::Stale);
        symlink("/run/loop", root.path().join("run/loop")).unwrap();
        let client = UnixClient { path: "/run/loop/app.sock".into(), user: None };
        assert!(inspect(root.path(), &client, &[]).is_err());
    }

    #[test]
    fn sockets_that_look_like_it() {
        let bound = |path: &str| Bound { path: path.into(), file_inode: Some(1) };
        let all = [bound("/run/app/b.sock"), bound("/tmp/app.sock"), bound("/run/x.sock")];
        let (root, _) = host();
        let fact = look(root.path(), None, &all);
        assert_eq!(fact.similar, ["unix:/run/app/b.sock", "unix:/tmp/app.sock"]);
    }
}
