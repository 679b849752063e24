//! The text of a memory cgroup's files, v1 and v2, and of PSI (Documentation/admin-guide/cgroup-v2.rst,
//! cgroup-v1/memory.rst, accounting/psi.rst).

use std::path::{Path, PathBuf};

use super::proc_file::read;

/// v1 shows "no limit" as the largest multiple of a page, which depends on the page size; no machine has 2^62 bytes.
const UNLIMITED: u64 = 1 << 62;

/// Which hierarchy has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A memory cgroup by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    /// "/system.slice/api.service"
    pub(super) path: String,
}

/// One reading of a memory cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// `None`: no limit of its own.
    pub(super) limit: Option<u64>,
    pub(super) current: u64,
    pub(super) anon: Option<u64>,
    /// Processes of it that the OOM killer took.
    pub(super) oom_kill: u64,
    /// How often its limit was met.
    pub(super) max: u64,
    /// How often its throttle was met; v2 only.
    pub(super) high: u64,
}

/// Where the memory of a process is counted, by the text of /proc/PID/cgroup. `None`: nowhere, or in the root.
pub(super) fn place(text: &str) -> Option<Place> {
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "memory") {
            unified = Some((Version::V1, path));
            break;
        }
        if controllers.is_empty() {
            unified = Some((Version::V2, path));
        }
    }
    let (version, path) = unified?;
    // A path outside of the agent's own cgroup namespace begins with "/..".
    let visible = path.len() > 1 && !path.split('/').any(|part| part == "..");
    visible.then(|| Place { version, path: path.to_owned() })
}

impl Place {
    /// Its directory below /sys.
    pub(super) fn directory(&self, sys: &Path) -> PathBuf {
        let mount = match self.version {
            Version::V1 => sys.join("fs/cgroup/memory"),
            Version::V2 => sys.join("fs/cgroup"),
        };
        mount.join(self.path.trim_start_matches('/'))
    }

    /// The cgroups above it, nearest first, without the root.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = Self> {
        let path = Path::new(&self.path);
        path.ancestors()
            .skip(1)
            .filter_map(|path| path.to_str())
            .filter(|path| path.len() > 1)
            .map(|path| Self { version: self.version, path: path.to_owned() })
    }

    /// Reads it whole. `None`: it is not there, or has no memory controller.
    pub(super) fn read(&self, sys: &Path) -> Option<Reading> {
        let directory = self.directory(sys);
        let text = |name: &str| {
            read(&directory.join(name)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        };
        let number = |name: &str| text(name).as_deref().and_then(limit);
        match self.version {
            Version::V1 => Some(Reading {
                limit: number("memory.limit_in_bytes"),
                current: number("memory.usage_in_bytes")?,
                anon: text("memory.stat").and_then(|stat| keyed(&stat, "total_rss")),
                oom_kill: keyed(&text("memory.oom_control")?, "oom_kill").unwrap_or(0),
                max: number("memory.failcnt").unwrap_or(0),
                high: 0,
            }),
            Version::V2 => {
                let events = text("memory.events")?;
                Some(Reading {
                    limit: number("memory.max"),
                    current: number("memory.current")?,
                    anon: text("memory.stat").and_then(|stat| keyed(&stat, "anon")),
                    oom_kill: keyed(&events, "oom_kill")?,
                    max: keyed(&events, "max").unwrap_or(0),
                    high: keyed(&events, "high").unwrap_or(0),
                })
            }
        }
    }
}

/// A number on a line of its own; `max` and what means the same are none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED)
}

/// The number behind `key` in a file of `key number` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    };
    text.lines().find_map(value)
}

/// `avg10` of the lines `some` and `full` of a pressure file, hundredths of a percent. Kernels before 5.13 have no line
/// `full` in some files.
pub(super) fn pressure(text: &str) -> Option<(u32, u32)> {
    let avg10 = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
        let (whole, hundredths) = value.split_once('.')?;
        if hundredths.len() != 2 {
            return None;
        }
        Some(whole.parse::<u32>().ok()?.checked_mul(100)? + hundredths.parse::<u32>().ok()?)
    };
    Some((avg10("some ")?, avg10("full ").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_memory_is_counted() {
        let unified = place("0::/system.slice/api.service\n").unwrap();
        assert_eq!(
            (unified.version, unified.path.as_str()),
            (Version::V2, "/system.slice/api.service")
        );
        let hybrid = "9:name=systemd:/a.service\n4:cpu,memory:/b.service\n0::/\n";
        let hybrid = place(hybrid).unwrap();
        assert_eq!((hybrid.version, hybrid.path.as_str()), (Version::V1, "/b.service"));
        assert_eq!(place("0::/\n"), None, "the root has no limit");
        assert_eq!(place("4:memory:/../../other\n"), None, "outside of the namespace");
        assert_eq!(place("garbage"), None);
        let above: Vec<_> = unified.ancestors().map(|place| place.path).collect();
        assert_eq!(above, ["/system.slice"]);
    }

    #[test]
    fn files_of_v2() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("fs/cgroup/a.service");
        std::fs::create_dir_all(&directory).unwrap();
        let place = Place { version: Version::V2, path: "/a.service".to_owned() };
        assert_eq!(place.read(root.path()), None);
        // Recorded on 6.1.
        let files = [
            ("memory.events", "low 0\nhigh 3\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"),
            ("memory.max", "536870912\n"),
            ("memory.current", "536866816\n"),
            ("memory.stat", "anon 498073600\nfile 8192\nkernel 1024\n"),
        ];
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let expected = Reading {
            limit: Some(536_870_912),
            current: 536_866_816,
            anon: Some(498_073_600),
            oom_kill: 1,
            max: 12,
            high: 3,
        };
        assert_eq!(place.read(root.path()), Some(expected));
        std::fs::write(directory.join("memory.max"), "max\n").unwrap();
        assert_eq!(place.read(root.path()).unwrap().limit, None);
    }

    #[test]
    fn files_of_v1() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("fs/cgroup/memory/a.service");
        std::fs::create_dir_all(&directory).unwrap();
        // Recorded on 6.18.
        let files = [
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.failcnt", "77\n"),
            ("memory.stat", "cache 8\nrss 1\ntotal_cache 8\ntotal_rss 4\n"),
        ];
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
        let place = Place { version: Version::V1, path: "/a.service".to_owned() };
        let expected =
            Reading { limit: None, current: 4096, anon: Some(4), oom_kill: 2, max: 77, high: 0 };
        assert_eq!(place.read(root.path()), Some(expected));
    }

    #[test]
    fn pressure_files() {
        let text = "some avg10=1.53 avg60=0.00 avg300=0.00 total=503972\n\
            full avg10=0.07 avg60=0.00 avg300=0.00 total=482724\n";
        assert_eq!(pressure(text), Some((153, 7)));
        assert_eq!(
            pressure("some avg10=100.00 avg60=0.00 avg300=0.00 total=1\n"),
            Some((10000, 0))
        );
        for garbage in ["", "some avg10=", "some avg10=1.5", "full avg10=1.00"] {
            assert_eq!(pressure(garbage), None, "{garbage}");
        }
    }
}
