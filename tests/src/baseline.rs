//! What somebody would answer who sees only the gateway: the measure that host facts must beat.

/// The most frequent cause for what the gateway felt, by phase and fault alone; written down before any scenario ran.
pub fn errno_only(phase: &str, fault: &str) -> &'static str {
    match (phase, fault.to_ascii_lowercase().as_str()) {
        (_, "econnrefused") => "process.not_running",
        (_, "enoent") => "unix_socket.missing",
        (_, "eacces") => "unix_socket.permission",
        (_, "eagain") => "unix_socket.backlog_full",
        ("connect", "timeout") => "accept_queue.overflow",
        (_, "timeout") => "upstream.slow_app",
        (_, "closed" | "econnreset" | "epipe") => "worker.crashed",
        (_, "no_live_upstreams") => "process.not_running",
        (_, "relayed") => "upstream.relayed_error",
        _ => "unknown",
    }
}

/// The cause that this baseline names for the first failed request of a timeline of `request_failed` facts in text
/// form; "none" without one.
pub fn of_first_failure(texts: &[&str]) -> &'static str {
    let Some(first) = texts.first() else { return "none" };
    let value = |key: &str| {
        let mut words = first.split(' ');
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or("")
    };
    errno_only(value("phase"), value("fault"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides() {
        let first = "gateway=nginx endpoint=10.98.0.2:80 phase=connect fault=econnrefused count=1";
        let second = "gateway=nginx phase=header fault=timeout count=1";
        assert_eq!(of_first_failure(&[first, second]), "process.not_running");
        assert_eq!(of_first_failure(&[second]), "upstream.slow_app");
        assert_eq!(of_first_failure(&[]), "none");
    }
}
