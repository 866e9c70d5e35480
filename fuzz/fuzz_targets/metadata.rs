//! Drives the reader of runtimes' metadata with a fuzzer's bytes.

#![no_main]

#[path = "../../crates/grail-testkit/tests/decoders/driver/mod.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod driver;

#[path = "../../crates/grail-testkit/tests/decoders/driver/chain.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod chain;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

libfuzzer_sys::fuzz_target!(init: chain::warm_up(), |data: &[u8]| {
    chain::METADATA.run(&HEAP, data);
});
