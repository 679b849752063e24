//! What the parent and its reader say to each other: protobuf messages, each behind its length in four bytes, little
//! end first.

use std::io::{self, Read, Write};

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use why502_proto::v1;

/// Longest message. One record gives a handful of facts of a few hundred bytes.
const FRAME_MAX: usize = 1 << 20;

/// From the parent, once: where to read.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Request {
    /// `/`, or another root below which the journal lies.
    #[prost(string, tag = "1")]
    pub(super) root: String,
    /// Go on after this record. "": begin with what comes from now on.
    #[prost(string, tag = "2")]
    pub(super) cursor: String,
    /// Read the kernel's lines too: nobody else can on this host.
    #[prost(bool, tag = "3")]
    pub(super) kernel: bool,
}

/// From the reader: what it saw. Empty: it is alive.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    /// Facts of one record, without `seq`.
    #[prost(message, repeated, tag = "1")]
    pub(super) facts: Vec<v1::Fact>,
    /// Everything up to this record was read. "": no news.
    #[prost(string, tag = "2")]
    pub(super) cursor: String,
    /// Lines of gateways, which the parent reads.
    #[prost(message, repeated, tag = "3")]
    pub(super) lines: Vec<GatewayLine>,
}

/// A line that a process wrote that may be a gateway.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct GatewayLine {
    /// When it was written, as in a fact.
    #[prost(uint64, tag = "1")]
    pub(super) boottime_us: u64,
    /// The same by the wall clock.
    #[prost(int64, tag = "2")]
    pub(super) realtime_us: i64,
    /// _SYSTEMD_UNIT
    #[prost(string, tag = "3")]
    pub(super) unit: String,
    /// _COMM
    #[prost(string, tag = "4")]
    pub(super) program: String,
    /// SYSLOG_IDENTIFIER
    #[prost(string, tag = "5")]
    pub(super) tag: String,
    /// MESSAGE
    #[prost(string, tag = "6")]
    pub(super) text: String,
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &impl Message) -> io::Result<()> {
    to.write_all(&encode(message)?)?;
    to.flush()
}

/// Reads one message.
pub(super) fn read<M: Message + Default>(from: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; checked_length(length)?];
    from.read_exact(&mut bytes)?;
    Ok(M::decode(bytes.as_slice())?)
}

/// Writes one message.
pub(super) async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> io::Result<()> {
    to.write_all(&encode(message)?).await?;
    to.flush().await
}

/// Reads one message.
pub(super) async fn receive<M: Message + Default>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut bytes = vec![0; checked_length(length)?];
    from.read_exact(&mut bytes).await?;
    Ok(M::decode(bytes.as_slice())?)
}

fn encode(message: &impl Message) -> io::Result<Vec<u8>> {
    let length = u32::try_from(message.encoded_len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(4 + message.encoded_len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    Ok(bytes)
}

fn checked_length(length: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other() {
        let one = Request { root: "/".into(), cursor: "s=1;i=2".into(), kernel: false };
        let two = Request { cursor: String::new(), ..one.clone() };
        let mut wire = Vec::new();
        write(&mut wire, &one).unwrap();
        write(&mut wire, &two).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read::<Request>(&mut wire).unwrap(), one);
        assert_eq!(read::<Request>(&mut wire).unwrap(), two);
        assert!(read::<Request>(&mut wire).is_err());
        assert!(read::<Request>(&mut [255u8; 64].as_slice()).is_err());
    }
}
