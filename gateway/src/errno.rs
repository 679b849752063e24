//! Faults of connections by the words of strerror(3), as Envoy ("Connection refused") and Go ("connection refused")
//! write them.

use why502_proto::v1::Fault;

/// Words of the C library, and what they are.
const WORDS: [(&str, Fault); 17] = [
    ("connection refused", Fault::Econnrefused),
    ("connection reset by peer", Fault::Econnreset),
    ("no such file or directory", Fault::Enoent),
    ("permission denied", Fault::Eacces),
    ("resource temporarily unavailable", Fault::Eagain),
    ("no route to host", Fault::Ehostunreach),
    ("network is unreachable", Fault::Enetunreach),
    ("cannot assign requested address", Fault::Eaddrnotavail),
    ("operation not permitted", Fault::Eperm),
    ("invalid argument", Fault::Einval),
    ("no buffer space available", Fault::Enobufs),
    ("too many open files in system", Fault::Enfile),
    ("too many open files", Fault::Emfile),
    ("broken pipe", Fault::Epipe),
    ("connection timed out", Fault::Etimedout),
    ("no space left on device", Fault::Enospc),
    ("network is down", Fault::Enetdown),
];

/// The fault whose words are in `text`, whatever their case; `_` stands for a blank.
pub fn in_text(text: &str) -> Option<Fault> {
    let text = text.replace('_', " ").to_ascii_lowercase();
    WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, fault)| *fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found() {
        assert_eq!(in_text("delayed_connect_error:_Connection_refused"), Some(Fault::Econnrefused));
        assert_eq!(in_text("accept: too many open files in system"), Some(Fault::Enfile));
        assert_eq!(in_text("EOF"), None);
    }
}
