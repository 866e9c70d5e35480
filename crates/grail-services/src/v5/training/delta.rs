//! Makes the reference's delta from one checkpoint folder to the next.
//!
//! Tensors are compared one by one, so that models may be larger than the memory; what changed is held.

use std::collections::BTreeMap;
use std::path::Path;

use grail_protocol::checkpoint::WEIGHTS_FILE;
use grail_protocol::checkpoint::delta::frame::compress;
use grail_protocol::checkpoint::delta::payload::encode;
use grail_protocol::checkpoint::delta::{Format, SparseTensor};
use grail_protocol::checkpoint::reference::delta_metadata::DeltaMetadata;
use grail_protocol::ids::Digest;

use crate::checkpoint::reference::{DELTA_FILE, DELTA_METADATA_FILE};
use crate::checkpoint::weights::{TensorFile, WeightsError, by_name, value_type};
use crate::training::profile::DeltaBase;

/// Names and contents of what a delta publishes beside its metadata.
pub type DeltaFiles = [(&'static str, Vec<u8>); 2];

/// Returns the files of the delta from `base` to the checkpoint in `dir` with the files `manifest`;
/// nothing where a delta cannot lead there: other tensors or other files, or a base that is gone.
///
/// # Errors
/// When a file cannot be read, or the codec cannot hold the change.
pub fn files(
    base: &DeltaBase,
    dir: &Path,
    manifest: &BTreeMap<String, Digest>,
) -> Result<Option<DeltaFiles>, WeightsError> {
    if base.leads_to(manifest)?.is_none() {
        return Ok(None);
    }
    let old = TensorFile::open(&base.dir.join(WEIGHTS_FILE))?;
    let new = TensorFile::open(&dir.join(WEIGHTS_FILE))?;
    let Some((changes, total_params)) = changes(old, new)? else { return Ok(None) };
    let delta = compress(&encode(&changes, Format::V31)?)?;
    let described = DeltaMetadata {
        format: Format::V31,
        threshold: 0.0,
        prev_window: base.window,
        anchor_window: base.anchor,
        shapes: changes.iter().map(|it| (it.name.clone(), it.shape.clone())).collect(),
        total_params,
        nonzero_params: changes.iter().map(|it| it.positions.len() as u64).sum(),
    };
    let described = described.to_json().into_bytes();
    Ok(Some([(DELTA_FILE, delta), (DELTA_METADATA_FILE, described)]))
}

/// Returns what changed, in the order of the names, and the number of parameters; nothing where the
/// tensors are not the same or one changed that the codec cannot hold.
fn changes(
    mut old: TensorFile,
    mut new: TensorFile,
) -> Result<Option<(Vec<SparseTensor>, u64)>, WeightsError> {
    let kinds = |file: &TensorFile| -> BTreeMap<String, (String, Vec<u64>)> {
        let tensors = file.index().tensors.iter();
        tensors.map(|it| (it.name.clone(), (it.dtype.clone(), it.shape.clone()))).collect()
    };
    let tensors = kinds(&new);
    if kinds(&old) != tensors {
        return Ok(None);
    }
    let places =
        by_name(std::slice::from_ref(&old)).into_iter().zip(by_name(std::slice::from_ref(&new)));
    let places: Vec<_> = places.map(|((name, _, old), (_, _, new))| (name, old, new)).collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut changes, mut total_params) = (Vec::new(), 0u64);
    for (name, old_range, new_range) in places {
        let Some((dtype, shape)) = tensors.get(&name) else { return Ok(None) };
        old.read(old_range, &mut before)?;
        new.read(new_range, &mut after)?;
        total_params += shape.iter().product::<u64>();
        match value_type(dtype).filter(|_| !shape.is_empty()) {
            Some(value_type) => {
                let change = SparseTensor::between(&name, shape, value_type, &before, &after);
                changes.extend(Some(change).filter(|change| !change.positions.is_empty()));
            }
            // Types that the codec would change, and single values, must not have moved.
            None if before != after => return Ok(None),
            None => {}
        }
    }
    Ok(Some((changes, total_params)))
}
