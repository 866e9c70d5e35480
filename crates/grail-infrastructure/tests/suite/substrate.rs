//! The chain's bytes against those of the real packages and of a real node.

mod calls;
mod extrinsics;
mod formats;
mod json;
mod localnet;
mod session;
mod storage;
mod summaries;

use grail_infrastructure::substrate::Metadata;
use grail_testkit::vectors::shared;
use std::sync::LazyLock;

/// Metadata of spec 461, format 15.
static SPEC_461: LazyLock<Metadata> = LazyLock::new(|| metadata("subtensor_spec461_v15.scale"));

/// Metadata of spec 425, format 14, which describes no runtime APIs.
static SPEC_425: LazyLock<Metadata> =
    LazyLock::new(|| metadata("subtensor_spec425_fast_v14.scale"));

/// Metadata of the main net's spec 393, format 16.
static SPEC_393: LazyLock<Metadata> = LazyLock::new(|| metadata("finney_spec393_v16.scale"));

fn metadata(file: &str) -> Metadata {
    let bytes = std::fs::read(shared("bittensor/metadata", file)).unwrap();
    Metadata::parse(&bytes).unwrap()
}
