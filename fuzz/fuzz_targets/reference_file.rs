//! Drives the reader of the reference's Parquet files with a fuzzer's bytes.

#![no_main]

#[path = "../../crates/grail-testkit/tests/decoders/driver/mod.rs"]
#[allow(dead_code, reason = "each fuzzer drives one target")]
mod driver;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    driver::REFERENCE_FILE.run(&HEAP, data);
});
