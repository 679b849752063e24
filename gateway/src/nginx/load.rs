//! A configuration with everything it includes, below a root that is given.
//!
//! Follows `ngx_conf_include`: relative names are relative to the directory of the main file; a name with `*?[` may
//! match nothing, any other has to be there; matches are taken in byte order, as glob(3) sorts them in the C locale.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::syntax::{Directive, parse};
use crate::files::Files;
use crate::place::{Place, Problem};

/// Includes inside includes. nginx has no bound and dies of a cycle; people nest three or four.
const INCLUDE_DEPTH_MAX: usize = 16;

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
    let files = Files::new(root);
    let mut loader = Loader { files, conf_prefix, problems: Vec::new() };
    let (mut directives, _) = parse(extra.as_bytes(), &"-g".into());
    let place = Place { file: main.to_string_lossy().into(), line: 0 };
    let read = loader.file(main, &place, 0);
    let readable = read.is_some();
    directives.extend(read.unwrap_or_default());
    Loaded { directives, problems: loader.problems, watched: loader.files.watched, readable }
}

struct Loader {
    files: Files,
    conf_prefix: PathBuf,
    problems: Vec<Problem>,
}

impl Loader {
    fn file(&mut self, path: &Path, from: &Place, depth: usize) -> Option<Vec<Directive>> {
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problem(from, &format!("cannot read {}: {error}", path.display()));
                return None;
            }
        };
        let name: Arc<str> = path.to_string_lossy().into();
        let (directives, problems) = parse(&bytes, &name);
        self.problems.extend(problems);
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
        for path in self.files.glob(&path) {
            expanded.extend(self.file(&path, &directive.place, depth + 1).unwrap_or_default());
        }
    }

    fn problem(&mut self, place: &Place, text: &str) {
        self.problems.push(Problem { place: place.clone(), text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::below;

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
}
