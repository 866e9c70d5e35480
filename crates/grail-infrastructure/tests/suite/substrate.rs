//! The chain's bytes against those of the real packages and of a real node.

mod calls;
mod extrinsics;
mod json;
mod storage;

use grail_infrastructure::substrate::Metadata;
use grail_testkit::vectors::shared;
use std::sync::LazyLock;

/// Metadata of spec 461, format 15.
static SPEC_461: LazyLock<Metadata> = LazyLock::new(|| metadata("subtensor_spec461_v15.scale"));

fn metadata(file: &str) -> Metadata {
    let bytes = std::fs::read(shared("bittensor/metadata", file)).unwrap();
    Metadata::parse(&bytes).unwrap()
}
