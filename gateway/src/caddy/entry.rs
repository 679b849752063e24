//! One line of Caddy's logs, whichever encoder wrote it.

use serde_json::Value;

/// One line.
pub struct Entry<'a> {
    /// Name of its logger.
    pub logger: &'a str,
    /// What it says.
    pub message: &'a str,
    /// "error", "info", ...
    pub level: &'a str,
    /// Microseconds since 1970.
    pub at_us: Option<i64>,
    /// All of it.
    pub fields: &'a Value,
}

impl Entry<'_> {
    /// A field of the line.
    pub fn text(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap_or("")
    }

    /// A field of its request.
    pub fn request(&self, name: &str) -> &str {
        self.fields["request"][name].as_str().unwrap_or("")
    }

    /// Path of the request, without query.
    pub fn path(&self) -> &str {
        self.request("uri").split(['?', '#']).next().unwrap_or("")
    }

    /// How long the request took.
    pub fn duration_ms(&self) -> Option<u64> {
        let seconds = self.fields["duration"].as_f64().filter(|s| *s >= 0.0)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates"
        )]
        Some((seconds * 1000.0) as u64)
    }
}

/// The default of `time_format`: seconds since 1970.
pub fn seconds_us(ts: &Value) -> Option<i64> {
    let seconds = ts.as_f64().filter(|seconds| (0.0..1e11).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "within the range of an i64")]
    Some((seconds * 1e6) as i64)
}

/// The fields of a line, whichever encoder wrote it; `None`: none of Caddy's that matters.
pub fn fields(line: &str) -> Option<Value> {
    if line.starts_with('{') {
        let known = line.contains("\"logger\":\"http")
            || line.contains("\"logger\":\"admin.api")
            || line.contains("config is unchanged");
        return known.then(|| serde_json::from_str(line).ok()).flatten();
    }
    // TIME \t LEVEL \t logger \t message \t {...}
    let mut parts = line.splitn(5, '\t');
    let (_, level, logger, message) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = logger.starts_with("http") || logger == "admin.api";
    let mut fields: Value =
        serde_json::from_str(parts.next().unwrap_or("{}")).ok().filter(|_| known)?;
    let plain = level.trim_matches(|c: char| !c.is_ascii_alphabetic()).to_ascii_lowercase();
    let map = fields.as_object_mut()?;
    map.insert("level".to_owned(), plain.into());
    map.insert("logger".to_owned(), logger.into());
    map.insert("msg".to_owned(), message.into());
    Some(fields)
}

/// Whether the line is one of Caddy's.
pub fn knows(line: &str) -> bool {
    let json =
        line.starts_with("{\"level\":\"") && line.contains("\"ts\":") && line.contains("\"msg\":");
    let console = || {
        let mut parts = line.split('\t').skip(2);
        parts.next().is_some_and(|logger| {
            logger.starts_with("http.log.") || logger.starts_with("http.handlers.")
        })
    };
    (json && line.contains("\"logger\":\"http.")) || console()
}
