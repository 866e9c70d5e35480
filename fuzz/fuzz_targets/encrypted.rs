//! Drives the reader of encrypted key files with a fuzzer's bytes.

#![no_main]

#[path = "../../crates/grail-testkit/tests/decoders/driver/mod.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod driver;

#[path = "../../crates/grail-testkit/tests/decoders/driver/outside.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod outside;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outside::ENCRYPTED.run(&HEAP, data);
});
