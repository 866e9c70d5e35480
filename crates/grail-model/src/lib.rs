//! The model provider: weights, tokenizer, chat template, exact inference and training.

mod arch;
pub mod chat;
pub mod engine;
mod folder;
pub mod formats;
pub mod init;
mod noise;
mod parallel;
pub mod perturb;
pub mod provider;
pub mod tiny;
pub mod tokenizer;
pub mod train;

pub use arch::{Runtime, UnknownRuntime};
pub use engine::service::{
    EngineService, FinishReason, SequenceEvent, SequenceRequest, ServiceConfig, ServiceStats,
    SubmitError, Ticket,
};
pub use engine::{Engine, EngineConfig};
pub use folder::folder_digest;
pub use init::initialise;
pub use provider::{LocalModel, Provider, ProviderConfig};
pub use train::{LoraConfig, LoraTargets, ModelTrainer, Precision, TrainerConfig};
