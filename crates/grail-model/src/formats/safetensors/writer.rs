//! Writes safetensors; the same tensors give the same bytes.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{LENGTH_BYTES, TensorView};
use crate::formats::storing::write_file;
use crate::formats::{Dtype, FormatError};

/// What a header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Unique name.
    pub name: String,
    /// Type of the stored values.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Returns the bytes the tensor takes.
    pub fn n_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes a safetensors stream tensor by tensor, so that no more than one need be in memory.
///
/// The same tensors give the same bytes, whatever order they are listed in: names ascend, the
/// header is compact JSON with `__metadata__` first, padded with spaces to a multiple of 8.
#[derive(Debug)]
pub struct SafetensorsWriter<W: Write> {
    sink: W,
    digest: Sha256,
    /// The tensors not yet written, in reverse order.
    pending: Vec<TensorSpec>,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header. `metadata` follows the entry `"format": "pt"`, which loaders expect.
    ///
    /// # Errors
    ///
    /// What `sink` returns, or `InvalidInput` if a name occurs twice.
    pub fn new(
        mut sink: W,
        mut tensors: Vec<TensorSpec>,
        metadata: &[(&str, &str)],
    ) -> std::io::Result<Self> {
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        let mut header = Map::new();
        let mut notes = Map::from_iter([("format".to_owned(), json!("pt"))]);
        notes.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
        header.insert("__metadata__".to_owned(), Value::Object(notes));
        let mut start = 0;
        for tensor in &tensors {
            let end = start + tensor.n_bytes();
            let entry = json!({
                "dtype": tensor.dtype.name(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            if header.insert(tensor.name.clone(), entry).is_some() {
                return Err(invalid_input(format!("tensor {:?} is listed twice", tensor.name)));
            }
            start = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
        let length = u64::try_from(header.len()).map_err(invalid_input)?.to_le_bytes();
        let mut digest = Sha256::new();
        for part in [&length[..], &header] {
            digest.update(part);
            sink.write_all(part)?;
        }
        tensors.reverse();
        Ok(Self { sink, digest, pending: tensors })
    }

    /// Returns the tensor whose bytes [`Self::push`] takes next.
    pub fn next_tensor(&self) -> Option<&TensorSpec> {
        self.pending.last()
    }

    /// Writes the little-endian values of [`Self::next_tensor`].
    ///
    /// # Errors
    ///
    /// What the sink returns, or `InvalidInput` if no tensor is left or the length is another.
    pub fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.pending.pop() {
            Some(tensor) if tensor.n_bytes() == bytes.len() => {
                self.digest.update(bytes);
                self.sink.write_all(bytes)
            }
            Some(tensor) => Err(invalid_input(format!(
                "tensor {:?} takes {} bytes, got {}",
                tensor.name,
                tensor.n_bytes(),
                bytes.len()
            ))),
            None => Err(invalid_input("every tensor is written already")),
        }
    }

    /// Returns the SHA-256 of the stream.
    ///
    /// # Errors
    ///
    /// What the sink returns at its flush, or `InvalidInput` if a tensor was not written.
    pub fn finish(mut self) -> std::io::Result<[u8; 32]> {
        if let Some(tensor) = self.pending.last() {
            return Err(invalid_input(format!("tensor {:?} was not written", tensor.name)));
        }
        self.sink.flush()?;
        Ok(self.digest.finalize().into())
    }
}

/// Writes `path` whole or not at all, and returns its SHA-256. The bytes are those of
/// [`SafetensorsWriter`].
///
/// # Errors
///
/// [`FormatError::Io`]; with `InvalidInput` inside if names repeat or lengths do not fit shapes.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, TensorView<'a>)>,
    metadata: &[(&str, &str)],
) -> Result<[u8; 32], FormatError> {
    let mut sorted: Vec<_> = tensors.into_iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let specs = sorted.iter().map(|(name, view)| TensorSpec {
        name: (*name).to_owned(),
        dtype: view.dtype,
        shape: view.shape.to_vec(),
    });
    let specs = specs.collect();
    write_file(path, |sink| {
        let write = || -> std::io::Result<[u8; 32]> {
            let mut writer = SafetensorsWriter::new(sink, specs, metadata)?;
            for (_, view) in &sorted {
                writer.push(view.bytes)?;
            }
            writer.finish()
        };
        write().map_err(FormatError::io("write", path))
    })
}

fn invalid_input(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)
}
