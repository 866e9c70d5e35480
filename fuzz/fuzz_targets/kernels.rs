//! Drives every kernel with a fuzzer's choices of shapes, options and values.

#![no_main]

#[path = "../../crates/grail-kernels/tests/shapes/driver/mod.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|data: &[u8]| driver::drive(data));
