//! The ports' model: an engine with its tokenizer, loaded once for all roles of a process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use grail_kernels::{Isa, Kernels};
use grail_ports::environment::ChatMessage;
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelError, ModelInfo, ModelProvider, Score, ScoreRequest,
    StopFlag, Trainer,
};
use grail_ports::reference::{PromptForm, ReferenceModel, Trace, TraceRequest};
use grail_protocol::ids::{Digest, TokenId};

use crate::arch::Runtime;
use crate::chat::{self, ChatTemplate};
use crate::engine::{Engine, EngineConfig};
use crate::folder::{folder_digest, unloadable};
use crate::tokenizer::Tokenizer;
use crate::train::{ModelTrainer, TrainerConfig};

/// How models are run. Nothing but the runtime changes a bit of what they compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Threads that compute, the calling one included; at least 1.
    pub threads: usize,
    /// Instruction set; the CPU's best where `None`.
    pub isa: Option<Isa>,
    /// What happens to values between operations.
    pub runtime: Runtime,
    /// Bounds of generation and scoring.
    pub engine: EngineConfig,
    /// Bounds of training.
    pub trainer: TrainerConfig,
}

impl Default for ProviderConfig {
    /// All cores, the best instruction set, the default bounds.
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            isa: None,
            runtime: Runtime::Exact,
            engine: EngineConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

/// Loads models. Roles that ask for equal checkpoints get the same one, whatever its folder.
#[derive(Debug)]
pub struct Provider {
    kernels: Kernels,
    config: ProviderConfig,
    /// Loaded models by checkpoint digest. An entry whose model was dropped is dead.
    loaded: Mutex<HashMap<Digest, Weak<LocalModel>>>,
}

impl Provider {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] for a thread count or an instruction set this machine cannot
    /// give.
    pub fn new(config: ProviderConfig) -> Result<Self, ModelError> {
        let isa = config.isa.unwrap_or_else(Isa::detect);
        let kernels = Kernels::with_isa(isa, config.threads)
            .map_err(|error| ModelError::BadRequest(error.to_string()))?;
        tracing::info!(isa = %isa, threads = config.threads, "started the kernels");
        Ok(Self { kernels, config, loaded: Mutex::default() })
    }

    /// Returns the kernels that all models of this provider share.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// As [`ModelProvider::load`], with the concrete type.
    ///
    /// # Errors
    /// As [`ModelProvider::load`].
    pub fn load_model(&self, dir: &Path) -> Result<Arc<LocalModel>, ModelError> {
        let digest = folder_digest(dir)?;
        // Held while loading, so that two roles do not load the same weights side by side.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = loaded.get(&digest).and_then(Weak::upgrade) {
            tracing::debug!(dir = %dir.display(), %digest, "the model is loaded already");
            return Ok(model);
        }
        loaded.retain(|_, model| model.strong_count() > 0);
        let model = LocalModel::load(dir, digest, self.kernels.clone(), &self.config)?;
        let model = Arc::new(model);
        loaded.insert(digest, Arc::downgrade(&model));
        let parameters = model.info.parameters;
        tracing::info!(dir = %dir.display(), %digest, parameters, "loaded a model");
        Ok(model)
    }

    /// As [`ModelProvider::trainer`], with the concrete type.
    ///
    /// # Errors
    /// As [`ModelProvider::trainer`]; [`ModelError::BadRequest`] unless the runtime is the exact one.
    pub fn model_trainer(&self, dir: &Path) -> Result<ModelTrainer, ModelError> {
        if self.config.runtime != Runtime::Exact {
            return Err(ModelError::BadRequest(format!(
                "the {} runtime does not train: gradients are those of the exact one; set \
                 engine.runtime to exact",
                self.config.runtime
            )));
        }
        ModelTrainer::load(dir, self.kernels.clone(), self.config.trainer)
    }
}

impl ModelProvider for Provider {
    fn load(&self, dir: &Path) -> Result<Arc<dyn Model>, ModelError> {
        Ok(self.load_model(dir)?)
    }

    fn trainer(&self, dir: &Path) -> Result<Box<dyn Trainer>, ModelError> {
        Ok(Box::new(self.model_trainer(dir)?))
    }
}

/// A model of this process.
#[derive(Debug)]
pub struct LocalModel {
    info: ModelInfo,
    engine: Arc<Engine>,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
}

impl LocalModel {
    fn load(
        dir: &Path,
        checkpoint_digest: Digest,
        kernels: Kernels,
        config: &ProviderConfig,
    ) -> Result<Self, ModelError> {
        let tokenizer = Tokenizer::load(dir).map_err(|error| unloadable(&error))?;
        let template = ChatTemplate::load(dir).map_err(|error| unloadable(&error))?;
        let eos_token_ids = tokenizer.eos_token_ids().to_vec();
        if eos_token_ids.is_empty() {
            return Err(ModelError::Unloadable(format!(
                "{} names no token that ends a completion; add eos_token_id to config.json",
                dir.display()
            )));
        }
        let engine = Engine::load(dir, eos_token_ids.clone(), kernels, config.engine)?
            .with_runtime(config.runtime);
        let model = engine.model_config();
        tokenizer.check(model, dir).map_err(|error| unloadable(&error))?;
        let bounded = |size: usize| u32::try_from(size).expect("config.json bounds every size");
        let info = ModelInfo {
            architecture: model.architecture.class_name().to_owned(),
            parameters: model.n_parameters(),
            hidden_size: bounded(model.hidden_size),
            vocab_size: bounded(model.vocab_size),
            max_position_embeddings: bounded(engine.positions_max()),
            eos_token_ids,
            checkpoint_digest,
            tokenizer_digest: Digest(tokenizer.digest()),
            numerics: config.runtime.numerics().to_owned(),
        };
        let (engine, tokenizer) = (Arc::new(engine), Arc::new(tokenizer));
        Ok(Self { info, engine, tokenizer, template })
    }

    /// Returns the engine, for what the port has no word for: a service, measurements.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Returns the chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }
}

impl ReferenceModel for LocalModel {
    fn end_token(&self) -> Option<TokenId> {
        self.tokenizer.eos_token_id()
    }

    fn render_as(
        &self,
        messages: &[ChatMessage],
        form: PromptForm,
    ) -> Result<Vec<TokenId>, ModelError> {
        let messages = spelled(messages);
        let text = match form {
            PromptForm::ChatMl => ChatTemplate::chatml().render(&messages, true),
            PromptForm::Thinking => self.template.render_thinking(&messages),
        };
        let text = text.map_err(|error| ModelError::BadRequest(error.to_string()))?;
        self.tokenizer
            .encode(&text, true)
            .map_err(|error| ModelError::BadRequest(error.to_string()))
    }

    fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.tokenizer
            .decode(tokens, false)
            .map_err(|error| ModelError::BadRequest(error.to_string()))
    }

    fn trace(&self, requests: &[TraceRequest], stop: &StopFlag) -> Result<Vec<Trace>, ModelError> {
        self.engine.trace(requests, self.end_token(), stop)
    }
}

fn spelled(messages: &[ChatMessage]) -> Vec<chat::ChatMessage> {
    let spell = |message: &ChatMessage| {
        chat::ChatMessage::new(message.role.as_str(), message.content.clone())
    };
    messages.iter().map(spell).collect()
}

impl Model for LocalModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, ModelError> {
        let text = self
            .template
            .render(&spelled(messages), true)
            .map_err(|error| ModelError::BadRequest(error.to_string()))?;
        self.encode(&text)
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        // A template writes the special tokens itself.
        self.tokenizer
            .encode(text, false)
            .map_err(|error| ModelError::BadRequest(error.to_string()))
    }

    fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.tokenizer
            .decode(tokens, true)
            .map_err(|error| ModelError::BadRequest(error.to_string()))
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        self.engine.generate(requests, stop, on_group)
    }

    fn score(&self, requests: &[ScoreRequest], stop: &StopFlag) -> Result<Vec<Score>, ModelError> {
        self.engine.score(requests, stop)
    }
}
