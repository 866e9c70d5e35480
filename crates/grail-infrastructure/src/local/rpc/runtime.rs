//! The runtime that the local chain says it has: its metadata, its version, and its calls.

use std::sync::{Arc, OnceLock};

use frame_metadata::v14::{
    ExtrinsicMetadata, PalletMetadata, RuntimeMetadataV14, SignedExtensionMetadata,
};
use frame_metadata::v15::{
    RuntimeMetadataV15, StorageEntryMetadata, StorageEntryModifier, StorageEntryType,
};
use frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};
use parity_scale_codec::{Decode, Encode};
use scale_info::{PortableType, TypeDefVariant};
use serde_json::{Value as Json, json};

use crate::substrate::{Metadata, MetadataError};

/// Metadata of the runtime that the main net had in November 2026.
const METADATA: &[u8] = include_bytes!("../../../assets/subtensor_spec461_v15.scale");

/// A runtime.
pub struct Runtime {
    /// Its metadata, read.
    pub metadata: Metadata,
    /// Version of the runtime, which every signature covers.
    pub spec_version: u32,
    /// Version of the extrinsics' format.
    pub transaction_version: u32,
    bytes: Vec<u8>,
    format_14: OnceLock<Option<Vec<u8>>>,
}

impl Runtime {
    /// Returns the runtime of spec version 461.
    ///
    /// # Panics
    /// Never: the metadata comes with this program, and a test reads it.
    pub fn current() -> Arc<Self> {
        let current = Self::new(METADATA, 461).expect("the metadata of this program is read");
        // Not kept for ever: each chain has it at its own pace.
        Arc::new(current)
    }

    /// Returns the runtime of `metadata`, of format 14 or 15, at `spec_version`.
    ///
    /// # Errors
    /// When the bytes are no metadata.
    pub fn new(metadata: &[u8], spec_version: u32) -> Result<Self, MetadataError> {
        Ok(Self {
            metadata: Metadata::parse(metadata)?,
            spec_version,
            transaction_version: 1,
            bytes: metadata.to_vec(),
            format_14: OnceLock::new(),
        })
    }

    /// Returns the same runtime at another version, as after an upgrade.
    ///
    /// # Errors
    /// Never for a runtime that was read before.
    pub fn at_version(&self, spec_version: u32) -> Result<Self, MetadataError> {
        Self::new(&self.bytes, spec_version)
    }

    /// Returns the runtime as a chain with this time between blocks has it: clients read that from
    /// the metadata. Metadata of format 15 also gets what the newest clients ask for, see
    /// [`add_epoch_consensus`].
    ///
    /// # Errors
    /// Never for a runtime that was read before.
    pub fn for_chain(self: Arc<Self>, block_time_ms: u64) -> Result<Arc<Self>, MetadataError> {
        let mut bytes = self.bytes.as_slice();
        let Ok(mut prefixed) = RuntimeMetadataPrefixed::decode(&mut bytes) else { return Ok(self) };
        let half = block_time_ms / 2;
        let constants =
            [(("Aura", "SlotDuration"), block_time_ms), (("Timestamp", "MinimumPeriod"), half)];
        for ((pallet, name), value) in constants {
            if let Some(constant) = constant_of(&mut prefixed.1, pallet, name) {
                *constant = value.encode();
            }
        }
        if let RuntimeMetadata::V15(metadata) = &mut prefixed.1 {
            add_epoch_consensus(metadata);
        }
        let bytes = prefixed.encode();
        if bytes == self.bytes {
            return Ok(self);
        }
        let transaction_version = self.transaction_version;
        Ok(Arc::new(Self { transaction_version, ..Self::new(&bytes, self.spec_version)? }))
    }

    /// Returns the formats that the metadata is there in.
    pub fn formats(&self) -> Vec<u32> {
        if self.metadata.format() == 14 { vec![14] } else { vec![14, 15] }
    }

    /// Returns the metadata in `format`, if it is there.
    pub fn metadata_in(&self, format: u32) -> Option<&[u8]> {
        if format == u32::from(self.metadata.format()) {
            return Some(&self.bytes);
        }
        let convert = || to_format_14(&self.bytes);
        (format == 14).then(|| self.format_14.get_or_init(convert).as_deref())?
    }

    /// Returns the answer of `state_getRuntimeVersion`.
    pub fn version(&self) -> Json {
        // Hashes of the names of runtime APIs with their versions, for the few that clients ask for.
        json!({
            "specName": "node-subtensor",
            "implName": "node-subtensor",
            "authoringVersion": 1,
            "specVersion": self.spec_version,
            "implVersion": 1,
            "apis": [["0xdf6acb689907609b", 5], ["0x37e397fc7c91f5e4", 2], ["0xbc9d89904f5b923f", 1]],
            "transactionVersion": self.transaction_version,
            "systemVersion": 1,
            "stateVersion": 1,
        })
    }
}

/// Finds the value of a constant.
fn constant_of<'a>(
    metadata: &'a mut RuntimeMetadata,
    pallet: &str,
    name: &str,
) -> Option<&'a mut Vec<u8>> {
    match metadata {
        RuntimeMetadata::V14(metadata) => {
            let pallet = metadata.pallets.iter_mut().find(|known| known.name == pallet)?;
            let mut constants = pallet.constants.iter_mut();
            constants.find(|known| known.name == name).map(|known| &mut known.value)
        }
        RuntimeMetadata::V15(metadata) => {
            let pallet = metadata.pallets.iter_mut().find(|known| known.name == pallet)?;
            let mut constants = pallet.constants.iter_mut();
            constants.find(|known| known.name == name).map(|known| &mut known.value)
        }
        _ => None,
    }
}

/// Adds the storage item `SubtensorModule.SubnetEpochConsensus`, which runtimes after 461 have: the
/// official SDK 11.3 sets no weights where the metadata lacks it. It is nowhere stored, so a subnet
/// has the default, `Yuma`. Source: spec/bittensor.md sections 3 and 6.
fn add_epoch_consensus(metadata: &mut RuntimeMetadataV15) {
    const ITEM: &str = "SubnetEpochConsensus";
    let pallet = metadata.pallets.iter_mut().find(|pallet| pallet.name == "SubtensorModule");
    let Some(storage) = pallet.and_then(|pallet| pallet.storage.as_mut()) else { return };
    // Another item by netuid lends the type of its key.
    let tempo = storage.entries.iter().find(|entry| entry.name == "Tempo");
    let Some(StorageEntryType::Map { hashers, key, .. }) = tempo.map(|tempo| tempo.ty.clone())
    else {
        return;
    };
    if storage.entries.iter().any(|entry| entry.name == ITEM) {
        return;
    }
    let value = u32::try_from(metadata.types.types.len()).unwrap_or(u32::MAX);
    let variant = |name: &str, index| scale_info::Variant {
        name: name.to_owned(),
        fields: Vec::new(),
        index,
        docs: Vec::new(),
    };
    let segments = ["pallet_subtensor", "epoch", "EpochConsensus"].map(str::to_owned);
    let consensus = scale_info::Type {
        path: scale_info::Path::from_segments_unchecked(segments),
        type_params: Vec::new(),
        type_def: TypeDefVariant { variants: vec![variant("Yuma", 0), variant("Null", 1)] }.into(),
        docs: Vec::new(),
    };
    metadata.types.types.push(PortableType { id: value, ty: consensus });
    storage.entries.push(StorageEntryMetadata {
        name: ITEM.to_owned(),
        modifier: StorageEntryModifier::Default,
        ty: StorageEntryType::Map { hashers, key, value: value.into() },
        default: vec![0],
        docs: Vec::new(),
    });
}

/// Returns metadata of format 15 in format 14, which describes no runtime APIs.
fn to_format_14(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let prefixed = RuntimeMetadataPrefixed::decode(&mut bytes).ok()?;
    let RuntimeMetadata::V15(metadata) = prefixed.1 else { return None };
    let is_extrinsic =
        |path: &[String]| path.last().is_some_and(|name| name == "UncheckedExtrinsic");
    let mut types = metadata.types;
    let known = types.types.iter().find(|ty| is_extrinsic(&ty.ty.path.segments)).map(|ty| ty.id);
    let ty = match known {
        Some(id) => id,
        None => add_extrinsic_type(&mut types, &metadata.extrinsic),
    };
    let pallets = metadata.pallets.into_iter().map(|pallet| PalletMetadata {
        name: pallet.name,
        storage: pallet.storage,
        calls: pallet.calls,
        event: pallet.event,
        constants: pallet.constants,
        error: pallet.error,
        index: pallet.index,
    });
    let extensions =
        metadata.extrinsic.signed_extensions.into_iter().map(|extension| SignedExtensionMetadata {
            identifier: extension.identifier,
            ty: extension.ty,
            additional_signed: extension.additional_signed,
        });
    let format_14 = RuntimeMetadataV14 {
        pallets: pallets.collect(),
        extrinsic: ExtrinsicMetadata {
            ty: ty.into(),
            version: metadata.extrinsic.version,
            signed_extensions: extensions.collect(),
        },
        ty: metadata.ty,
        types,
    };
    Some(RuntimeMetadataPrefixed(prefixed.0, RuntimeMetadata::V14(format_14)).encode())
}

/// Adds the type of extrinsics, whose four parameters are all that readers of format 14 look at.
fn add_extrinsic_type(
    types: &mut scale_info::PortableRegistry,
    extrinsic: &frame_metadata::v15::ExtrinsicMetadata<scale_info::form::PortableForm>,
) -> u32 {
    use scale_info::TypeDefTuple;
    let id = u32::try_from(types.types.len()).unwrap_or(u32::MAX);
    let parameters = [
        ("Address", extrinsic.address_ty),
        ("Call", extrinsic.call_ty),
        ("Signature", extrinsic.signature_ty),
        ("Extra", extrinsic.extra_ty),
    ];
    let segments = ["sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic"];
    let ty = scale_info::Type {
        path: scale_info::Path::from_segments_unchecked(segments.map(str::to_owned)),
        type_params: parameters
            .map(|(name, ty)| scale_info::TypeParameter::new_portable(name.to_owned(), Some(ty)))
            .to_vec(),
        type_def: TypeDefTuple::new_portable([]).into(),
        docs: Vec::new(),
    };
    types.types.push(PortableType { id, ty });
    id
}
