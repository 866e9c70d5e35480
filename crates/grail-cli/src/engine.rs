//! The one model provider of the process: all roles share its kernels, threads and loaded models.

use std::sync::Arc;

use anyhow::{Context, Result};
use grail_model::{EngineConfig as EngineBounds, Provider, ProviderConfig, Runtime, TrainerConfig};

use crate::config::EngineConfig;

/// Returns the number of compute threads that `config` asks for.
pub fn threads(config: EngineConfig) -> usize {
    match config.threads {
        0 => ProviderConfig::default().threads,
        threads => threads,
    }
}

/// Starts the kernels for whoever only generates, with the runtime that was configured.
pub fn provider(config: EngineConfig) -> Result<Arc<Provider>> {
    start(config, config.runtime.0, TrainerConfig::default())
}

/// Starts the kernels for whoever judges or trains, which is always exact.
pub fn exact_provider(config: EngineConfig, trainer: TrainerConfig) -> Result<Arc<Provider>> {
    start(config, Runtime::Exact, trainer)
}

/// Returns the provider of the miners beside those that `exact` serves: the same one, unless
/// another runtime was configured.
pub fn miners_provider(config: EngineConfig, exact: &Arc<Provider>) -> Result<Arc<Provider>> {
    match config.runtime.0 {
        Runtime::Exact => Ok(Arc::clone(exact)),
        Runtime::Bf16 => provider(config),
    }
}

fn start(config: EngineConfig, runtime: Runtime, trainer: TrainerConfig) -> Result<Arc<Provider>> {
    let config = ProviderConfig {
        threads: threads(config),
        runtime,
        engine: EngineBounds {
            max_running_sequences: config.max_running_sequences,
            kv_bytes_max: config.kv_bytes_max,
            prompt_cache_bytes_max: config.prompt_cache_bytes_max,
            prefill_rows_max: config.prefill_rows_max,
            prefill_rows_while_streaming_max: config.prefill_rows_while_streaming_max,
            ..EngineBounds::default()
        },
        trainer,
        ..ProviderConfig::default()
    };
    let provider = Provider::new(config).context("while starting the engine")?;
    Ok(Arc::new(provider))
}
