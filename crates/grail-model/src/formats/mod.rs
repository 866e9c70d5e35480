//! Model files: configuration, weights and the import of foreign formats.
//!
//! A model is a Hugging Face folder (`config.json`, `model.safetensors`, `tokenizer.json`, ...).
//! Everything else is first imported into that layout, so that only one layout is ever served.

pub mod config;
mod dtype;
mod error;
pub mod gguf;
mod import;
pub mod safetensors;
mod storing;

pub use dtype::Dtype;
pub use error::FormatError;
pub use gguf::import_gguf;
pub use import::{FileDigest, ImportProgress, ImportReport, import_folder, import_model};
pub(crate) use storing::{write_bytes, write_file, write_folder};
