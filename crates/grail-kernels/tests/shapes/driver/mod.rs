//! Turns bytes into a call of some kernel, and panics unless every instruction set and number of
//! threads gives the bits of the definition.

#[path = "../../exact/reference.rs"]
#[allow(dead_code, reason = "this driver needs a part of it")]
mod reference;

mod attention;
mod choices;
mod head;
mod products;
mod rows;

use choices::Choices;
use grail_kernels::{Isa, Kernels};
use std::sync::LazyLock;

/// The portable kernels on one thread, and every faster instruction set with one to three.
static ALL: LazyLock<Vec<Kernels>> = LazyLock::new(|| {
    let threads = |isa| if isa == Isa::Portable { 1..=1 } else { 1..=3 };
    let pairs = Isa::available().into_iter().flat_map(|isa| threads(isa).map(move |n| (isa, n)));
    pairs.map(|(isa, n)| Kernels::with_isa(isa, n).expect("this CPU has it")).collect()
});

/// Calls the kernel that `data` chooses, in the shape and with the values that it chooses.
///
/// Any bytes will do: what is missing counts as zeros.
pub fn drive(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kernels: [fn(&mut Choices<'_>); 11] = [
        products::gemm,
        products::fused,
        attention::inference,
        attention::training,
        head::race,
        head::log_softmax,
        head::fused,
        rows::rms_norm,
        rows::gates,
        rows::rope,
        rows::reductions,
    ];
    let kernel = choices.below(kernels.len());
    kernels[kernel](&mut choices);
}

/// Panics at the first difference in bits. NaN equals NaN, whatever its payload.
fn assert_same(what: &str, kernels: &Kernels, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}, {kernels:?}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{what}, {kernels:?}: value {index} is {got:e}, want {want:e}");
    }
}
