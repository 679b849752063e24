use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::observe::Mark;

const SIZE_MAX: u64 = 1 << 30;

fn open(dir: &Path, boot: &str) -> Spool {
    let config = SpoolConfig { dir: dir.to_owned(), bytes_max: SIZE_MAX };
    let mut spool = Spool::open(&config, boot).unwrap();
    spool.segment_max = 600;
    spool
}

type Observed = (Option<Fact>, Option<Mark>);

/// A fact that carries `number`, so that it is known again under another seq.
fn fact(number: u64) -> Observed {
    of(Kind::ClockJumped(v1::ClockJumped { by_us: number.cast_signed() }))
}

fn of(kind: Kind) -> Observed {
    (Some(Fact { boottime_us: 5_000_000, kind: Some(kind), ..Fact::default() }), None)
}

fn facts(numbers: impl IntoIterator<Item = u64>) -> Vec<Observed> {
    numbers.into_iter().map(fact).collect()
}

fn mark(position: &str) -> Option<Mark> {
    Some(Mark { name: "log /a".into(), position: position.into() })
}

/// Everything that waits: numbers of facts by boot, and what was told to be lost.
fn read(spool: &mut Spool) -> (Vec<(String, u64, u64)>, u64) {
    let (mut facts, mut dropped) = (Vec::new(), 0);
    for boot in spool.boots() {
        let mut seq = 0;
        loop {
            let batch = spool.read_after(&boot, seq, 7, 1 << 20);
            let Some(last) = batch.last() else { break };
            seq = last.seq;
            for fact in batch {
                match fact.kind {
                    Some(Kind::ClockJumped(kind)) => {
                        facts.push((boot.clone(), fact.seq, kind.by_us.cast_unsigned()));
                    }
                    Some(Kind::FactsDropped(kind)) => dropped += kind.count,
                    _ => {}
                }
            }
        }
    }
    (facts, dropped)
}

fn numbers(spool: &mut Spool) -> Vec<u64> {
    read(spool).0.into_iter().map(|(_, _, number)| number).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Append(u64),
    Forget(usize),
    Reopen,
    Reboot,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u64..20).prop_map(Op::Append),
        2 => (0usize..60).prop_map(Op::Forget),
        2 => Just(Op::Reopen),
        1 => Just(Op::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn behaves_like_a_list(ops in proptest::collection::vec(op(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let mut boots = 1;
        let mut spool = open(dir.path(), "boot-1");
        // The model: what was appended and not forgotten, and how far each boot's numbers went.
        let mut model: Vec<(String, u64, u64)> = Vec::new();
        let (mut seq, mut number) = (0, 0);
        for op in ops {
            let boot = format!("boot-{boots}");
            match op {
                Op::Append(count) => {
                    prop_assert!(spool.append(&mut facts(number + 1..=number + count)));
                    for _ in 0..count {
                        seq += 1;
                        number += 1;
                        model.push((boot.clone(), seq, number));
                    }
                }
                Op::Forget(back) => {
                    let Some((boot, seq, _)) = model.get(model.len().saturating_sub(back + 1)).cloned() else { continue };
                    spool.forget(&boot, seq);
                    model.retain(|(b, s, _)| *b != boot || *s > seq);
                }
                Op::Reopen => {
                    spool.save();
                    spool = open(dir.path(), &boot);
                }
                Op::Reboot => {
                    spool.save();
                    boots += 1;
                    seq = 0;
                    spool = open(dir.path(), &format!("boot-{boots}"));
                }
            }
            let (facts, dropped) = read(&mut spool);
            prop_assert_eq!(&facts, &model);
            prop_assert_eq!(dropped, 0);
        }
    }

    #[test]
    fn damage_anywhere_costs_its_record_and_is_told_once(
        counts in proptest::collection::vec(1u64..9, 1..10),
        file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in proptest::option::of(0u8..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), "boot-1");
        let mut number = 0;
        for count in counts {
            prop_assert!(spool.append(&mut facts(number + 1..=number + count)));
            number += count;
        }
        let lasts: Vec<u64> = spool.segments.iter().map(|segment| segment.last_seq).collect();
        drop(spool);
        let segments = Segment::list(dir.path()).unwrap();
        let hit = file.index(segments.len());
        let path = &segments[hit].path;
        let mut bytes = std::fs::read(path).unwrap();
        let at = at.index(bytes.len());
        match bit {
            Some(bit) => bytes[at] ^= 1 << bit,
            None => bytes.truncate(at),
        }
        std::fs::write(path, bytes).unwrap();

        let mut spool = open(dir.path(), "boot-1");
        let (facts, told) = read(&mut spool);
        let left: Vec<u64> = facts.iter().map(|(_, _, number)| *number).collect();
        let lost: BTreeSet<u64> = (1..=number).filter(|number| !left.contains(number)).collect();
        prop_assert!(left.is_sorted());
        prop_assert!(lost.iter().all(|n| *n <= lasts[hit] && (hit == 0 || *n > lasts[hit - 1])));
        if bit.is_some() {
            prop_assert!(lost.len() <= 1);
            prop_assert!(told >= lost.len() as u64 && told <= 1, "{} told, {:?} lost", told, lost);
        } else if hit + 1 < segments.len() {
            prop_assert_eq!(told, lost.len() as u64);
        }
        // New facts get places of their own, and nothing is told again.
        prop_assert!(spool.append(&mut [fact(999)]));
        drop(spool);
        let mut spool = open(dir.path(), "boot-1");
        let (facts, told_again) = read(&mut spool);
        prop_assert_eq!(told_again, told);
        let seqs: BTreeSet<u64> = facts.iter().map(|(_, seq, _)| *seq).collect();
        prop_assert_eq!(seqs.len(), left.len() + 1);
        prop_assert_eq!(facts.last().unwrap().2, 999);
    }
}

#[test]
fn the_oldest_are_dropped_at_the_bound_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), "boot-1");
    spool.size_max = 3000;
    for number in 1..=300 {
        assert!(spool.append(&mut [fact(number)]));
        assert!(spool.size() <= 3000 + 700);
    }
    // What was dropped by the last write is told by the next one.
    let (facts, told) = read(&mut spool);
    let first = facts.first().unwrap().2;
    assert_eq!(facts.last().unwrap().2, 300);
    assert!(facts.len() > 20, "{}", facts.len());
    assert!(
        told > 0 && told < first,
        "the facts that told of the first drops were dropped themselves"
    );
    let dropped: u64 = first - 1;
    assert!(dropped > 100);
}

#[test]
fn a_mark_is_durable_with_its_fact_and_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), "boot-1");
    spool.append(&mut [(fact(1).0, mark("10"))]);
    spool.append(&mut [(None, mark("20"))]);
    assert_eq!(open(dir.path(), "boot-1").marks()["log /a"], "10", "a bare mark waits");
    drop(spool);
    let mut spool = open(dir.path(), "boot-1");
    spool.append(&mut [(None, mark("30"))]);
    assert!(spool.save());
    for number in 2..100 {
        spool.append(&mut [fact(number)]);
        spool.forget("boot-1", number);
    }
    assert!(spool.segments.len() <= 2, "what is stored is removed");
    drop(spool);
    assert_eq!(open(dir.path(), "boot-2").marks()["log /a"], "30");
}

#[test]
fn while_the_disk_refuses_facts_wait_in_memory_and_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("spool"), dir.path().join("away"));
    let mut spool = open(&here, "boot-1");
    spool.segment_max = 0;
    assert!(spool.append(&mut [(fact(1).0, mark("1"))]));
    assert_eq!(spool.read_after("boot-1", 0, 9, 1 << 20).len(), 1);
    std::fs::rename(&here, &away).unwrap();
    assert!(!spool.append(&mut [(fact(2).0, mark("2"))]));
    assert!(!spool.append(&mut [fact(3)]));
    assert_eq!(spool.read_after("boot-1", 1, 9, 1 << 20).len(), 2, "the stream goes on");
    assert_eq!(spool.marks()["log /a"], "1");
    std::fs::rename(&away, &here).unwrap();
    assert!(spool.append(&mut [fact(4)]), "it recovers by itself");
    assert_eq!(spool.marks()["log /a"], "2");
    assert_eq!(spool.read_after("boot-1", 3, 9, 1 << 20).len(), 1, "nothing is sent twice");
    drop(spool);
    assert_eq!(numbers(&mut open(&here, "boot-1")), [1, 2, 3, 4]);
}

#[test]
fn memory_is_bounded_while_the_disk_refuses_and_the_loss_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("spool"), dir.path().join("away"));
    let mut spool = open(&here, "boot-1");
    std::fs::rename(&here, &away).unwrap();
    for batch in 0..40 {
        assert!(!spool.append(&mut facts((0..10_000).map(|number| batch * 10_000 + number))));
    }
    std::fs::rename(&away, &here).unwrap();
    spool.segment_max = SEGMENT_MAX;
    assert!(spool.save());
    assert!(spool.append(&mut [fact(400_000)]));
    let (facts, told) = read(&mut spool);
    assert_eq!(facts.last().unwrap().2, 400_000, "the newest are kept");
    assert_eq!(told, 400_001 - facts.len() as u64);
}

#[test]
fn a_lost_directory_does_not_reuse_numbers_that_the_collector_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), "boot-1");
    spool.append(&mut facts(1..=30));
    spool.renumber_after(12);
    assert_eq!(read(&mut spool).0[0].1, 1, "nothing unusual");
    spool.renumber_after(500);
    let (facts, _) = read(&mut spool);
    assert_eq!(
        facts.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>(),
        (501..=530).collect::<Vec<_>>()
    );
    assert_eq!(
        facts.iter().map(|(_, _, number)| *number).collect::<Vec<_>>(),
        (1..=30).collect::<Vec<_>>()
    );
    drop(spool);
    assert_eq!(numbers(&mut open(dir.path(), "boot-1")).len(), 30);
}

#[test]
fn batches_are_split_at_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), "boot-1");
    let words = |n: usize| v1::AgentStopped { reason: "x".repeat(n) };
    let large = |n| of(Kind::AgentStopped(words(n)));
    spool.append(&mut [large(900), large(900), large(60_000), large(10)]);
    let mut seq = 0;
    let mut sizes = || {
        let batch = spool.read_after("boot-1", seq, 512, 2000);
        seq = batch.last().map_or(seq, |fact| fact.seq);
        batch.len()
    };
    assert_eq!((sizes(), sizes(), sizes(), sizes()), (2, 1, 1, 0));
    let lost = large(70_000);
    spool.append(&mut [lost, fact(1)]);
    spool.append(&mut [fact(2)]);
    assert_eq!(read(&mut spool).1, 1, "what no record can hold is told");
}

/// What a power cut leaves of a write that was under way: any part of its bytes, and behind it whatever the file
/// system put there.
#[test]
fn a_power_cut_at_any_byte_of_a_write_costs_nothing_that_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("before");
    let open_large = |dir: &Path| {
        let mut spool = open(dir, "boot-1");
        spool.segment_max = SEGMENT_MAX;
        spool
    };
    let batch = |numbers: std::ops::RangeInclusive<u64>| -> Vec<Observed> {
        numbers.map(|number| (fact(number).0, mark(&number.to_string()))).collect()
    };
    let mut spool = open_large(&here);
    assert!(spool.append(&mut batch(1..=3)));
    let path = spool.segments[0].path.clone();
    let durable = std::fs::read(&path).unwrap().len();
    assert!(spool.append(&mut batch(4..=7)));
    drop(spool);
    let whole = std::fs::read(&path).unwrap();
    let name = path.file_name().unwrap();
    for cut in durable..=whole.len() {
        for rest in [&[][..], &[0; 4096], &[0x50; 64], &whole[..whole.len().min(100)]] {
            let after = dir.path().join("after");
            let _ = std::fs::remove_dir_all(&after);
            std::fs::create_dir(&after).unwrap();
            let found = [&whole[..cut], rest].concat();
            std::fs::write(after.join(name), found).unwrap();
            let mut spool = open_large(&after);
            let (facts, told) = read(&mut spool);
            let left: Vec<u64> = facts.iter().map(|(_, _, number)| *number).collect();
            let last = left.last().copied().unwrap_or_default();
            let case = format!("cut at {cut}, {} bytes behind it", rest.len());
            assert!(last >= 3 && left == (1..=last).collect::<Vec<_>>(), "{case}: {left:?}");
            assert!(told <= 1, "{case}: {told} are told to be lost");
            assert_eq!(spool.marks()["log /a"], last.to_string(), "{case}: the mark is the last's");
            // What was cut off is read again from its mark on, and has a place of its own.
            assert!(spool.append(&mut batch(last + 1..=9)));
            drop(spool);
            let (facts, again) = read(&mut open_large(&after));
            let numbers: Vec<u64> = facts.iter().map(|(_, _, number)| *number).collect();
            let seqs: BTreeSet<u64> = facts.iter().map(|(_, seq, _)| *seq).collect();
            assert_eq!(numbers, (1..=9).collect::<Vec<_>>(), "{case}");
            assert_eq!((seqs.len(), again), (9, told), "{case}");
        }
    }
}
