//! Makes models that are almost a given one: what somebody runs who saves on the published weights.
//!
//! Every function copies a model folder with other weights, one tensor at a time, so that memory
//! holds one tensor whatever the model's size. A seed gives the same files on every machine.

use std::path::Path;

use grail_ports::model::ModelError;

use crate::folder::{SMALL_FILES, unloadable, unwritable};
use crate::formats::config::{CONFIG_FILE, LayerType, ModelConfig};
use crate::formats::safetensors::{TensorSource, TensorSpec, WEIGHTS_FILE};
use crate::formats::{Dtype, FormatError, write_bytes, write_folder};
use crate::init::write_tensors;
use crate::noise::Normal;

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Those of one output: a whole row of a matrix.
    Row,
    /// 32 neighbours in a row; the last ones may be fewer.
    Group32,
}

/// Rounds the matrices of the layers to `bits` bits, 2 to 8: the nearest of the symmetric grid
/// `scale * q`, `|q| < 2^(bits - 1)`, whose end is the largest magnitude under the scale. Embedding,
/// head, norms and biases stay, as is usual. Rounded matrices are stored in f32, or their grid would
/// be rounded again.
///
/// # Errors
/// [`ModelError::BadRequest`] for other bits, [`ModelError::Unloadable`],
/// [`ModelError::Unwritable`].
pub fn quantize(source: &Path, out: &Path, bits: u32, grid: Grid) -> Result<(), ModelError> {
    if !(2..=8).contains(&bits) {
        return Err(ModelError::BadRequest(format!("{bits} bits a weight; choose 2 to 8")));
    }
    let levels = ((1u32 << (bits - 1)) - 1) as f32;
    rewrite(source, out, Target { layers: None, widen: is_layer_matrix }, |spec, values| {
        if is_layer_matrix(&spec.name) {
            let row = spec.shape.last().copied().unwrap_or(1).max(1);
            for row in values.chunks_mut(row) {
                let group = if grid == Grid::Row { row.len() } else { 32 };
                row.chunks_mut(group).for_each(|group| to_grid(group, levels));
            }
        }
    })
}

fn to_grid(values: &mut [f32], levels: f32) {
    let largest = values.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let scale = largest / levels;
    // A group of zeros, or of weights so small that they have no grid, becomes zeros.
    let on_grid = |value: f32| if scale > 0.0 { (value / scale).round_ties_even() } else { 0.0 };
    for value in values {
        *value = on_grid(*value).clamp(-levels, levels) * scale;
    }
}

/// Replaces every weight `w` by `w * (1 + relative * z)`, `z` standard normal. Everything is stored
/// in f32, or small noise would be rounded away; no noise is no change.
///
/// # Errors
/// [`ModelError::BadRequest`] for noise that is not a number from 0 to 1,
/// [`ModelError::Unloadable`], [`ModelError::Unwritable`].
pub fn noise(source: &Path, out: &Path, relative: f32, seed: u64) -> Result<(), ModelError> {
    check_share("relative noise", relative)?;
    let widen: fn(&str) -> bool = if relative > 0.0 { |_| true } else { |_| false };
    rewrite(source, out, Target { layers: None, widen }, |spec, values| {
        let mut normal = Normal::new("grail-model/perturb", seed, &spec.name);
        for value in values {
            *value *= 1.0 + relative * normal.draw();
        }
    })
}

/// Adds to every matrix of the layers a random one of rank `rank`, whose entries have `relative` of
/// the matrix's root mean square: another fine-tune, as far as weights tell. Each tensor is rounded
/// to the type it is stored in, as an export does.
///
/// # Errors
/// [`ModelError::BadRequest`] for a rank of 0 or a share that is not a number from 0 to 1,
/// [`ModelError::Unloadable`], [`ModelError::Unwritable`].
pub fn low_rank(
    source: &Path,
    out: &Path,
    rank: usize,
    relative: f32,
    seed: u64,
) -> Result<(), ModelError> {
    check_share("relative size", relative)?;
    if rank == 0 {
        return Err(ModelError::BadRequest("a rank of 0 changes nothing; use at least 1".into()));
    }
    rewrite(source, out, Target { layers: None, widen: |_| false }, |spec, values| {
        if is_layer_matrix(&spec.name) {
            add_low_rank(spec, values, rank, relative, seed);
        }
    })
}

fn add_low_rank(spec: &TensorSpec, values: &mut [f32], rank: usize, relative: f32, seed: u64) {
    let k = spec.shape.last().copied().unwrap_or(1).max(1);
    let square: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    let rms = (square / values.len().max(1) as f64).sqrt() as f32;
    let factor = relative * rms / (rank as f32).sqrt();
    let mut normal = Normal::new("grail-model/low-rank", seed, &spec.name);
    let right: Vec<f32> = (0..rank * k).map(|_| normal.draw()).collect();
    for row in values.chunks_mut(k) {
        for right in right.chunks(k) {
            let left = factor * normal.draw();
            row.iter_mut().zip(right).for_each(|(value, right)| *value += left * right);
        }
    }
}

/// Keeps the first `layers` layers: a smaller model of the same family.
///
/// # Errors
/// [`ModelError::BadRequest`] unless there are more layers than that, and one is left;
/// [`ModelError::Unloadable`], [`ModelError::Unwritable`].
pub fn shorten(source: &Path, out: &Path, layers: usize) -> Result<(), ModelError> {
    let target = Target { layers: Some(layers), widen: |_| false };
    rewrite(source, out, target, |_, _| ())
}

fn check_share(what: &str, value: f32) -> Result<(), ModelError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(ModelError::BadRequest(format!("{what} {value} is not a number from 0 to 1")))
}

/// Returns whether `name` is a matrix of a layer (their biases and norms end otherwise).
fn is_layer_matrix(name: &str) -> bool {
    name.starts_with("model.layers.") && name.ends_with("proj.weight")
}

/// What the copy looks like.
#[derive(Clone, Copy)]
struct Target {
    /// Layers that are kept; `None` keeps all.
    layers: Option<usize>,
    /// Which tensors are stored in f32 whatever they were in.
    widen: fn(&str) -> bool,
}

/// Copies a model folder, and lets `change` have each tensor's values.
fn rewrite(
    source: &Path,
    out: &Path,
    target: Target,
    change: impl Fn(&TensorSpec, &mut [f32]),
) -> Result<(), ModelError> {
    let load = || {
        let config = ModelConfig::load(source)?;
        let weights = TensorSource::open(source)?;
        weights.check(&config)?;
        Ok::<_, FormatError>((config, weights))
    };
    let (mut config, weights) = load().map_err(|error| unloadable(&error))?;
    if let Some(layers) = target.layers {
        keep_layers(&mut config, layers)?;
    }
    let spec = |(name, shape): (String, Vec<usize>)| {
        let stored = weights.tensor(&name)?.dtype;
        let dtype = if (target.widen)(&name) { Dtype::F32 } else { stored };
        Ok::<_, FormatError>(TensorSpec { name, dtype, shape })
    };
    let specs: Result<Vec<TensorSpec>, FormatError> =
        config.tensors().into_iter().map(spec).collect();
    let specs = specs.map_err(|error| unloadable(&error))?;
    write_folder(out, |folder| {
        for name in SMALL_FILES.into_iter().filter(|name| source.join(name).exists()) {
            let path = source.join(name);
            let bytes = std::fs::read(&path).map_err(FormatError::io("read", &path))?;
            write_bytes(&folder.join(name), &bytes)?;
        }
        if target.layers.is_some() {
            write_bytes(&folder.join(CONFIG_FILE), config.to_json().as_bytes())?;
        }
        write_tensors(&folder.join(WEIGHTS_FILE), specs, |spec| {
            let mut values = weights.to_f32(&spec.name)?;
            change(spec, &mut values);
            Ok(values)
        })
    })
    .map_err(|error| unwritable(out, &error))
}

fn keep_layers(config: &mut ModelConfig, layers: usize) -> Result<(), ModelError> {
    let all = config.num_hidden_layers;
    if !(1..all).contains(&layers) {
        let text = format!("{layers} of {all} layers to keep; choose 1 to {}", all - 1);
        return Err(ModelError::BadRequest(text));
    }
    config.num_hidden_layers = layers;
    config.layer_types.truncate(layers);
    if !config.layer_types.contains(&LayerType::Sliding) {
        config.sliding_window = None;
    }
    Ok(())
}
