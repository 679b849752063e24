//! Listening sockets by the text files of /proc/PID/net, for namespaces that cannot be entered (proc(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::source::sock_diag::{Address, Socketed};

/// Reads the text of one file.
type Parser = fn(&str) -> Vec<Socketed>;

/// The files, and who reads them.
pub(super) const FILES: &[(&str, Parser)] = &[("tcp", tcp), ("tcp6", tcp), ("unix", unix)];

/// State `TCP_LISTEN`.
const LISTENING: &str = "0A";
/// `__SO_ACCEPTCON`
const ACCEPTS: u32 = 1 << 16;

/// Both families. The text has no queue limit; the largest number stands for it, so that no queue looks full.
fn tcp(text: &str) -> Vec<Socketed> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if *fields.get(3)? != LISTENING {
            return None;
        }
        let (_, waiting) = fields.get(4)?.split_once(':')?;
        Some(Socketed {
            address: Address::Tcp(address(fields.get(1)?)?),
            inode: fields.get(9)?.parse().ok()?,
            uid: fields.get(7)?.parse().ok()?,
            depth: u32::from_str_radix(waiting, 16).ok()?,
            limit: u32::MAX,
            v6_only: false,
            file_inode: None,
        })
    };
    text.lines().filter_map(socket).collect()
}

/// `0100007F:1F90`: words in host order, the port as it is said.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|at| {
            let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
            Some(word.to_ne_bytes())
        })
        .collect();
    let bytes = words?.concat();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn unix(text: &str) -> Vec<Socketed> {
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?.parse().ok()?;
        let name = fields.next()?;
        let address = match name.strip_prefix('@') {
            Some(name) => Address::Abstract(name.as_bytes().to_vec()),
            None => Address::Path(PathBuf::from(name)),
        };
        (flags & ACCEPTS != 0).then_some(Socketed {
            address,
            inode,
            uid: 0,
            depth: 0,
            limit: u32::MAX,
            v6_only: false,
            file_inode: None,
        })
    };
    text.lines().filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn tcp_lines_of_6_1() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000    33        0 18034 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000    33        0 18035 1 0 20 4 30 10 -1\n";
        let found = tcp(text);
        assert_eq!(found.len(), 1, "a connection does not listen");
        assert_eq!(found[0].address.to_string(), "127.0.0.1:8080");
        assert_eq!((found[0].depth, found[0].uid, found[0].inode), (2, 33, 18034));
        let text = "  0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A \
            00000000:00000000 00:00000000 00000000     0        0 5 1 0 100 0 0 10 0\n";
        assert_eq!(tcp(text)[0].address.to_string(), "[::1]:80");
        assert_eq!(tcp("garbage\n 0: x 0 0A\n"), []);
    }

    #[test]
    fn unix_lines() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16884 /run/app.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16885 @app\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 16886 /run/app.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 16887\n";
        let names: Vec<String> = unix(text).iter().map(|s| s.address.to_string()).collect();
        assert_eq!(names, ["unix:/run/app.sock", "unix:@app"]);
    }
}
