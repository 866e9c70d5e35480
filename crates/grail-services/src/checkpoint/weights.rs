//! Weights files on disk, read and written piece by piece: models may be larger than the memory.
//!
//! A delta is always applied into a new file, so that nothing it does can harm the base.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use grail_parquet::on_all_threads;
use grail_protocol::checkpoint::delta::native::{
    Block, DeltaWriter, blocks, decode_block, encode_block, read_blocks,
};
use grail_protocol::checkpoint::delta::{DeltaError, ValueType};
use grail_protocol::checkpoint::tensors::{BadTensors, LENGTH_BYTES, TensorIndex};
use grail_protocol::checkpoint::{WeightsHash, WeightsHasher};
use grail_protocol::ids::Digest;
use sha2::Digest as _;

use crate::state::{StateError, disk};

/// Bytes that are read at once where the size of a tensor does not matter.
const CHUNK_BYTES: usize = 1 << 20;

/// Why weights cannot be read or changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// The disk refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file is no safetensors file.
    #[error("{path}: {reason}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: BadTensors,
    },
    /// The delta cannot be applied to this base.
    #[error(transparent)]
    Delta(#[from] DeltaError),
}

/// An open safetensors file.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Vec<u8>,
    index: TensorIndex,
}

impl TensorFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When it is no safetensors file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let bad = |reason| WeightsError::Tensors { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(disk("open", path))?;
        let size = file.metadata().map_err(disk("inspect", path))?.len();
        let mut first = [0; LENGTH_BYTES];
        file.read_exact(&mut first).map_err(disk("read", path))?;
        let mut header = vec![0; TensorIndex::header_length(first, size).map_err(bad)?];
        file.read_exact(&mut header).map_err(disk("read", path))?;
        let data_bytes = size - (LENGTH_BYTES + header.len()) as u64;
        let index = TensorIndex::parse(&header, data_bytes).map_err(bad)?;
        Ok(Self { path: path.to_owned(), file, header, index })
    }

    /// Returns what the file holds.
    pub fn index(&self) -> &TensorIndex {
        &self.index
    }

    /// Reads bytes of the tensors into `buffer`, whose old content goes.
    ///
    /// # Errors
    /// When the disk fails or the file became shorter.
    pub fn read(&mut self, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<(), WeightsError> {
        let start = (LENGTH_BYTES + self.header.len()) as u64 + range.start;
        self.file.seek(SeekFrom::Start(start)).map_err(disk("read", &self.path))?;
        // A tensor that is in the file fits the memory's addresses.
        buffer.resize(usize::try_from(range.end - range.start).unwrap_or(usize::MAX), 0);
        self.file.read_exact(buffer).map_err(disk("read", &self.path))?;
        Ok(())
    }

    fn same_tensors(&self, other: &Self) -> bool {
        self.header == other.header
    }
}

/// A new file whose SHA-256 is known when it is written.
pub struct HashedFile {
    path: PathBuf,
    file: File,
    hasher: sha2::Sha256,
}

impl HashedFile {
    /// Starts the file at `path`; one that is there goes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        let file = File::create(path).map_err(disk("write", path))?;
        Ok(Self { path: path.to_owned(), file, hasher: sha2::Sha256::new() })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(disk("write", &self.path))
    }

    /// Makes sure that the bytes are on the disk, and returns their digest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(self) -> Result<Digest, StateError> {
        self.file.sync_all().map_err(disk("flush", &self.path))?;
        Ok(Digest(self.hasher.finalize().into()))
    }
}

/// Blocks that are in memory together, for as many threads; one has at most 16 MiB of weights.
const BLOCKS_AT_A_TIME: usize = 4;

/// Blocks that follow one another in a file.
#[derive(Default)]
struct Batch {
    blocks: Vec<Vec<u8>>,
    /// Where the next batch starts.
    at: u64,
}

impl Batch {
    /// Reads the blocks of `plan`, which follow those of before.
    fn read(&mut self, file: &mut TensorFile, plan: &[Block]) -> Result<(), WeightsError> {
        self.blocks.resize(plan.len(), Vec::new());
        for (block, buffer) in plan.iter().zip(&mut self.blocks) {
            let range = self.at..self.at + block.bytes() as u64;
            self.at = range.end;
            file.read(range, buffer)?;
        }
        Ok(())
    }
}

/// Returns the native delta from one weights file to another, or nothing where their tensors differ.
///
/// # Errors
/// When one of them cannot be read.
pub fn native_delta(base: &Path, current: &Path) -> Result<Option<Vec<u8>>, WeightsError> {
    let (mut base, mut current) = (TensorFile::open(base)?, TensorFile::open(current)?);
    if !base.same_tensors(&current) {
        return Ok(None);
    }
    let mut writer = DeltaWriter::new(&base.header);
    let (mut old, mut new) = (Batch::default(), Batch::default());
    for batch in blocks(&base.index).chunks(BLOCKS_AT_A_TIME) {
        old.read(&mut base, batch)?;
        new.read(&mut current, batch)?;
        let code = |at: usize| encode_block(&batch[at], &old.blocks[at], &new.blocks[at]);
        for coded in on_all_threads(batch.len(), code) {
            writer.push(&coded);
        }
    }
    Ok(Some(writer.finish()))
}

/// Applies a native delta to the weights file `base` and writes the result to the new file `out`,
/// whose digest is returned: only that tells whether the result is the right one.
///
/// # Errors
/// When the delta is not one for this base. What `out` holds then means nothing.
pub fn apply_native(base: &Path, delta: &[u8], out: &Path) -> Result<Digest, WeightsError> {
    let mut base = TensorFile::open(base)?;
    let plan = blocks(&base.index);
    let coded = read_blocks(delta, &base.header, plan.len())?;
    let mut file = HashedFile::create(out)?;
    file.push(&(base.header.len() as u64).to_le_bytes())?;
    file.push(&base.header)?;
    let mut old = Batch::default();
    for (batch, coded) in plan.chunks(BLOCKS_AT_A_TIME).zip(coded.chunks(BLOCKS_AT_A_TIME)) {
        old.read(&mut base, batch)?;
        let decode = |at: usize| -> Result<Vec<u8>, DeltaError> {
            let mut new = vec![0; old.blocks[at].len()];
            decode_block(&batch[at], &old.blocks[at], coded[at], &mut new)?;
            Ok(new)
        };
        for new in on_all_threads(batch.len(), decode) {
            file.push(&new?)?;
        }
    }
    Ok(file.finish()?)
}

/// Returns the hash of the weights in the files `paths`, which hold different tensors.
///
/// # Errors
/// When one of them cannot be read.
pub fn weights_hash(paths: &[PathBuf]) -> Result<WeightsHash, WeightsError> {
    let mut files =
        paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut hasher = WeightsHasher::new();
    let mut buffer = Vec::new();
    for (_, file, range) in by_name(&files) {
        // A tensor is hashed by the chunk: a copy of it is not needed.
        for start in range.clone().step_by(CHUNK_BYTES) {
            let end = range.end.min(start + CHUNK_BYTES as u64);
            files[file].read(start..end, &mut buffer)?;
            hasher.update(&buffer);
        }
    }
    Ok(hasher.finish())
}

/// Returns name, file and place of all tensors of some files in the order of the names.
pub fn by_name(files: &[TensorFile]) -> Vec<(String, usize, Range<u64>)> {
    let tensors = files.iter().enumerate().flat_map(|(file, opened)| {
        let tensors = opened.index.tensors.iter();
        tensors.map(move |tensor| (tensor.name.clone(), file, tensor.range.clone()))
    });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// Returns how the codec holds values of a safetensors type, if it can.
pub fn value_type(dtype: &str) -> Option<ValueType> {
    match dtype {
        "BF16" => Some(ValueType::Bf16),
        "F16" => Some(ValueType::F16),
        "F32" => Some(ValueType::F32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, values: &[u16]) {
        let tensors = [("a", 3), ("b", values.len() as u64 - 3)];
        let tensors = tensors.map(|(name, size)| (name.to_owned(), "BF16".to_owned(), vec![size]));
        let header = TensorIndex::lay_out(tensors).unwrap().to_header();
        let data = values.iter().flat_map(|value| value.to_le_bytes());
        std::fs::write(path, header.into_iter().chain(data).collect::<Vec<u8>>()).unwrap();
    }

    #[test]
    fn a_delta_leads_to_the_very_file_and_a_wrong_base_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let old: Vec<u16> = (0..500).map(|i| 0x3c00 + i * 3).collect();
        let mut new = old.clone();
        // A zero that turns negative and a NaN are changes like others.
        new[7] = 0x8000;
        new[80] = 0x7fc1;
        new[499] += 1;
        let mut other = old.clone();
        other[80] = 1;
        for (name, values) in [("old", &old), ("new", &new), ("other", &other)] {
            write(&at(name), values);
        }
        let digest = |name: &str| Digest::of(&std::fs::read(at(name)).unwrap());
        let delta = native_delta(&at("old"), &at("new")).unwrap().unwrap();
        assert_eq!(apply_native(&at("old"), &delta, &at("out")), Ok(digest("new")));
        assert_eq!(digest("out"), digest("new"));
        let hash = |name: &str| weights_hash(&[at(name)]).unwrap();
        assert_eq!(hash("out"), hash("new"));
        assert_ne!(hash("old"), hash("new"));
        assert_ne!(apply_native(&at("other"), &delta, &at("out")), Ok(digest("new")));

        write(&at("longer"), &[0; 501]);
        assert_eq!(native_delta(&at("old"), &at("longer")), Ok(None));
        assert!(apply_native(&at("longer"), &delta, &at("out")).is_err());
        assert!(apply_native(&at("absent"), &delta, &at("out")).is_err());
        std::fs::write(at("text"), "not a model").unwrap();
        assert!(matches!(TensorFile::open(&at("text")), Err(WeightsError::Tensors { .. })));
        assert!(apply_native(&at("old"), &delta[..delta.len() - 1], &at("out")).is_err());
    }
}
