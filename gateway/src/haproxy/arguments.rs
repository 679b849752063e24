//! The words HAProxy was started with: `haproxy(1)`, `init_args()` of src/haproxy.c.

use std::path::{Path, PathBuf};

/// Flags whose next word is theirs.
const VALUED: [&str; 9] = ["-p", "-L", "-n", "-m", "-N", "-S", "-x", "-q=", "-G"];

/// What the words say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Files and directories, in their order.
    pub files: Vec<PathBuf>,
    /// `-L`: the name of this peer.
    pub peer: Option<String>,
}

/// Reads them; names are made absolute by `directory` and `-C`.
pub fn read(argv: &[String], directory: &Path) -> Arguments {
    let mut read = Arguments::default();
    let mut directory = directory.to_owned();
    let mut words = argv.iter().skip(1).map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-f" => read.files.extend(words.next().map(PathBuf::from)),
            "-C" => {
                if let Some(to) = words.next() {
                    directory = directory.join(to);
                }
            }
            "-L" => read.peer = words.next().map(str::to_owned),
            // Pids of the processes that it replaces, to the end or the next flag.
            "-sf" | "-st" => {}
            "--" => read.files.extend(words.by_ref().map(PathBuf::from)),
            _ if VALUED.contains(&word) => drop(words.next()),
            _ => {}
        }
    }
    for file in &mut read.files {
        *file = directory.join(&*file).components().collect();
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, files: &str) {
        let argv: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let found = read(&argv, Path::new("/srv")).files;
        let found: Vec<_> = found.iter().map(|path| path.to_string_lossy()).collect();
        assert_eq!(found.join(" "), files);
    }

    #[test]
    fn files_in_their_order() {
        check(
            "/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S /run/m.sock",
            "/etc/haproxy/haproxy.cfg",
        );
        check(
            "haproxy -D -f a.cfg -f conf.d -- c.cfg d.cfg",
            "/srv/a.cfg /srv/conf.d /srv/c.cfg /srv/d.cfg",
        );
        check("haproxy -C /etc -f a.cfg -sf 12 13 -x sockpair@4", "/etc/a.cfg");
        check("haproxy -f", "");
    }
}
