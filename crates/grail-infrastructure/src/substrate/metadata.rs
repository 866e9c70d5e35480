//! What a runtime says of itself: pallets, types, extensions, runtime APIs, all found by name.

use std::collections::{BTreeMap, BTreeSet};

use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
use parity_scale_codec::Decode as _;
use scale_info::form::PortableForm;
use scale_info::{PortableRegistry, TypeDef, Variant};

use super::decode::{self, DecodeError};
use super::encode::{self, EncodeError};
use super::hash::Hasher;
use super::value::Value;

mod versions;

/// Most bytes of metadata. The largest seen has 0.4 MB.
pub const METADATA_BYTES_MAX: usize = 8 << 20;

const MAGIC: &[u8; 4] = b"meta";

/// Bytes that are no metadata this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The bytes do not start as metadata does.
    #[error("not metadata: it does not start with `meta`")]
    NotMetadata,
    /// A format that is not known here.
    #[error("metadata of format {0}; 14, 15 and 16 are known, ask the node for 15")]
    UnknownFormat(u8),
    /// The bytes are not of their format.
    #[error("metadata of format {format} cannot be read: {reason}")]
    Malformed {
        /// Format, from its version byte.
        format: u8,
        /// What is wrong.
        reason: String,
    },
    /// More bytes than any runtime has.
    #[error("metadata of {0} bytes, more than {METADATA_BYTES_MAX}")]
    TooLarge(usize),
}

/// A name that the metadata does not have: the runtime is older, newer or another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this runtime has no {kind} `{name}`")]
pub struct LookupError {
    /// What was looked for, such as `call`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl LookupError {
    pub(super) fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// A runtime's description of itself, in one form for the formats 14, 15 and 16.
#[derive(Debug)]
pub struct Metadata {
    format: u8,
    types: PortableRegistry,
    pallets: BTreeMap<String, Pallet>,
    extensions: Vec<Extension>,
    /// Type of a call of any pallet.
    call: u32,
    /// By API, then function.
    apis: BTreeMap<String, BTreeMap<String, Function>>,
}

/// One pallet. Types are indices into the registry.
#[derive(Debug)]
pub(super) struct Pallet {
    pub(super) index: u8,
    pub(super) calls: Option<u32>,
    pub(super) errors: Option<u32>,
    pub(super) constants: BTreeMap<String, (u32, Vec<u8>)>,
    /// Prefix of the storage keys.
    pub(super) prefix: String,
    pub(super) storage: BTreeMap<String, Entry>,
}

/// One storage item of a pallet.
#[derive(Debug)]
pub(super) struct Entry {
    /// Whether the absence of a value is `None`, and not the default.
    pub(super) is_optional: bool,
    pub(super) hashers: Vec<Hasher>,
    /// Type of the key, of a tuple of keys where there are several hashers.
    pub(super) key: Option<u32>,
    pub(super) value: u32,
    pub(super) default: Vec<u8>,
}

/// One function of a runtime API.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) parameters: Vec<(String, u32)>,
    pub(super) output: u32,
}

/// A transaction extension: what it adds to an extrinsic, and to what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Name, such as `CheckNonce`.
    pub identifier: String,
    /// Type of what stands in the extrinsic.
    pub(super) extra: u32,
    /// Type of what is signed in addition.
    pub(super) additional: u32,
}

impl Metadata {
    /// Reads metadata of format 14, 15 or 16: the answer of `state_getMetadata`.
    ///
    /// # Errors
    /// When the bytes are not such metadata.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        if bytes.len() > METADATA_BYTES_MAX {
            return Err(MetadataError::TooLarge(bytes.len()));
        }
        let Some((MAGIC, [format, ..])) = bytes.split_first_chunk::<4>() else {
            return Err(MetadataError::NotMetadata);
        };
        let format = *format;
        if !(14..=16).contains(&format) {
            return Err(MetadataError::UnknownFormat(format));
        }
        let malformed = |reason: String| MetadataError::Malformed { format, reason };
        let mut rest = bytes;
        let prefixed = RuntimeMetadataPrefixed::decode(&mut rest)
            .map_err(|error| malformed(error.to_string().chars().take(200).collect()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow it", rest.len())));
        }
        let mut metadata = match prefixed.1 {
            RuntimeMetadata::V14(metadata) => versions::from_v14(metadata).map_err(malformed)?,
            RuntimeMetadata::V15(metadata) => versions::from_v15(metadata),
            RuntimeMetadata::V16(metadata) => versions::from_v16(metadata).map_err(malformed)?,
            _ => return Err(MetadataError::UnknownFormat(format)),
        };
        metadata.forget_docs();
        Ok(metadata)
    }

    /// Forgets what the runtime's authors say of types, which is most of the memory; what they say
    /// of errors is told to people.
    fn forget_docs(&mut self) {
        let errors: BTreeSet<u32> =
            self.pallets.values().filter_map(|pallet| pallet.errors).collect();
        for ty in self.types.types.iter_mut().filter(|ty| !errors.contains(&ty.id)) {
            ty.ty.docs = Vec::new();
            match &mut ty.ty.type_def {
                TypeDef::Composite(composite) => {
                    composite.fields.iter_mut().for_each(|field| field.docs = Vec::new());
                }
                TypeDef::Variant(variants) => {
                    for variant in &mut variants.variants {
                        variant.docs = Vec::new();
                        variant.fields.iter_mut().for_each(|field| field.docs = Vec::new());
                    }
                }
                _ => {}
            }
        }
    }

    /// Reads the answer of `state_call("Metadata_metadata_at_version", …)`; `None` when the runtime
    /// does not offer that version.
    ///
    /// # Errors
    /// When the answer holds no metadata.
    pub fn parse_at_version(answer: &[u8]) -> Result<Option<Self>, MetadataError> {
        let mut rest = match answer {
            [0] => return Ok(None),
            [1, rest @ ..] => rest,
            _ => return Err(MetadataError::NotMetadata),
        };
        let length = decode::compact(&mut rest).map_err(|_| MetadataError::NotMetadata)?;
        if u128::try_from(rest.len()) != Ok(length) {
            return Err(MetadataError::NotMetadata);
        }
        Self::parse(rest).map(Some)
    }

    /// Returns the format: 14, 15 or 16.
    pub fn format(&self) -> u8 {
        self.format
    }

    /// Returns the transaction extensions in the order of the extrinsic.
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// Returns the names of the pallets.
    pub fn pallets(&self) -> impl Iterator<Item = &str> {
        self.pallets.keys().map(String::as_str)
    }

    /// Returns the index of a pallet.
    ///
    /// # Errors
    /// When there is no such pallet.
    pub fn pallet_index(&self, name: &str) -> Result<u8, LookupError> {
        self.pallet(name).map(|pallet| pallet.index)
    }

    /// Reads a constant.
    ///
    /// # Errors
    /// When there is no such constant, or its bytes are not of its type.
    pub fn constant(&self, pallet: &str, name: &str) -> Result<Value, ConstantError> {
        let full = format!("{pallet}.{name}");
        let (ty, bytes) = self
            .pallet(pallet)?
            .constants
            .get(name)
            .ok_or_else(|| LookupError::new("constant", &full))?;
        Ok(self.read(*ty, bytes, || full)?)
    }

    pub(super) fn pallet(&self, name: &str) -> Result<&Pallet, LookupError> {
        self.pallets.get(name).ok_or_else(|| LookupError::new("pallet", name))
    }

    pub(super) fn pallet_at(&self, index: u8) -> Option<(&str, &Pallet)> {
        let mut pallets = self.pallets.iter();
        pallets
            .find(|(_, pallet)| pallet.index == index)
            .map(|(name, pallet)| (name.as_str(), pallet))
    }

    pub(super) fn function(&self, api: &str, name: &str) -> Option<&Function> {
        self.apis.get(api)?.get(name)
    }

    pub(super) fn call_type(&self) -> u32 {
        self.call
    }

    pub(super) fn types(&self) -> &PortableRegistry {
        &self.types
    }

    /// Returns the variants of an enumeration: the calls, events or errors of a pallet.
    pub(super) fn variants(&self, ty: Option<u32>) -> &[Variant<PortableForm>] {
        match ty.and_then(|ty| self.types.resolve(ty)).map(|ty| &ty.type_def) {
            Some(TypeDef::Variant(variants)) => &variants.variants,
            _ => &[],
        }
    }

    /// Reads a value that takes all of `bytes`.
    pub(super) fn read(
        &self,
        ty: u32,
        bytes: &[u8],
        what: impl FnOnce() -> String,
    ) -> Result<Value, DecodeError> {
        decode::decode_all(&self.types, ty, bytes).map_err(|kind| kind.reading(what()))
    }

    /// Reads a value from the front of `bytes`.
    pub(super) fn read_prefix(
        &self,
        ty: u32,
        bytes: &mut &[u8],
        what: impl FnOnce() -> String,
    ) -> Result<Value, DecodeError> {
        decode::decode_prefix(&self.types, ty, bytes).map_err(|kind| kind.reading(what()))
    }

    /// Writes a value.
    pub(super) fn write(
        &self,
        ty: u32,
        value: &Value,
        what: impl FnOnce() -> String,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        encode::encode(&self.types, ty, value, &mut out).map_err(|e| e.writing(&what()))?;
        Ok(out)
    }
}

/// Why a constant cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstantError {
    /// There is no such constant.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its bytes are not of its type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
