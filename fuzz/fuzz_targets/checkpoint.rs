//! Drives the readers of a model folder's files with a fuzzer's bytes.

#![no_main]

#[path = "../../crates/grail-testkit/tests/decoders/driver/mod.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod driver;

#[path = "../../crates/grail-testkit/tests/decoders/driver/checkpoint.rs"]
mod checkpoint;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

libfuzzer_sys::fuzz_target!(
    // The crate `tokenizers` panics on some broken files, which our reader catches; the fuzzer's own
    // hook would count that as a crash. A panic that nobody catches still ends the fuzzer.
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| {
        checkpoint::CHECKPOINT.run(&HEAP, data);
    }
);
