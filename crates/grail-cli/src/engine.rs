//! The one model provider of the process: all roles share its kernels, threads and loaded models.

use std::sync::Arc;

use anyhow::{Context, Result};
use grail_model::{EngineConfig as EngineBounds, Provider, ProviderConfig};

use crate::config::EngineConfig;

/// Returns the number of compute threads that `config` asks for.
pub fn threads(config: EngineConfig) -> usize {
    match config.threads {
        0 => ProviderConfig::default().threads,
        threads => threads,
    }
}

/// Starts the kernels.
pub fn provider(config: EngineConfig) -> Result<Arc<Provider>> {
    provider_with(config, EngineBounds::default())
}

/// Starts the kernels for work with bounds of its own.
pub fn provider_with(config: EngineConfig, engine: EngineBounds) -> Result<Arc<Provider>> {
    let config = ProviderConfig { threads: threads(config), engine, ..ProviderConfig::default() };
    let provider = Provider::new(config).context("while starting the engine")?;
    Ok(Arc::new(provider))
}
