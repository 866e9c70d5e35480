//! Runs a decoder over tokens: generation in batches and scoring, to the same bits (but for a
//! [`Runtime`] that says otherwise).
//!
//! Both are [`Decoder::forward`] over rows with a block table each. No result depends on which
//! other rows are in the batch, so requests may be packed, split and ordered at will.

pub(crate) mod batch;
mod blocks;
pub(crate) mod cache;
mod call;
mod head;
mod hub;
mod requests;
mod sampling;
mod scheduler;
mod scorer;
pub mod service;
mod tracer;

use std::path::Path;

use grail_kernels::Kernels;
use grail_ports::model::{Completion, GenerateRequest, ModelError, Score, ScoreRequest, StopFlag};
use grail_ports::reference::{Trace, TraceRequest};
use grail_protocol::ids::TokenId;

use self::cache::KvCache;
use self::hub::Hub;
use crate::arch::{Decoder, Runtime};
use crate::folder::unloadable;
use crate::formats::config::ModelConfig;
use crate::formats::safetensors::TensorSource;

pub(crate) use self::head::{Draw, Head};
pub(crate) use self::requests::{check_sequence, check_tokens};

/// Bounds of the engine's work and memory. None of them changes a bit of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences decoded at once, at least 1. More use the weights read from memory better.
    pub max_running_sequences: usize,
    /// Most bytes that keys and values may take: those of the running sequences, whatever calls
    /// they belong to, and those kept for prompts to come. Memory is used as it is needed.
    pub kv_bytes_max: usize,
    /// Most bytes, of those, that are kept for prompts to come: a prompt that begins like an
    /// earlier one, in whole blocks of 16 tokens, is not computed again. 0 keeps none.
    pub prompt_cache_bytes_max: usize,
    /// Most prompt tokens processed between two decoding steps, at least 1.
    pub prefill_rows_max: usize,
    /// As `prefill_rows_max` while somebody waits for each token of a running sequence (see
    /// [`service`]), at least 1: the longest that a long prompt holds up a token.
    pub prefill_rows_while_streaming_max: usize,
    /// Most tokens scored in one pass, at least 1; a longer sequence is one pass of its own.
    pub score_rows_max: usize,
    /// Rows that go through a layer together, at least 1: its buffers then stay in a CPU cache.
    pub layer_rows_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_running_sequences: 64,
            kv_bytes_max: 1 << 31,
            prompt_cache_bytes_max: 1 << 28,
            prefill_rows_max: 512,
            prefill_rows_while_streaming_max: 64,
            score_rows_max: 2048,
            layer_rows_max: 192,
        }
    }
}

impl EngineConfig {
    fn check(&self) -> Result<(), ModelError> {
        for (name, value) in [
            ("max_running_sequences", self.max_running_sequences),
            ("kv_bytes_max", self.kv_bytes_max),
            ("prefill_rows_max", self.prefill_rows_max),
            ("prefill_rows_while_streaming_max", self.prefill_rows_while_streaming_max),
            ("score_rows_max", self.score_rows_max),
            ("layer_rows_max", self.layer_rows_max),
        ] {
            if value == 0 {
                let text = format!("{name} is 0; set it to at least 1");
                return Err(ModelError::BadRequest(text));
            }
        }
        Ok(())
    }
}

/// A decoder with its kernels and bounds: token ids in, token ids and scores out.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    kernels: Kernels,
    config: EngineConfig,
    eos_token_ids: Vec<TokenId>,
    hub: Hub,
}

impl Engine {
    /// Loads `config.json` and the weights of `dir`. Any of `eos_token_ids` ends a completion.
    ///
    /// # Errors
    /// [`ModelError::Unloadable`] naming the file; [`ModelError::BadRequest`] for a bound of 0.
    pub fn load(
        dir: &Path,
        eos_token_ids: Vec<TokenId>,
        kernels: Kernels,
        config: EngineConfig,
    ) -> Result<Self, ModelError> {
        config.check()?;
        let decoder = load_decoder(dir, &kernels)?;
        Ok(Self { decoder, kernels, config, eos_token_ids, hub: Hub::default() })
    }

    /// Makes the engine one that computes as `runtime` does.
    #[must_use]
    pub fn with_runtime(mut self, runtime: Runtime) -> Self {
        self.decoder.shape.runtime = runtime;
        self
    }

    /// Returns how it computes.
    pub fn runtime(&self) -> Runtime {
        self.decoder.shape.runtime
    }

    /// Returns the shape of the model.
    pub fn model_config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Returns the most tokens that a sequence may have.
    pub fn positions_max(&self) -> usize {
        self.decoder.positions_max
    }

    /// As [`grail_ports::model::Model::generate`]. Calls from several threads share the batch, the
    /// bounds and the work.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] before any work, [`ModelError::Stopped`],
    /// [`ModelError::NotFinite`].
    pub fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        requests::check_generate(requests, self)?;
        call::generate(self, requests, stop, on_group)
    }

    /// As [`grail_ports::model::Model::score`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn score(
        &self,
        requests: &[ScoreRequest],
        stop: &StopFlag,
    ) -> Result<Vec<Score>, ModelError> {
        requests::check_score(requests, &self.decoder)?;
        scorer::score(self, requests, stop)
    }

    /// As [`grail_ports::reference::ReferenceModel::trace`], with the probability of `end_token` at
    /// the end of each completion.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn trace(
        &self,
        requests: &[TraceRequest],
        end_token: Option<TokenId>,
        stop: &StopFlag,
    ) -> Result<Vec<Trace>, ModelError> {
        requests::check_trace(requests, &self.decoder)?;
        tracer::trace(self, requests, end_token, stop)
    }

    /// Computes the logits at every position of `tokens`, `[tokens, vocab]`, in one pass. For
    /// measurements and tests: the services never need them all.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] for tokens outside the model.
    pub fn logits(&self, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        check_tokens(tokens, &self.decoder)?;
        let Self { decoder, kernels, .. } = self;
        let blocks = u32::try_from(cache::blocks_for(tokens.len()));
        let table: Vec<u32> = (0..blocks.expect("positions are below 2^14")).collect();
        let mut cache = KvCache::transient(&decoder.shape, table.len());
        let mut batch = batch::Batch::with_capacity(tokens.len());
        for (position, &token) in tokens.iter().enumerate() {
            batch.push(token, position, &table);
        }
        let mut scratch = crate::arch::Scratch::default();
        let rows_max = self.config.layer_rows_max;
        let stop = StopFlag::default();
        decoder.forward(kernels, &batch, &mut cache, &mut scratch, rows_max, &stop)?;
        let mut input = vec![0.0; scratch.x.len()];
        decoder.head_input(kernels, &scratch.x, &mut input);
        let mut logits = vec![0.0; tokens.len() * decoder.config.vocab_size];
        decoder.logits(kernels, &input, &mut logits);
        Ok(logits)
    }
}

impl Engine {
    /// Returns the bounds it works in.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Bytes of 16 positions in all layers.
    fn kv_block_bytes(&self) -> usize {
        KvCache::block_bytes(&self.decoder.shape, self.decoder.layers.len())
    }

    /// Most blocks of keys and values.
    fn kv_blocks_max(&self) -> usize {
        (self.config.kv_bytes_max / self.kv_block_bytes()).min(u32::MAX as usize)
    }
}

/// Loads the decoder of the model folder `dir`.
fn load_decoder(dir: &Path, kernels: &Kernels) -> Result<Decoder, ModelError> {
    let config = ModelConfig::load(dir).map_err(|error| unloadable(&error))?;
    let source = TensorSource::open(dir).map_err(|error| unloadable(&error))?;
    source.check(&config).map_err(|error| unloadable(&error))?;
    Decoder::load(&config, &source, kernels)
}
