//! Compares every kernel, on every instruction set and thread count, with its scalar definition.
//!
//! "Equal" means equal bits everywhere in this program, except in `gradients`, which compares
//! gradients with finite differences in f64.

mod attention;
mod gradients;
mod heads;
mod optimizer;
mod products;
mod reference;
mod rows;

use grail_kernels::{Isa, Kernels};
use proptest::prelude::*;
use std::sync::LazyLock;

/// Every instruction set of this machine, with one, two and three threads.
static ALL: LazyLock<Vec<Kernels>> = LazyLock::new(|| {
    let isas = Isa::available().into_iter();
    let pairs = isas.flat_map(|isa| (1..=3).map(move |threads| (isa, threads)));
    pairs.map(|(isa, threads)| Kernels::with_isa(isa, threads).expect("available")).collect()
});

/// Fails with the first difference in bits. NaN equals NaN, whatever its payload.
fn assert_same(what: &str, kernels: &Kernels, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}, {kernels:?}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{what}, {kernels:?}: value {index} is {got:e}, want {want:e}");
    }
}

/// `count` values from a seed, mostly moderate, with some zeros of both signs and tiny values.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let value = |bits: u64| match bits % 32 {
        0 => 0.0,
        1 => -0.0,
        2 => 1e-30,
        3 => -1e-40,
        _ => (bits >> 40) as f32 / (1 << 23) as f32 - 1.0,
    };
    (0..count).map(|_| value(next())).collect()
}

/// A size around the edges of vectors and panels.
fn size(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        1..=most,
        prop::sample::select(vec![1, 15, 16, 17, 63, 64, 65]).prop_map(move |x| x.min(most))
    ]
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}
