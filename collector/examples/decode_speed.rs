//! How fast `why502 decode` reads an access log of which hardly a line tells of a failure: one core, in MB/s.
//!
//! `cargo run --profile quick -p why502-collector --example decode_speed [MB]`

#![expect(clippy::print_stdout, reason = "it is all that it does")]

use std::io::{self, Read as _};
use std::time::Instant;

use why502_collector::decode::scan::Scan;

/// Repeats these bytes for ever.
struct Again<'a>(&'a [u8], usize);

impl io::Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.0.get(self.1..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        let (to, from) = (buffer.get_mut(..length), rest.get(..length));
        to.zip(from).into_iter().for_each(|(to, from)| to.copy_from_slice(from));
        self.1 = (self.1 + length) % self.0.len();
        Ok(length)
    }
}

fn main() {
    let megabytes: u64 = std::env::args().nth(1).and_then(|mb| mb.parse().ok()).unwrap_or(2000);
    let mut log = String::new();
    // A fixed sequence that looks like chance (Knuth's MMIX).
    let mut seed = 1_u64;
    let mut chance = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..50_000 {
        let status = if chance(2000) == 0 { 502 } else { 200 };
        log += &format!(
            "10.{}.{}.9 - - [24/Nov/2026:13:{:02}:{:02} +0000] \"GET /api/{}?x={} HTTP/1.1\" {status} {} \
             \"https://shop.example/a/{}\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/126.0.0.0 Safari/537.36\"\n",
            chance(256),
            chance(256),
            chance(60),
            chance(60),
            chance(100_000),
            chance(100_000),
            chance(60_000),
            chance(10_000)
        );
    }
    let mut scan = Scan::default();
    let began = Instant::now();
    let read = scan.read(Again(log.as_bytes(), 0).take(megabytes * 1_000_000), |_| true);
    let took = began.elapsed().as_secs_f64();
    let failed: u64 = scan.tally.failures().iter().map(|(_, kind)| kind.count).sum();
    let speed = f64::from(u32::try_from(megabytes).unwrap_or(u32::MAX)) / took;
    println!(
        "{megabytes} MB, {} lines, {failed} failures: {speed:.0} MB/s ({read:?})",
        scan.tally.lines
    );
}
