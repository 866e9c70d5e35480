//! Gives every decoder of outside data a bounded number of damaged files.
//!
//! [`driver`] holds the decoders and what each promises; `fuzz/` runs the same driver under a
//! coverage-guided fuzzer for as long as one likes. Here mutations come from valid files and a fixed
//! seed, so that a failure repeats. `GRAIL_FUZZ_CORPUS=DIR` writes the valid files to
//! `DIR/TARGET/`, where a fuzzer starts from them.

#[path = "driver/chain.rs"]
mod chain;
#[path = "driver/checkpoint.rs"]
mod checkpoint;
mod driver;
mod mutate;
#[path = "driver/outside.rs"]
mod outside;
mod seeds;
mod seeds_chain;
#[path = "driver/wallet.rs"]
mod wallet;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use driver::Target;
use mutate::{Choices, mutate};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// One target at a time: the heap is measured for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// Hands the valid inputs and `n` damaged ones to `target`.
#[expect(clippy::print_stderr, reason = "a run says how much it did")]
fn exercise(target: &Target, seeds: fn() -> Vec<Vec<u8>>, n: u64) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A decoder may catch a panic of a library. With `RUST_BACKTRACE` the usual hook would read all
    // debug information for it, on the heap that is measured.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    // Made here and not by the caller, who is not measured alone.
    let seeds = seeds();
    write_corpus(target.name, &seeds);
    for seed in &seeds {
        assert!(target.run(&HEAP, seed), "{} refuses {}", target.name, shown(seed));
    }
    let start = Instant::now();
    let mut accepted = 0;
    for case in 0..n {
        let mut choices = Choices::new(case);
        let seed = &seeds[choices.below(seeds.len())];
        let input = mutate(seed, &seeds, &mut choices);
        match std::panic::catch_unwind(|| target.run(&HEAP, &input)) {
            Ok(outcome) => accepted += u64::from(outcome),
            Err(_) => panic!("{}: case {case} failed: {}", target.name, shown(&input)),
        }
    }
    let time = start.elapsed();
    eprintln!("{}: {n} damaged inputs, {accepted} accepted, in {time:.1?}", target.name);
    // A mutator whose files all fall at the first check, or all pass, would test nothing.
    assert!((n / 500..n).contains(&accepted), "{}: {accepted} of {n} accepted", target.name);
}

/// The first bytes of an input, as text where they are.
fn shown(input: &[u8]) -> String {
    let head = &input[..input.len().min(400)];
    format!("{} bytes, b\"{}\"", input.len(), head.escape_ascii())
}

fn write_corpus(target: &str, seeds: &[Vec<u8>]) {
    let Some(root) = std::env::var_os("GRAIL_FUZZ_CORPUS") else { return };
    let folder = Path::new(&root).join(target);
    std::fs::create_dir_all(&folder).expect("the corpus folder is writable");
    for (index, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{index}")), seed).expect("it is writable");
    }
}

#[test]
fn rollout_files() {
    exercise(&driver::ROLLOUTS, seeds::rollouts, 50_000);
}

#[test]
fn sealed_content() {
    exercise(&driver::SEALED, seeds::sealed, 1_000);
}

#[test]
fn validated_files() {
    exercise(&driver::VALIDATED, seeds::validated, 50_000);
}

#[test]
fn checkpoint_manifests() {
    exercise(&driver::MANIFEST, seeds::manifest, 50_000);
}

#[test]
fn manifests_of_the_reference() {
    exercise(&driver::REFERENCE_MANIFEST, seeds::reference_manifest, 20_000);
}

#[test]
fn native_deltas() {
    exercise(&driver::NATIVE_DELTA, seeds::native_delta, 50_000);
}

#[test]
fn calibrations() {
    exercise(&driver::CALIBRATION, seeds::calibration, 50_000);
}

#[test]
fn verdicts() {
    exercise(&driver::VERDICT, seeds::verdict, 100_000);
}

#[test]
fn names_and_credentials() {
    exercise(&driver::NAMES, seeds::names, 200_000);
}

#[test]
fn checkpoint_files() {
    exercise(&checkpoint::CHECKPOINT, seeds::checkpoint, 8_000);
}

#[test]
fn deltas() {
    exercise(&driver::DELTA, seeds::delta, 200_000);
}

#[test]
fn commits_of_v5() {
    exercise(&driver::COMMITS, seeds::commits, 100_000);
}

#[test]
fn key_files() {
    exercise(&wallet::WALLET, seeds::wallet, 20_000);
}

#[test]
fn encrypted_key_files() {
    exercise(&outside::ENCRYPTED, seeds::encrypted, 1_000);
}

#[test]
fn rounds_of_drand() {
    exercise(&outside::DRAND, seeds::drand, 5_000);
}

#[test]
fn parquet_files_of_the_reference() {
    exercise(&driver::REFERENCE_FILE, seeds::reference_files, 20_000);
}

#[test]
fn commitments_of_the_reference() {
    exercise(&driver::COMMITMENTS, seeds::commitments, 100_000);
}

#[test]
fn metadata_of_runtimes() {
    exercise(&chain::METADATA, seeds_chain::metadata, 3_000);
}

#[test]
fn extrinsics_and_calls() {
    exercise(&chain::EXTRINSIC, seeds_chain::extrinsics, 200_000);
}

#[test]
fn keys_and_values_of_storage() {
    exercise(&chain::STORAGE, seeds_chain::storage, 200_000);
}

#[test]
fn metagraphs() {
    exercise(&chain::METAGRAPH, seeds_chain::metagraphs, 50_000);
}

#[test]
fn replies_of_nodes() {
    exercise(&chain::RPC, seeds_chain::replies, 50_000);
}
