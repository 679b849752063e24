//! Names of incidents: nine letters and digits, in order of time, that can be read out on the phone.

/// Crockford's base 32: no I, L, O, U.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 2020-01-01, from which the seconds count: six digits last until 2054.
const FROM_S: i64 = 1_577_836_800;

/// A name that is not yet `taken`.
pub(super) fn incident_id(now_us: i64, salt: &str, taken: impl Fn(&str) -> bool) -> String {
    let seconds = u64::try_from(now_us / 1_000_000 - FROM_S).unwrap_or(0);
    let mut hash = fnv(salt) ^ u64::try_from(now_us % 1_000_000).unwrap_or(0);
    loop {
        let id = digits(seconds, 6) + &digits(hash, 3);
        if !taken(&id) {
            return id;
        }
        hash += 1;
    }
}

fn digits(mut number: u64, count: usize) -> String {
    let mut text = vec![b'0'; count];
    for digit in text.iter_mut().rev() {
        *digit = *DIGITS.get((number % 32) as usize).unwrap_or(&b'0');
        number /= 32;
    }
    String::from_utf8(text).unwrap_or_default()
}

/// FNV-1a: <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::incident_id;

    const NOON: i64 = 1_764_000_000_000_000;

    #[test]
    fn later_is_greater_and_taken_is_left() {
        let first = incident_id(NOON, "gw a:1", |_| false);
        assert_eq!(first.len(), 9);
        assert!(incident_id(NOON + 1_000_000, "gw a:1", |_| false) > first);
        let second = incident_id(NOON, "gw a:1", |id| id == first);
        assert_ne!(first, second);
        assert_eq!(first[..6], second[..6]);
    }
}
