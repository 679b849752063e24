//! One line of an access log, read by the format that wrote it (envoyproxy.io/docs, "Access logging").
//!
//! A format is literals and operators in turn; a value ends where the next literal begins. Envoy does not escape what
//! clients send, so that values are read from the left up to the first header that a client is free in, and from the
//! right down to it.

use std::collections::BTreeMap;

use crate::document::{Node, Value};

/// Envoy's default.
const DEFAULT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);
/// Istio's default.
const ISTIO: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% ",
    "%CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" ",
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);
/// Names that Istio and most examples give the values in JSON.
const JSON: [(&str, &str); 14] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
];

/// A format, ready to read lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text(Vec<Piece>),
    /// Formats by the path of names to them.
    Json(BTreeMap<String, Vec<Piece>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Operator(Operator),
}

/// What an operator stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Start,
    Method,
    Path,
    Protocol,
    Code,
    Flags,
    Details,
    Transport,
    Duration,
    Service,
    Authority,
    Peer,
    Cluster,
    Local,
    /// A header that a client is free in.
    Free,
    Other,
}

/// What a line tells. "" where it does not, or says "-".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) protocol: String,
    pub(super) code: String,
    pub(super) flags: String,
    pub(super) details: String,
    pub(super) transport: String,
    pub(super) duration: String,
    pub(super) service: String,
    pub(super) authority: String,
    pub(super) peer: String,
    pub(super) cluster: String,
    pub(super) local: String,
    /// The format tells whether a peer was chosen.
    pub(super) tells_peer: bool,
}

impl Format {
    pub(super) fn text(format: &str) -> Self {
        Self::Text(pieces(format.trim_end_matches('\n')))
    }

    pub(super) fn default_text() -> Self {
        Self::text(DEFAULT)
    }

    /// Formats that are read where no configuration says how a line was written.
    pub(super) fn usual() -> Vec<Self> {
        let json = JSON.iter().map(|(name, format)| ((*name).to_owned(), pieces(format)));
        vec![Self::text(ISTIO), Self::default_text(), Self::Json(json.collect())]
    }

    /// `json_format`: a tree of names with formats as leaves.
    pub(super) fn json(node: &Node) -> Self {
        let mut formats = BTreeMap::new();
        leaves(node, String::new(), &mut formats);
        Self::Json(formats)
    }

    /// Whether it tells status and flags, without which a line is of no use here.
    pub(super) fn tells(&self) -> bool {
        let has = |pieces: &Vec<Piece>, what| pieces.contains(&Piece::Operator(what));
        match self {
            Self::Text(pieces) => has(pieces, Operator::Code) || has(pieces, Operator::Flags),
            Self::Json(formats) => {
                formats.values().any(|f| has(f, Operator::Code) || has(f, Operator::Flags))
            }
        }
    }

    /// Reads a line; `None`: another format wrote it.
    pub(super) fn read(&self, line: &str, json: Option<&serde_json::Value>) -> Option<Entry> {
        let mut entry = Entry::default();
        match (self, json) {
            (Self::Text(pieces), None) => read_text(pieces, line, &mut entry)?,
            (Self::Json(formats), Some(json)) => {
                for (path, pieces) in formats {
                    let value = path.split('\0').try_fold(json, |at, name| at.get(name))?;
                    let text = match value {
                        serde_json::Value::Null => String::new(),
                        serde_json::Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    read_text(pieces, &text, &mut entry)?;
                }
            }
            _ => return None,
        }
        let number = entry.code.parse::<u16>();
        (number.is_ok() || !entry.flags.is_empty() || entry.code.is_empty()).then_some(entry)
    }
}

fn leaves(node: &Node, path: String, formats: &mut BTreeMap<String, Vec<Piece>>) {
    for (name, value) in node.entries() {
        let path = if path.is_empty() { name.to_string() } else { format!("{path}\0{name}") };
        match &value.value {
            Value::Scalar(format) if format.contains('%') => {
                formats.insert(path, pieces(format));
            }
            Value::Map(_) => leaves(value, path, formats),
            _ => {}
        }
    }
}

fn pieces(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((operator, length)) = operator(after) else {
            literal.push('%');
            rest = after;
            continue;
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Operator(operator));
        rest = &after[length..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

/// `NAME`, `NAME(ARGUMENT)`, `NAME(ARGUMENT):LENGTH` and the `%` behind it: what it is, and its length.
fn operator(text: &str) -> Option<(Operator, usize)> {
    let name_end =
        text.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_')?;
    let (name, rest) = text.split_at(name_end);
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(inner) => inner.split_once(')')?,
        None => ("", rest),
    };
    let end = rest.find('%')?;
    let length = text.len() - rest.len() + end + 1;
    let upper = argument.to_ascii_uppercase();
    Some((meaning(name, &upper), length))
}

fn meaning(name: &str, argument: &str) -> Operator {
    match (name, argument) {
        ("START_TIME", "") => Operator::Start,
        ("REQ", ":METHOD") => Operator::Method,
        ("REQ", ":AUTHORITY" | "HOST") => Operator::Authority,
        ("REQ", path) if path.ends_with(":PATH") => Operator::Path,
        ("PATH", _) => Operator::Path,
        ("REQ" | "REQ_WITHOUT_QUERY", _) if argument.contains(":PATH") => Operator::Path,
        ("REQ" | "RESP" | "TRAILER" | "DYNAMIC_METADATA", _) => match argument {
            "X-ENVOY-UPSTREAM-SERVICE-TIME" => Operator::Service,
            _ if name == "REQ" => Operator::Free,
            _ => Operator::Other,
        },
        ("PROTOCOL", _) => Operator::Protocol,
        ("RESPONSE_CODE", _) => Operator::Code,
        ("RESPONSE_FLAGS" | "RESPONSE_FLAGS_LONG", _) => Operator::Flags,
        ("RESPONSE_CODE_DETAILS", _) => Operator::Details,
        ("UPSTREAM_TRANSPORT_FAILURE_REASON", _) => Operator::Transport,
        ("DURATION", _) => Operator::Duration,
        ("UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS", _) => Operator::Peer,
        ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", _) => Operator::Cluster,
        ("DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_LOCAL_PORT", _) => Operator::Local,
        _ => Operator::Other,
    }
}

fn read_text(pieces: &[Piece], text: &str, entry: &mut Entry) -> Option<()> {
    let free = pieces.iter().position(|piece| *piece == Piece::Operator(Operator::Free));
    let (left, right) = pieces.split_at(free.unwrap_or(pieces.len()));
    let mut rest = text;
    for (index, piece) in left.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
            Piece::Operator(operator) => {
                let end = match left.get(index + 1) {
                    Some(Piece::Literal(next)) => value_end(*operator, rest, next)?,
                    // Two values without anything between them: nobody can tell where the first ends.
                    Some(Piece::Operator(_)) => return None,
                    None => rest.len(),
                };
                set(entry, *operator, &rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    for (index, piece) in right.iter().enumerate().skip(1).rev() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_suffix(literal.as_str())?,
            Piece::Operator(operator) => {
                let Some(Piece::Literal(before)) = right.get(index - 1) else { return None };
                let begin = rest.rfind(before.as_str())? + before.len();
                set(entry, *operator, &rest[begin..]);
                rest = &rest[..begin];
            }
        }
    }
    (free.is_some() || rest.is_empty()).then_some(())
}

/// Where a value ends: at the next literal, but details in braces hold blanks in old versions.
fn value_end(operator: Operator, text: &str, literal: &str) -> Option<usize> {
    if operator == Operator::Details
        && let (Some(brace), Some(next)) = (text.find('{'), text.find(literal))
        && brace < next
        && let Some(end) = text.find(&format!("}}{literal}"))
    {
        return Some(end + 1);
    }
    text.find(literal)
}

fn set(entry: &mut Entry, operator: Operator, value: &str) {
    let field = match operator {
        Operator::Start => &mut entry.start,
        Operator::Method => &mut entry.method,
        Operator::Path => &mut entry.path,
        Operator::Protocol => &mut entry.protocol,
        Operator::Code => &mut entry.code,
        Operator::Flags => &mut entry.flags,
        Operator::Details => &mut entry.details,
        Operator::Transport => &mut entry.transport,
        Operator::Duration => &mut entry.duration,
        Operator::Service => &mut entry.service,
        Operator::Authority => &mut entry.authority,
        Operator::Peer => {
            entry.tells_peer = true;
            &mut entry.peer
        }
        Operator::Cluster => &mut entry.cluster,
        Operator::Local => &mut entry.local,
        Operator::Free | Operator::Other => return,
    };
    // A format may have one value twice.
    if field.is_empty() && value != "-" {
        value.clone_into(field);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "[2026-11-27T21:41:07.462Z] \"GET /refused?token=1 HTTP/1.1\" 503 UF 0 98 0 - \"-\" \"curl/7.88.1\" \
        \"0696ed9a\" \"127.0.0.1:10000\" \"127.0.0.1:9\"";

    #[test]
    fn the_default() {
        let entry = Format::default_text().read(LINE, None).unwrap();
        assert_eq!((entry.code.as_str(), entry.flags.as_str()), ("503", "UF"));
        assert_eq!(
            (entry.authority.as_str(), entry.peer.as_str()),
            ("127.0.0.1:10000", "127.0.0.1:9")
        );
        assert_eq!((entry.path.as_str(), entry.duration.as_str()), ("/refused?token=1", "0"));
        assert_eq!(Format::text(ISTIO).read(LINE, None), None);
    }

    #[test]
    fn a_client_cannot_forge_what_stands_behind_its_words() {
        let line = LINE.replace("curl/7.88.1", "x\" \"id\" \"evil\" \"6.6.6.6:1");
        let entry = Format::default_text().read(&line, None).unwrap();
        assert_eq!(
            (entry.authority.as_str(), entry.peer.as_str()),
            ("127.0.0.1:10000", "127.0.0.1:9")
        );
    }

    #[test]
    fn details_with_blanks_of_old_versions() {
        let line = "[2026-11-27T21:41:07.462Z] \"GET / HTTP/1.1\" 503 UF upstream_reset_before_response_started{connection \
            failure,delayed connect error: 111} - \"delayed connect error: 111\" 0 152 0 - \"-\" \"curl/7.88.1\" \"id\" \"a\" \
            \"10.0.0.7:80\" outbound|80||a - 10.0.0.1:80 10.0.0.9:5 - default";
        let entry = Format::text(ISTIO).read(line, None).unwrap();
        assert_eq!(entry.transport, "delayed connect error: 111");
        assert!(entry.details.ends_with("error: 111}"));
        assert_eq!(entry.cluster, "outbound|80||a");
    }

    #[test]
    fn json_by_names() {
        let text = r#"{"response_code":503,"response_flags":"UH","path":"/a\"b","upstream_host":null,"start_time":"2026-11-27T21:41:07.462Z","method":"GET","protocol":"HTTP/1.1","response_code_details":"no_healthy_upstream","upstream_transport_failure_reason":null,"duration":0,"upstream_service_time":null,"authority":"a","upstream_cluster":"c","downstream_local_address":"10.0.0.1:80"}"#;
        let json = serde_json::from_str(text).unwrap();
        let entry = Format::usual()[2].read(text, Some(&json)).unwrap();
        assert_eq!(
            (entry.flags.as_str(), entry.path.as_str(), entry.peer.as_str()),
            ("UH", "/a\"b", "")
        );
    }

    #[test]
    fn operators_with_arguments_and_lengths() {
        let format =
            Format::text("%START_TIME(%s.%3f)% 100%% %REQ(X-A?:PATH):10% |%RESPONSE_CODE%|");
        let entry = format.read("1795527969.123 100% /abc |502|", None);
        // A time in a form of one's own is not read.
        let entry = entry.unwrap();
        assert_eq!(
            (entry.start.as_str(), entry.path.as_str(), entry.code.as_str()),
            ("", "/abc", "502")
        );
        assert_eq!(Format::text("%METHOD").read("%METHOD", None), Some(Entry::default()));
    }

    proptest! {
        #[test]
        fn any_format_reads_any_line(text: String, line: String) {
            Format::text(&text).read(&line, None);
            for format in Format::usual() {
                format.read(&line, None);
            }
        }
    }
}
