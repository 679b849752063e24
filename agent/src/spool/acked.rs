//! What the collector has, by boot: a small text file beside the segments.
//!
//! Losing it only means that facts are sent again, which changes nothing. A wrong number in it would lose facts, so
//! every line carries a checksum and a line that does not fit is as good as absent.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Boots that are remembered; older ones have no segment any more.
const BOOTS_MAX: usize = 64;

/// Highest stored `seq` of each boot.
#[derive(Debug)]
pub(super) struct Acked {
    path: PathBuf,
    by_boot: BTreeMap<String, u64>,
    saved: BTreeMap<String, u64>,
}

impl Acked {
    pub(super) fn load(dir: &Path) -> Self {
        let path = dir.join("acked");
        let text = std::fs::read(&path).unwrap_or_default();
        let by_boot: BTreeMap<_, _> =
            String::from_utf8_lossy(&text).lines().filter_map(parse).take(BOOTS_MAX).collect();
        Self { path, saved: by_boot.clone(), by_boot }
    }

    pub(super) fn of(&self, boot: &str) -> u64 {
        self.by_boot.get(boot).copied().unwrap_or(0)
    }

    /// Remembers that everything of `boot` up to `seq` is stored.
    pub(super) fn raise(&mut self, boot: &str, seq: u64) {
        let known = self.by_boot.entry(boot.to_owned()).or_insert(0);
        *known = seq.max(*known);
    }

    /// Forgets boots other than those of `boots`.
    pub(super) fn keep(&mut self, boots: &[&str]) {
        self.by_boot.retain(|boot, _| boots.contains(&boot.as_str()));
    }

    /// Writes it if it changed. Not synced: see the module.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if self.saved == self.by_boot {
            return Ok(());
        }
        let text: String = self
            .by_boot
            .iter()
            .map(|(boot, seq)| with_checksum(&format!("{boot} {seq}")))
            .collect();
        let new = self.path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.path)?;
        self.saved = self.by_boot.clone();
        Ok(())
    }
}

fn with_checksum(line: &str) -> String {
    format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))
}

fn parse(line: &str) -> Option<(String, u64)> {
    let (content, _) = line.rsplit_once(' ')?;
    if with_checksum(content).trim_end() != line {
        return None;
    }
    let (boot, seq) = content.split_once(' ')?;
    Some((boot.to_owned(), seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_raises_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut acked = Acked::load(dir.path());
        acked.raise("boot-1", 41);
        acked.raise("boot-1", 7);
        acked.save().unwrap();
        assert_eq!(Acked::load(dir.path()).of("boot-1"), 41);
        let good = std::fs::read(&acked.path).unwrap();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            std::fs::write(&acked.path, bad).unwrap();
            assert!([0, 41].contains(&Acked::load(dir.path()).of("boot-1")), "bit {at}");
        }
    }
}
