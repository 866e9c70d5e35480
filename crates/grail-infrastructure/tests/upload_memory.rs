//! How much memory uploads of files take that are much larger than that: its own process, so that
//! nothing else allocates.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "suite/common.rs"]
#[expect(dead_code, reason = "the suite uses the rest")]
mod common;
#[path = "suite/s3/server.rs"]
#[expect(dead_code, reason = "the suite uses the rest")]
mod server;

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use grail_infrastructure::object_store::S3Buckets;
use grail_ports::object_store::{Buckets as _, FilePut, ObjectStore};
use grail_protocol::ids::Digest;
use peak_alloc::PeakAlloc;
use sha2::Digest as _;
use tempfile::NamedTempFile;

use self::common::Served;
use self::server::{S3Server, secrets, settings};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const FILE_BYTES: u64 = 256 << 20;

/// Twice the four parts of 5 MiB that are under way: the server of the test is in this process too.
const MEMORY_BYTES_MAX: usize = 40 << 20;

fn large_file() -> (NamedTempFile, FilePut) {
    let mut file = NamedTempFile::new().unwrap();
    let mut hasher = sha2::Sha256::new();
    for index in 0..FILE_BYTES >> 20 {
        let block: Vec<u8> = index.to_le_bytes().repeat(1 << 17);
        hasher.update(&block);
        file.write_all(&block).unwrap();
    }
    (file, FilePut { size: FILE_BYTES, sha256: Digest(hasher.finalize().into()) })
}

/// Uploads the file and returns how much more memory than before was taken at most.
async fn peak_of(store: &dyn ObjectStore, file: &Path, want: FilePut) -> usize {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    assert_eq!(store.put_file("weights", file).await, Ok(want));
    let peak = HEAP.peak_usage() - before;
    assert_eq!(store.head("weights").await.unwrap().unwrap().size, FILE_BYTES);
    peak
}

#[tokio::test]
async fn an_upload_of_a_file_takes_the_memory_of_the_parts_under_way() {
    let (file, want) = large_file();
    let owner = secrets("0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a");
    let server = S3Server::start(std::slice::from_ref(&owner)).await;
    let s3 = S3Buckets::new(settings(server.port), &owner).unwrap();
    let served = Served::start(&common::config()).await;
    let folder = served.network.node("miner-1").await.unwrap().buckets;
    let http = served.remote("miner-1").await.buckets;
    for (name, store) in [("S3", s3.own()), ("folder", folder.own()), ("HTTP", http.own())] {
        let peak = peak_of(&*store, file.path(), want).await;
        println!("{name}: {} MiB for a file of {} MiB", peak >> 20, FILE_BYTES >> 20);
        assert!(peak <= MEMORY_BYTES_MAX, "{name}: {peak} bytes at most at once");
    }
}

#[tokio::test]
#[ignore = "measures; asserts nothing about speed"]
async fn a_file_goes_up_as_fast_as_bytes() {
    let (file, want) = large_file();
    let owner = secrets("0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a");
    let server = S3Server::start(std::slice::from_ref(&owner)).await;
    let store = S3Buckets::new(settings(server.port), &owner).unwrap().own();
    let bytes = bytes::Bytes::from(std::fs::read(file.path()).unwrap());
    let mib_per_s = |start: Instant| (FILE_BYTES >> 20) as f64 / start.elapsed().as_secs_f64();
    for round in 1..=5 {
        let start = Instant::now();
        store.put("weights", bytes.clone()).await.unwrap();
        let whole = mib_per_s(start);
        let start = Instant::now();
        assert_eq!(store.put_file("weights", file.path()).await, Ok(want));
        let streamed = mib_per_s(start);
        println!("round {round}: put {whole:.0} MiB/s, put_file {streamed:.0} MiB/s");
    }
}
