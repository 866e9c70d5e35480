//! Hostile rollout files: each rejected for what it is, with memory that its size justifies.

mod attacks;
#[path = "../common/mod.rs"]
mod common;

use std::sync::{Mutex, PoisonError};

use attacks::{ATTACKS, Scale, Scene};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// One test at a time: the heap is measured for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// Judges every file; returns its length and the most heap that judging held.
fn judge_all(scale: Scale) -> Vec<(&'static str, usize, usize)> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new(scale);
    let judge = |attack: &attacks::Attack| {
        let bytes = (attack.make)(&scene);
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        assert_eq!(scene.judge(&bytes), Some(attack.code), "{}", attack.name);
        (attack.name, bytes.len(), HEAP.peak_usage().saturating_sub(before))
    };
    ATTACKS.iter().map(judge).collect()
}

#[test]
fn every_file_is_rejected_for_what_it_is_within_twice_its_size() {
    let results = judge_all(Scale { groups: 12, tokens: 200, bytes: 200 << 10 });
    for (name, bytes, held) in results {
        // The opened content, the groups decoded from it, and the arithmetic of opening.
        let most = 2 * bytes + (64 << 10);
        assert!(held <= most, "{name}: {bytes} bytes made the validator hold {held}");
    }
}

#[test]
fn what_falls_before_the_seal_opens_costs_nothing_for_its_size() {
    let small = judge_all(Scale { groups: 1, tokens: 50, bytes: 8 << 10 });
    let large = judge_all(Scale { groups: 40, tokens: 200, bytes: 1 << 20 });
    for ((name, _, small), (_, bytes, large)) in small.into_iter().zip(large).take(10) {
        // Texts of a rejection differ by a few digits.
        assert!(large <= small + 1_024, "{name}: {bytes} bytes hold {large}, few hold {small}");
    }
}
