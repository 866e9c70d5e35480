//! Brings the formats 14, 15 and 16 of metadata into one form.

use std::collections::BTreeMap;

use frame_metadata::v14::{StorageEntryModifier, StorageEntryType};
use frame_metadata::{v14, v15, v16};
use scale_info::PortableRegistry;
use scale_info::form::PortableForm;

use super::{Entry, Extension, Function, Metadata, Pallet};

/// The version of transaction extensions that extrinsics of version 4 carry.
const EXTENSIONS_OF_VERSION_4: u8 = 0;

pub(super) fn from_v14(metadata: v14::RuntimeMetadataV14) -> Result<Metadata, String> {
    let call = call_of_extrinsic(&metadata.types, metadata.extrinsic.ty.id)?;
    Ok(Metadata {
        format: 14,
        call,
        pallets: metadata.pallets.into_iter().map(pallet_v14).collect(),
        extensions: metadata
            .extrinsic
            .signed_extensions
            .into_iter()
            .map(|e| Extension {
                identifier: e.identifier,
                extra: e.ty.id,
                additional: e.additional_signed.id,
            })
            .collect(),
        // Format 14 does not describe runtime APIs.
        apis: BTreeMap::new(),
        types: metadata.types,
    })
}

pub(super) fn from_v15(metadata: v15::RuntimeMetadataV15) -> Metadata {
    Metadata {
        format: 15,
        call: metadata.extrinsic.call_ty.id,
        pallets: metadata.pallets.into_iter().map(pallet_v15).collect(),
        extensions: metadata
            .extrinsic
            .signed_extensions
            .into_iter()
            .map(|e| Extension {
                identifier: e.identifier,
                extra: e.ty.id,
                additional: e.additional_signed.id,
            })
            .collect(),
        apis: metadata
            .apis
            .into_iter()
            .map(|api| {
                let functions = api.methods.into_iter();
                (api.name, functions.map(|f| function(f.name, f.inputs, f.output.id)).collect())
            })
            .collect(),
        types: metadata.types,
    }
}

pub(super) fn from_v16(metadata: v16::RuntimeMetadataV16) -> Result<Metadata, String> {
    let extrinsic = metadata.extrinsic;
    let all: Vec<Extension> = extrinsic
        .transaction_extensions
        .into_iter()
        .map(|e| Extension { identifier: e.identifier, extra: e.ty.id, additional: e.implicit.id })
        .collect();
    let order = extrinsic
        .transaction_extensions_by_version
        .get(&EXTENSIONS_OF_VERSION_4)
        .ok_or("it names no extensions for extrinsics of version 4")?;
    let extensions = order
        .iter()
        .map(|index| usize::try_from(index.0).ok().and_then(|index| all.get(index)).cloned())
        .collect::<Option<_>>()
        .ok_or("it names extensions that it does not describe")?;
    Ok(Metadata {
        format: 16,
        call: extrinsic.call_ty.id,
        pallets: metadata.pallets.into_iter().map(pallet_v16).collect(),
        extensions,
        apis: metadata
            .apis
            .into_iter()
            .map(|api| {
                let functions = api.methods.into_iter();
                (api.name, functions.map(|f| function(f.name, f.inputs, f.output.id)).collect())
            })
            .collect(),
        types: metadata.types,
    })
}

/// Returns the type of calls: format 14 names it as a parameter of the extrinsic's type.
fn call_of_extrinsic(types: &PortableRegistry, extrinsic: u32) -> Result<u32, String> {
    let parameters = types.resolve(extrinsic).map(|ty| ty.type_params.as_slice());
    let call = parameters.unwrap_or_default().iter().find(|parameter| parameter.name == "Call");
    call.and_then(|call| call.ty)
        .map(|ty| ty.id)
        .ok_or_else(|| "its extrinsic names no type of calls".to_owned())
}

fn pallet_v14(pallet: v14::PalletMetadata<PortableForm>) -> (String, Pallet) {
    let (prefix, storage) = storage_v14(pallet.storage);
    let constants = pallet.constants.into_iter();
    let fields = Pallet {
        index: pallet.index,
        calls: pallet.calls.map(|calls| calls.ty.id),
        errors: pallet.error.map(|errors| errors.ty.id),
        constants: constants.map(|c| (c.name, (c.ty.id, c.value))).collect(),
        prefix,
        storage,
    };
    (pallet.name, fields)
}

fn pallet_v15(pallet: v15::PalletMetadata<PortableForm>) -> (String, Pallet) {
    // Format 15 adds documentation to pallets and changes nothing else.
    pallet_v14(v14::PalletMetadata {
        name: pallet.name,
        storage: pallet.storage,
        calls: pallet.calls,
        event: pallet.event,
        constants: pallet.constants,
        error: pallet.error,
        index: pallet.index,
    })
}

fn pallet_v16(pallet: v16::PalletMetadata<PortableForm>) -> (String, Pallet) {
    let (prefix, storage) = pallet.storage.map_or_else(Default::default, |storage| {
        let entries = storage.entries.into_iter();
        let entries = entries.map(|e| entry(e.name, &e.modifier, e.ty, e.default)).collect();
        (storage.prefix, entries)
    });
    let constants = pallet.constants.into_iter();
    let fields = Pallet {
        index: pallet.index,
        calls: pallet.calls.map(|calls| calls.ty.id),
        errors: pallet.error.map(|errors| errors.ty.id),
        constants: constants.map(|c| (c.name, (c.ty.id, c.value))).collect(),
        prefix,
        storage,
    };
    (pallet.name, fields)
}

fn storage_v14(
    storage: Option<v14::PalletStorageMetadata<PortableForm>>,
) -> (String, BTreeMap<String, Entry>) {
    let Some(storage) = storage else { return <_>::default() };
    let entries = storage.entries.into_iter();
    (storage.prefix, entries.map(|e| entry(e.name, &e.modifier, e.ty, e.default)).collect())
}

fn entry(
    name: String,
    modifier: &StorageEntryModifier,
    ty: StorageEntryType<PortableForm>,
    default: Vec<u8>,
) -> (String, Entry) {
    let (hashers, key, value) = match ty {
        StorageEntryType::Plain(value) => (Vec::new(), None, value.id),
        StorageEntryType::Map { hashers, key, value } => (hashers, Some(key.id), value.id),
    };
    let is_optional = *modifier == StorageEntryModifier::Optional;
    (name, Entry { is_optional, hashers, key, value, default })
}

fn function(
    name: String,
    parameters: Vec<v15::RuntimeApiMethodParamMetadata<PortableForm>>,
    output: u32,
) -> (String, Function) {
    let parameters = parameters.into_iter().map(|p| (p.name, p.ty.id)).collect();
    (name, Function { parameters, output })
}
