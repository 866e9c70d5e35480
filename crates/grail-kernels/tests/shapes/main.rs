//! Draws shapes, options and values for every kernel and compares with the definition.
//!
//! [`driver`] does the work; `fuzz/` runs the same driver with a fuzzer's choices, for as long as one
//! likes. Here it gets a bounded number of random ones.

mod driver;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn every_kernel_is_its_definition_in_every_shape(
        choices in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        driver::drive(&choices);
    }
}

#[test]
fn no_choice_at_all_is_a_case_too() {
    for kernel in 0..=u8::MAX {
        driver::drive(&[kernel]);
    }
}
