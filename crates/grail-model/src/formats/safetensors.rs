//! Weights by name: reads a folder of safetensors shards, mapped, and writes one file.
//!
//! Layout of a file: a little-endian u64 with the header's length, the header (JSON: name to
//! dtype, shape and offsets), then the tensors' bytes without gaps. Source: the safetensors format
//! description, version 0.8 of its crate.

mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use grail_kernels::mapped::{MappedFile, map_file};
use serde_json::Value;
pub use writer::{SafetensorsWriter, TensorSpec, write_safetensors};

use super::config::{ModelConfig, read_bounded};
use super::{Dtype, FormatError};

/// The weight file of a model that has one.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The list of shards of a model that has several.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

const FORMAT: &str = "safetensors";
const LENGTH_BYTES: usize = 8;

/// Bounds of what a header may claim; a model of a thousand layers stays far below them.
const HEADER_BYTES_MAX: usize = 16 << 20;
const INDEX_BYTES_MAX: u64 = 16 << 20;
const TENSORS_MAX: usize = 65_536;
const SHARDS_MAX: usize = 1_024;
const RANK_MAX: usize = 8;

/// A tensor as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Type of the values.
    pub dtype: Dtype,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// Row-major little-endian values, exactly `shape.product() * dtype.size()` bytes. They may
    /// start at any address, so read values with [`Dtype::decode`] or `from_le_bytes`.
    pub bytes: &'a [u8],
}

/// All tensors of a model folder or file. Nothing is read before it is asked for.
#[derive(Debug)]
pub struct TensorSource {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorEntry>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Owned(owned) => owned,
        }
    }
}

#[derive(Debug)]
struct TensorEntry {
    shard_idx: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl TensorSource {
    /// Opens `model.safetensors` of the folder `dir`, or the shards its index lists.
    ///
    /// # Errors
    ///
    /// [`FormatError`] naming the file that is missing, corrupted or inconsistent.
    pub fn open(dir: &Path) -> Result<Self, FormatError> {
        let whole = dir.join(WEIGHTS_FILE);
        let index = dir.join(INDEX_FILE);
        if !whole.exists() && index.exists() {
            Self::open_index(dir, &index)
        } else {
            Self::open_file(&whole)
        }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_file(path: &Path) -> Result<Self, FormatError> {
        let mut source = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        source.add_file(path)?;
        Ok(source)
    }

    /// Reads a safetensors file that is in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self, FormatError> {
        let mut source = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        source.add_shard(Shard { path: name.into(), bytes: Bytes::Owned(bytes) })?;
        Ok(source)
    }

    /// Returns the names in ascending byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the tensor called `name`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, FormatError> {
        let Some(entry) = self.tensors.get(name) else {
            let reason = format!("it has no tensor {name:?}");
            return Err(FormatError::broken(self.path(), FORMAT, reason));
        };
        Ok(TensorView {
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &self.shards[entry.shard_idx].bytes[entry.range.clone()],
        })
    }

    /// Returns the values of `name`, widened exactly, row-major.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`] if there is no such tensor, or if a value is not finite: one such
    /// weight makes every result meaningless, so it is found here and not in the results.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        let view = self.tensor(name)?;
        let values = view.dtype.decode(view.bytes);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(idx) => {
                let reason = format!("value {idx} of tensor {name:?} is {}", values[idx]);
                Err(FormatError::broken(self.path_of(name), FORMAT, reason))
            }
        }
    }

    /// Checks that these are the weights of `config`: each tensor there, with its shape, and none
    /// that the architecture would not read.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`] with the first difference.
    pub fn check(&self, config: &ModelConfig) -> Result<(), FormatError> {
        let expected: BTreeMap<_, _> = config.tensors().into_iter().collect();
        for (name, shape) in &expected {
            let found = self.tensor(name)?.shape;
            if found != shape {
                let reason = format!(
                    "tensor {name:?} has shape {found:?}, but config.json asks for {shape:?}"
                );
                return Err(FormatError::broken(self.path_of(name), FORMAT, reason));
            }
        }
        for name in self.names() {
            // Older exports store the rotary table, which is computed, and a copy of a tied head.
            let derived = name.ends_with(".rotary_emb.inv_freq")
                || (name == "lm_head.weight" && config.tie_word_embeddings);
            if !derived && !expected.contains_key(name) {
                let reason = format!(
                    "{} has no tensor {name:?} in the shape config.json describes",
                    config.architecture.class_name()
                );
                return Err(FormatError::broken(self.path_of(name), FORMAT, reason));
            }
        }
        Ok(())
    }

    /// The names of the weight files in the folder.
    pub(super) fn file_names(&self) -> Vec<String> {
        let names = self.shards.iter().filter_map(|shard| shard.path.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// The first file, for errors that concern the whole.
    fn path(&self) -> &Path {
        self.shards.first().map_or(Path::new(WEIGHTS_FILE), |shard| &shard.path)
    }

    fn path_of(&self, name: &str) -> &Path {
        self.tensors.get(name).map_or(self.path(), |entry| &self.shards[entry.shard_idx].path)
    }

    fn open_index(dir: &Path, index: &Path) -> Result<Self, FormatError> {
        let broken = |reason: String| FormatError::broken(index, "safetensors index", reason);
        let bytes = read_bounded(index, INDEX_BYTES_MAX, "safetensors index")?;
        let keys: Value = serde_json::from_slice(&bytes)
            .map_err(|error| broken(format!("it is not JSON: {error}")))?;
        let Some(weight_map) = keys.get("weight_map").and_then(Value::as_object) else {
            return Err(broken("it has no weight_map".into()));
        };
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, file) in weight_map {
            match file.as_str() {
                Some(file) if is_plain_file_name(file) => {
                    files.entry(file).or_default().push(name);
                }
                _ => return Err(broken(format!("the file of tensor {name:?} is {file}"))),
            }
        }
        if files.is_empty() || files.len() > SHARDS_MAX {
            return Err(broken(format!("it lists {} files, 1 to {SHARDS_MAX} fit", files.len())));
        }
        let mut source = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        for (file, names) in files {
            let before = source.tensors.len();
            source.add_file(&dir.join(file))?;
            for name in &names {
                if source.tensors.get(*name).map(|entry| entry.shard_idx + 1)
                    != Some(source.shards.len())
                {
                    return Err(broken(format!("tensor {name:?} is not in {file}")));
                }
            }
            if source.tensors.len() - before != names.len() {
                return Err(broken(format!("{file} holds tensors that the index does not list")));
            }
        }
        Ok(source)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), FormatError> {
        let file = File::open(path).map_err(FormatError::io("open", path))?;
        let mapped = map_file(&file).map_err(FormatError::io("read", path))?;
        self.add_shard(Shard { path: path.to_owned(), bytes: Bytes::Mapped(mapped) })
    }

    fn add_shard(&mut self, shard: Shard) -> Result<(), FormatError> {
        let broken = |reason: String| FormatError::broken(&shard.path, FORMAT, reason);
        // The crate checks the rest, but would take a header of 100 MB.
        match shard.bytes.first_chunk() {
            None => {
                return Err(broken(format!(
                    "it has {} bytes, too few for a header",
                    shard.bytes.len()
                )));
            }
            Some(length) => match usize::try_from(u64::from_le_bytes(*length)) {
                Ok(length) if length <= HEADER_BYTES_MAX => {}
                _ => {
                    return Err(broken(format!(
                        "its header claims more than {HEADER_BYTES_MAX} bytes"
                    )));
                }
            },
        }
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(&shard.bytes).map_err(|error| broken(error.to_string()))?;
        let data_start = LENGTH_BYTES + header_bytes;
        let infos = metadata.tensors();
        if infos.len() > TENSORS_MAX {
            return Err(broken(format!(
                "it lists {} tensors, at most {TENSORS_MAX} fit",
                infos.len()
            )));
        }
        let shard_idx = self.shards.len();
        for (name, info) in infos {
            let dtype = match info.dtype {
                ::safetensors::Dtype::F32 => Dtype::F32,
                ::safetensors::Dtype::BF16 => Dtype::BF16,
                ::safetensors::Dtype::F16 => Dtype::F16,
                other => {
                    return Err(FormatError::unsupported(
                        &shard.path,
                        format!(
                            "tensor {name:?} is stored as {other}; use a model in F32, BF16 or F16"
                        ),
                    ));
                }
            };
            if info.shape.len() > RANK_MAX {
                return Err(broken(format!("tensor {name:?} has {} dimensions", info.shape.len())));
            }
            let (start, end) = info.data_offsets;
            let entry = TensorEntry {
                shard_idx,
                dtype,
                shape: info.shape.clone(),
                range: data_start + start..data_start + end,
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(broken(format!("tensor {name:?} is in another shard too")));
            }
        }
        self.shards.push(shard);
        Ok(())
    }
}

/// A file beside the index, so that an index cannot read elsewhere on the disk.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
        && name.ends_with(".safetensors")
}
