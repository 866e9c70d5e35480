//! The tiny model of the vectors.

use std::sync::Arc;

use grail_model::{LocalModel, Provider, ProviderConfig};
use grail_testkit::vectors;

/// Loads it with one thread: no thread changes a bit.
pub fn load() -> Arc<LocalModel> {
    let provider = Provider::new(ProviderConfig { threads: 1, ..ProviderConfig::default() });
    provider.unwrap().load_model(&vectors::path("e2e", "model")).unwrap()
}
