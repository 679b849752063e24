//! A configuration with everything it includes, below a root that is given.
//!
//! Follows `ngx_conf_include`: relative names are relative to the directory of the main file; a name with `*?[` may
//! match nothing, any other has to be there; matches are taken in byte order, as glob(3) sorts them in the C locale.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::syntax::{Directive, Place, Problem, parse};

/// Includes inside includes. nginx has no bound and dies of a cycle; people nest three or four.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Files of one configuration: a file per site on the largest shared hosts, twice.
const FILES_MAX: usize = 20_000;
/// Bytes of one configuration; the largest generated ones have some 10 MB.
const BYTES_MAX: u64 = 64 << 20;

/// A configuration as text tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Directives of the main file, with includes expanded in place.
    pub directives: Vec<Directive>,
    /// What was not understood.
    pub problems: Vec<Problem>,
    /// Files that were read, and directories in which patterns were looked for, without the root.
    pub watched: Vec<PathBuf>,
    /// The main file could be read.
    pub readable: bool,
}

/// Reads `main` and what it includes. `extra` are main-level directives from the command line (`-g`).
pub fn load(root: &Path, main: &Path, extra: &str) -> Loaded {
    let conf_prefix = main.parent().unwrap_or(Path::new("/")).to_owned();
    let mut loader = Loader { root, conf_prefix, bytes: 0, files: 0, loaded: Loaded::default() };
    let (mut directives, _) = parse(extra.as_bytes(), &"-g".into());
    let place = Place { file: main.to_string_lossy().into(), line: 0 };
    let read = loader.file(main, &place, 0);
    loader.loaded.readable = read.is_some();
    directives.extend(read.unwrap_or_default());
    Loaded { directives, ..loader.loaded }
}

/// `path` as it is found below `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

struct Loader<'a> {
    root: &'a Path,
    conf_prefix: PathBuf,
    bytes: u64,
    files: usize,
    loaded: Loaded,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, from: &Place, depth: usize) -> Option<Vec<Directive>> {
        if self.files >= FILES_MAX || self.bytes >= BYTES_MAX {
            self.problem(from, "configuration is larger than this program reads");
            return None;
        }
        self.files += 1;
        self.loaded.watched.push(path.to_owned());
        let mut bytes = Vec::new();
        let read = fs::metadata(below(self.root, path)).and_then(|metadata| {
            // A fifo or device would block or never end.
            if !metadata.is_file() {
                return Err(std::io::Error::other("not a regular file"));
            }
            let file = fs::File::open(below(self.root, path))?;
            file.take(BYTES_MAX - self.bytes).read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            self.problem(from, &format!("cannot read {}: {error}", path.display()));
            return None;
        }
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let name: Arc<str> = path.to_string_lossy().into();
        let (directives, problems) = parse(&bytes, &name);
        self.loaded.problems.extend(problems);
        Some(self.expand(directives, depth))
    }

    fn expand(&mut self, directives: Vec<Directive>, depth: usize) -> Vec<Directive> {
        let mut expanded = Vec::with_capacity(directives.len());
        for mut directive in directives {
            if directive.name == "include" && directive.block.is_none() {
                self.include(&directive, depth, &mut expanded);
                continue;
            }
            directive.block = directive.block.map(|block| self.expand(block, depth));
            expanded.push(directive);
        }
        expanded
    }

    fn include(&mut self, directive: &Directive, depth: usize, expanded: &mut Vec<Directive>) {
        let [name] = directive.args.as_slice() else {
            self.problem(&directive.place, "include takes one name");
            return;
        };
        if depth >= INCLUDE_DEPTH_MAX {
            self.problem(&directive.place, "includes are nested too deep");
            return;
        }
        let path = self.conf_prefix.join(name);
        if !name.contains(['*', '?', '[']) {
            expanded.extend(self.file(&path, &directive.place, depth + 1).unwrap_or_default());
            return;
        }
        for path in self.glob(&path) {
            expanded.extend(self.file(&path, &directive.place, depth + 1).unwrap_or_default());
        }
    }

    /// Paths that match, sorted.
    fn glob(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.components().skip(1) {
            let part = part.as_os_str();
            if !part.as_bytes().iter().any(|byte| b"*?[".contains(byte)) {
                found.iter_mut().for_each(|path| path.push(part));
                continue;
            }
            let mut next = Vec::new();
            for directory in found {
                let entries = fs::read_dir(below(self.root, &directory));
                let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
                next.extend(
                    names.filter(|name| matches(part, name)).map(|name| directory.join(name)),
                );
                self.loaded.watched.push(directory);
            }
            next.truncate(FILES_MAX);
            found = next;
        }
        found.retain(|path| fs::symlink_metadata(below(self.root, path)).is_ok());
        found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        found
    }

    fn problem(&mut self, place: &Place, text: &str) {
        self.loaded.problems.push(Problem { place: place.clone(), text: text.to_owned() });
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

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = below(root, Path::new(name));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn names(directives: &[Directive]) -> String {
        directives.iter().map(|directive| directive.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn includes_are_relative_sorted_and_may_match_nothing() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                (
                    "/etc/nginx/nginx.conf",
                    "a; include conf.d/*.conf; include none/*; include one; b;",
                ),
                ("/etc/nginx/conf.d/20-z.conf", "z;"),
                ("/etc/nginx/conf.d/100.conf", "c;"),
                ("/etc/nginx/conf.d/.hidden.conf", "hidden;"),
                ("/etc/nginx/conf.d/x.conf.bak", "bak;"),
                ("/etc/nginx/one", "one;"),
            ],
        );
        let loaded = load(root.path(), Path::new("/etc/nginx/nginx.conf"), "daemon off;");
        assert_eq!(names(&loaded.directives), "daemon a c z one b");
        assert_eq!(loaded.problems, []);
        assert_eq!(&*loaded.directives[2].place.file, "/etc/nginx/conf.d/100.conf");
    }

    #[test]
    fn cycles_and_missing_files_are_told_with_their_place() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("/n.conf", "include n.conf;\ninclude missing.conf;\nb;")]);
        let loaded = load(root.path(), Path::new("/n.conf"), "");
        assert!(names(&loaded.directives).ends_with('b'));
        let texts: Vec<_> = loaded.problems.iter().map(|problem| &problem.text).collect();
        assert!(texts.iter().any(|text| text.contains("nested too deep")), "{texts:?}");
        let missing = loaded.problems.iter().find(|problem| problem.text.contains("missing.conf"));
        assert_eq!(missing.unwrap().place.line, 2);
    }

    #[test]
    fn a_missing_main_file_is_not_readable() {
        let root = tempfile::tempdir().unwrap();
        let loaded = load(root.path(), Path::new("/etc/nginx/nginx.conf"), "");
        assert!(!loaded.readable);
    }

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
