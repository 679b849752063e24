//! Asks a gateway's admin interface on this host what it runs with. Only questions, each bounded in time and size.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use why502_gateway::effective::{Admin, Speech};

/// A gateway on the same host answers within milliseconds; one that does not is not waited for.
const WAIT: Duration = Duration::from_secs(2);
/// A configuration with 20,000 servers has some 10 MB.
const ANSWER_MAX: u64 = 32 << 20;

/// The answers to the questions of `admin`, in their order. Errors where one of them is not answered, or the address is
/// not on this host: no question leaves it.
pub async fn ask(admin: &Admin) -> io::Result<Vec<String>> {
    let mut answers = Vec::new();
    for question in &admin.questions {
        let asked = async {
            match admin.address.strip_prefix("unix:") {
                Some(path) => speak(UnixStream::connect(path).await?, admin, question).await,
                None => speak(connect(&admin.address).await?, admin, question).await,
            }
        };
        answers.push(timeout(WAIT, asked).await.map_err(io::Error::from).flatten()?);
    }
    Ok(answers)
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let found = tokio::net::lookup_host(on_loopback(address)).await?;
    let local = found.filter(|address| address.ip().is_loopback()).collect::<Vec<_>>();
    TcpStream::connect(local.as_slice()).await
}

/// What listens on every address listens on loopback too.
fn on_loopback(address: &str) -> String {
    match (address.strip_prefix("0.0.0.0:"), address.strip_prefix("[::]:")) {
        (Some(port), _) => format!("127.0.0.1:{port}"),
        (_, Some(port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

async fn speak(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    admin: &Admin,
    question: &str,
) -> io::Result<String> {
    let words = match admin.speech {
        Speech::Socket => format!("{question}\n"),
        // HTTP/1.0: no chunks, and the end of the answer is the end of the stream.
        Speech::Http => format!(
            "GET {question} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n",
            if admin.address.starts_with("unix:") { "localhost" } else { &admin.address },
        ),
    };
    stream.write_all(words.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut bytes).await?;
    let answer = String::from_utf8_lossy(&bytes).into_owned();
    match admin.speech {
        Speech::Socket => Ok(answer),
        Speech::Http => body(&answer).map(str::to_owned),
    }
}

fn body(answer: &str) -> io::Result<&str> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body),
        status => Err(io::Error::other(format!("answered {}", status.unwrap_or("nothing")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_all_is_another_here() {
        assert_eq!(on_loopback("0.0.0.0:8404"), "127.0.0.1:8404");
        assert_eq!(on_loopback("[::]:9901"), "[::1]:9901");
        assert_eq!(on_loopback("10.0.0.0:80"), "10.0.0.0:80");
    }

    #[test]
    fn only_a_success_has_a_body() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}").unwrap(), "{}");
        assert_eq!(
            body("HTTP/1.1 403 Forbidden\r\n\r\n{}").unwrap_err().to_string(),
            "answered 403"
        );
        assert!(body("").is_err());
    }
}
