//! Files of a configuration, read below a root that is given, within bounds.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Files of one configuration: a file per site on the largest shared hosts, twice.
const FILES_MAX: usize = 20_000;
/// Bytes of one configuration; the largest generated ones have some 10 MB.
const BYTES_MAX: u64 = 64 << 20;

/// `path` as it is found below `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Reads the files of one configuration, and keeps which they were.
#[derive(Debug)]
pub struct Files {
    /// Where the gateway's `/` is.
    pub root: PathBuf,
    /// Files that were read, and directories in which patterns were looked for, without the root.
    pub watched: Vec<PathBuf>,
    bytes: u64,
    files: usize,
}

impl Files {
    /// Nothing is read yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), watched: Vec::new(), bytes: 0, files: 0 }
    }

    /// The bytes of a file. The error says what is wrong without the path.
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        if self.files >= FILES_MAX || self.bytes >= BYTES_MAX {
            return Err(io::Error::other("configuration is larger than this program reads"));
        }
        self.files += 1;
        self.watched.push(path.to_owned());
        let path = below(&self.root, path);
        // A fifo or device would block or never end.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(BYTES_MAX - self.bytes).read_to_end(&mut bytes)?;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(bytes)
    }

    /// Whether there is a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        below(&self.root, path).is_dir()
    }

    /// Whether something is there.
    pub fn is_there(&self, path: &Path) -> bool {
        below(&self.root, path).exists()
    }

    /// Paths that match, as glob(3) does in the C locale: sorted, hidden files only where the pattern has the dot.
    pub fn glob(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.components().skip(1) {
            let part = part.as_os_str();
            if !part.as_bytes().iter().any(|byte| b"*?[".contains(byte)) {
                found.iter_mut().for_each(|path| path.push(part));
                continue;
            }
            let mut next = Vec::new();
            for directory in found {
                let entries = fs::read_dir(below(&self.root, &directory));
                let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
                next.extend(
                    names.filter(|name| matches(part, name)).map(|name| directory.join(name)),
                );
                self.watched.push(directory);
            }
            next.truncate(FILES_MAX);
            found = next;
        }
        found.retain(|path| fs::symlink_metadata(below(&self.root, path)).is_ok());
        found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        found
    }
}

/// fnmatch(3) of one path component with FNM_PERIOD.
fn matches(pattern: &OsStr, name: &OsStr) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where to go on when the part after the last star does not fit.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => bracket(&pattern[p..], name[n]),
            Some(byte) => (*byte == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => {
                p += step;
                n += 1;
            }
            (None, Some((after, from))) => {
                (p, n) = (after, from + 1);
                star = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the bracket expression at the start of `pattern` if it holds `byte`.
fn bracket(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let begin = 1 + usize::from(negated);
    let end = begin + 1 + pattern.get(begin + 1..)?.iter().position(|byte| *byte == b']')?;
    let set = &pattern[begin..end];
    let mut held = false;
    let mut at = 0;
    while at < set.len() {
        if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            held |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            held |= set[at] == byte;
            at += 1;
        }
    }
    (held != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_shell_does() {
        let check = |pattern: &str, name: &str| matches(OsStr::new(pattern), OsStr::new(name));
        assert!(check("*.conf", "a.conf") && check("*", "a") && check("a*b*c", "axxbxxbc"));
        assert!(check("[a-c]?.conf", "b1.conf") && check("[!a]x", "bx") && !check("[!a]x", "ax"));
        assert!(
            !check("*.conf", "a.conf~")
                && !check("*", ".a")
                && !check("?", "")
                && !check("a", "ab")
        );
        assert!(check("[]a]", "]") && !check("[a", "a"));
    }
}
