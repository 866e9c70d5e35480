//! What any client or server of a Substrate chain needs to know of its bytes; no input or output.
//!
//! Everything is looked up by name in the [`Metadata`] that a chain hands out: indices of pallets,
//! calls and errors move with every runtime upgrade. Values are dynamic ([`Value`]) and typed by the
//! metadata. Decoders take bytes of strangers: they are bounded in depth and memory ([`decode`]) and
//! never panic; encoders refuse a value that does not fit its type, and say where.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bytes = include_bytes!(
//! #     "../../grail-testkit/vectors/bittensor/metadata/subtensor_spec461_v15.scale");
//! use grail_infrastructure::substrate::{Metadata, Value};
//!
//! let metadata = Metadata::parse(bytes)?;
//! let tempo = metadata.storage("SubtensorModule", "Tempo")?;
//! let key = tempo.key(&[Value::from(81_u16)])?;
//! assert_eq!(key.len(), 16 + 16 + 2);
//! // What the chain answers where nothing is stored: the item's default.
//! assert_eq!(tempo.decode(None)?, Some(Value::from(10_u16)));
//!
//! let call = metadata.encode_call(
//!     "SubtensorModule",
//!     "burned_register",
//!     [("netuid", Value::from(81_u16)), ("hotkey", Value::bytes([7; 32]))],
//! )?;
//! assert_eq!(metadata.decode_call(&call)?.name, "burned_register");
//! # Ok(())
//! # }
//! ```
//!
//! Source: spec/bittensor.md sections 2, 3 and 8, and the `scale-info` and `frame-metadata` crates.

mod call;
mod decode;
mod encode;
mod era;
mod event;
mod extrinsic;
mod hash;
mod header;
mod metadata;
mod runtime_api;
mod ss58;
mod storage;
mod value;

pub use call::{Call, CallError};
pub use decode::{DecodeError, DecodeErrorKind};
pub use encode::{EncodeError, EncodeErrorKind};
pub use era::{Era, EraError};
pub use event::{DispatchError, EventRecord, ModuleError, Phase, outcome};
pub use extrinsic::{
    BadExtrinsicSignature, ExtensionError, Extrinsic, ExtrinsicError, MultiSignature,
    SignedExtrinsic, SignedWith, SigningContext, SigningPayload,
};
pub use hash::{Hasher, blake2_128, blake2_256, twox_64, twox_128};
pub use header::Header;
pub use metadata::{ConstantError, Extension, LookupError, Metadata, MetadataError};
pub use runtime_api::RuntimeFunction;
pub use ss58::{Address, AddressError};
pub use storage::{KeyError, StorageItem};
pub use value::{ShapeError, Value};
