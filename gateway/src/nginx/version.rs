//! Which nginx it is, and what was compiled into it: the output of `nginx -V`.

/// "1.22.1" as numbers. Unknown versions are 0.0.0, which has the oldest defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// Reads "1.22.1", "1.25.3.1" (OpenResty).
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
        let mut part = || parts.next().flatten().unwrap_or(0);
        Self(part(), part(), part())
    }

    /// Upstream groups keep connections alive without being told, and HTTP/1.1 is spoken to upstreams.
    pub fn keeps_alive(self) -> bool {
        self >= Self(1, 29, 7)
    }
}

/// What was compiled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// "1.22.1"; "" when not known.
    pub version: String,
    /// `--prefix=`
    pub prefix: String,
    /// `--conf-path=`
    pub conf: String,
    /// `--error-log-path=`: a path or "stderr".
    pub error_log: String,
    /// `--http-log-path=`
    pub http_log: String,
}

impl Default for Build {
    /// As Debian, Ubuntu and the packages of nginx.org have it.
    fn default() -> Self {
        Self {
            version: String::new(),
            prefix: "/usr/share/nginx".to_owned(),
            conf: "/etc/nginx/nginx.conf".to_owned(),
            error_log: "/var/log/nginx/error.log".to_owned(),
            http_log: "/var/log/nginx/access.log".to_owned(),
        }
    }
}

impl Build {
    /// Reads what `nginx -V` prints. Paths that are not named are nginx's own defaults below the prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.lines().find_map(|line| line.strip_prefix("nginx version: "))?;
        let version = version.split_once('/').map_or(version, |(_, number)| number);
        let version = version.split_whitespace().next().unwrap_or("").to_owned();
        let option = |name: &str| {
            let begin = text.find(&format!(" {name}="))? + name.len() + 2;
            Some(
                text[begin..].split([' ', '\n']).next().unwrap_or("").trim_matches('\'').to_owned(),
            )
        };
        let prefix = option("--prefix").unwrap_or_else(|| "/usr/local/nginx".to_owned());
        let path = |name: &str, default: &str| {
            let path = option(name).unwrap_or_else(|| default.to_owned());
            if path.starts_with('/') || path == "stderr" {
                path
            } else {
                format!("{prefix}/{path}")
            }
        };
        Some(Self {
            conf: path("--conf-path", "conf/nginx.conf"),
            error_log: path("--error-log-path", "logs/error.log"),
            http_log: path("--http-log-path", "logs/access.log"),
            version,
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_built_by_hand() {
        let debian = "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 25 Aug 2026\nconfigure arguments: \
            --with-cc-opt='-g -O2' --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf \
            --http-log-path=/var/log/nginx/access.log --error-log-path=stderr --pid-path=/run/nginx.pid\n";
        let build = Build::parse(debian).unwrap();
        assert_eq!((build.version.as_str(), build.error_log.as_str()), ("1.22.1", "stderr"));
        assert_eq!(build.conf, "/etc/nginx/nginx.conf");
        let own =
            Build::parse("nginx version: openresty/1.25.3.1\nconfigure arguments:\n").unwrap();
        assert_eq!(own.conf, "/usr/local/nginx/conf/nginx.conf");
        assert_eq!(Version::parse(&own.version), Version(1, 25, 3));
        assert_eq!(Build::parse("nginx: invalid option"), None);
        assert!(Version::parse("1.29.7").keeps_alive() && !Version::parse("1.29.6").keeps_alive());
    }
}
