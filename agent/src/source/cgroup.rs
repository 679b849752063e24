//! Names in cgroup paths: which unit or container a process belongs to.
//!
//! Both hierarchies are understood: one line `0::/system.slice/api.service` (v2), or the line of the named
//! systemd hierarchy `1:name=systemd:/system.slice/api.service` (v1), see cgroups(7).

/// Unit and container of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// "api.service"; empty outside of units.
    pub unit: String,
    /// First 12 hex digits of the container's id; empty outside of containers.
    pub container: String,
    /// Path of the cgroup that systemd made, or the v2 path: "/system.slice/api.service".
    pub path: String,
}

/// Reads the text of /proc/PID/cgroup.
pub fn membership(text: &str) -> Membership {
    let mut path = "";
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, place) = (parts.next(), parts.next(), parts.next().unwrap_or(""));
        match controllers {
            // On hybrid hosts the v2 line is there too, but systemd keeps its names in its own hierarchy.
            Some("name=systemd") => {
                path = place;
                break;
            }
            Some("") => path = place,
            _ => {}
        }
    }
    of_path(path)
}

/// Reads a cgroup path, as in /proc/PID/cgroup or in a line of the OOM killer.
pub fn of_path(path: &str) -> Membership {
    let unit = path.split('/').rfind(|name| is_unit(name)).unwrap_or_default();
    let container = path.split('/').rev().find_map(container_id).unwrap_or_default();
    Membership { unit: unit.to_owned(), container, path: path.to_owned() }
}

/// Services and containers' scopes; slices and sessions are no units that serve requests.
fn is_unit(name: &str) -> bool {
    name.ends_with(".service") || (name.ends_with(".scope") && container_id(name).is_some())
}

/// "docker-3f9c….scope", "libpod-3f9c….scope", "cri-containerd-3f9c….scope", or the bare id of Docker's cgroupfs
/// driver.
fn container_id(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next().unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id[..12].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_hybrid_and_container_paths() {
        let unified = membership("0::/system.slice/api.service\n");
        assert_eq!(unified.unit, "api.service");
        let hybrid = membership(
            "3:memory:/system.slice/api.service\n1:name=systemd:/system.slice/php8.2-fpm.service\n0::/\n",
        );
        assert_eq!(hybrid.unit, "php8.2-fpm.service");
        let id = "3f9c".repeat(16);
        let docker = membership(&format!("0::/system.slice/docker-{id}.scope\n"));
        assert_eq!(docker.container, "3f9c3f9c3f9c");
        assert_eq!(membership("0::/user.slice/user-0.slice/session-3.scope").unit, "");
        assert_eq!(membership(""), Membership::default());
    }
}
