//! The one model provider of the process: all roles share its kernels, threads and loaded models.

use std::sync::Arc;

use anyhow::{Context, Result};
use grail_model::{EngineConfig as EngineBounds, Provider, ProviderConfig, TrainerConfig};

use crate::config::EngineConfig;

/// Returns the number of compute threads that `config` asks for.
pub fn threads(config: EngineConfig) -> usize {
    match config.threads {
        0 => ProviderConfig::default().threads,
        threads => threads,
    }
}

/// Starts the kernels, for models that are not trained.
pub fn provider(config: EngineConfig) -> Result<Arc<Provider>> {
    trainer_provider(config, TrainerConfig::default())
}

/// Starts the kernels.
pub fn trainer_provider(config: EngineConfig, trainer: TrainerConfig) -> Result<Arc<Provider>> {
    let config = ProviderConfig {
        threads: threads(config),
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
