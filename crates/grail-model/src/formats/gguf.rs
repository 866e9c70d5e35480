//! Reads GGUF, the single-file format of llama.cpp, and imports it into a model folder.
//!
//! Layout, little-endian: magic, version, number of tensors, number of key/value pairs, the pairs,
//! the tensors' names, sizes, types and offsets, then (aligned) their data. Every length in the
//! file is a claim by a stranger: it is checked against the bytes that are left before anything is
//! allocated or skipped. Source: the GGUF description of the ggml project, versions 2 and 3.

mod cursor;
mod dequant;
mod import;
mod sentencepiece;
mod settings;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::Path;

use cursor::{Cursor, KIND_ARRAY};
pub use dequant::GgmlType;
pub use import::import_gguf;

use super::FormatError;

pub(crate) const FORMAT: &str = "GGUF";
const MAGIC: &[u8; 4] = b"GGUF";

/// Bounds of the counts in the first 24 bytes; a model of a thousand layers stays below them.
const TENSORS_MAX: u64 = 65_536;
const PAIRS_MAX: u64 = 65_536;
const RANK_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 16;

/// A parsed file. It borrows the bytes, so nothing is copied but the names' order.
#[derive(Debug)]
pub struct Gguf<'a> {
    path: &'a Path,
    pairs: BTreeMap<&'a str, MetaValue<'a>>,
    tensors: BTreeMap<&'a str, GgufTensor<'a>>,
}

/// A value of the key/value section. Integers keep their sign only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetaValue<'a> {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// `f32`; the format also has `f64`, which no model file uses for a setting read here.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// A flag.
    Bool(bool),
    /// UTF-8 text.
    Text(&'a str),
    /// A list of equal types.
    Array(MetaArray<'a>),
}

/// A list, not yet split into its elements, whose bytes are known to hold them all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetaArray<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor<'a> {
    /// How the values are packed.
    pub ggml_type: GgmlType,
    /// Sizes, outermost first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// The packed rows; each row is a whole number of blocks.
    pub bytes: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Parses the bytes of a whole file; `path` stands for it in errors.
    ///
    /// # Errors
    ///
    /// [`FormatError::Broken`] or, for a tensor type that is not read here,
    /// [`FormatError::Unsupported`].
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, FormatError> {
        parse(path, bytes).map_err(|error| match error {
            ParseError::Broken(reason) => FormatError::broken(path, FORMAT, reason),
            ParseError::Unsupported(what) => FormatError::unsupported(path, what),
        })
    }

    /// Returns the path the file was parsed under.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Returns the value of `key`.
    pub fn value(&self, key: &str) -> Option<MetaValue<'a>> {
        self.pairs.get(key).copied()
    }

    /// Returns all keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.pairs.keys().copied()
    }

    /// Returns the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor<'a>> {
        self.tensors.get(name)
    }

    /// Returns all tensors by name, ascending.
    pub fn tensors(&self) -> impl Iterator<Item = (&'a str, &GgufTensor<'a>)> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor))
    }
}

impl<'a> MetaValue<'a> {
    /// Returns a non-negative integer of any width.
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// Returns a number; an `f32` as the shortest decimal that names it, so that the `1e-5` a
    /// model was made with comes back as `1e-5` and not as `9.99999974e-6`.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::F32(value) => value.to_string().parse().ok(),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// Returns a flag.
    pub fn as_bool(self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Returns a text.
    pub fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the elements of a list of texts.
    pub fn as_texts(self) -> Option<Vec<&'a str>> {
        let Self::Array(array) = self else { return None };
        array.elements()?.map(|element| element.and_then(Self::as_text)).collect()
    }

    /// Returns the elements of a list of numbers.
    pub fn as_numbers(self) -> Option<Vec<f64>> {
        let Self::Array(array) = self else { return None };
        array.elements()?.map(|element| element.and_then(Self::as_f64)).collect()
    }

    /// Returns the elements of a list of non-negative integers.
    pub fn as_integers(self) -> Option<Vec<u64>> {
        let Self::Array(array) = self else { return None };
        array.elements()?.map(|element| element.and_then(Self::as_u64)).collect()
    }
}

impl<'a> MetaArray<'a> {
    /// Walks over the elements; `None` for a list of lists.
    fn elements(self) -> Option<impl Iterator<Item = Option<MetaValue<'a>>>> {
        let mut cursor = Cursor { bytes: self.bytes };
        (self.kind != KIND_ARRAY)
            .then(|| (0..self.len).map(move |_| cursor.value(self.kind, 0).ok()))
    }
}

/// What `parse` found wrong; [`Gguf::parse`] adds the path.
#[derive(Debug)]
enum ParseError {
    Broken(String),
    Unsupported(String),
}

impl From<String> for ParseError {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

fn parse<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Gguf<'a>, ParseError> {
    let mut cursor = Cursor { bytes };
    if cursor.take(4, "the magic").ok() != Some(MAGIC) {
        return Err("it does not begin with the letters GGUF".to_owned().into());
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(ParseError::Unsupported(format!(
            "GGUF version {version} (big-endian files show a huge one) is not supported, \
             versions 2 and 3 are; convert the model again"
        )));
    }
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_pairs = cursor.u64("the number of keys")?;
    if n_tensors > TENSORS_MAX || n_pairs > PAIRS_MAX {
        return Err(format!("it claims {n_tensors} tensors and {n_pairs} keys").into());
    }
    let mut pairs = BTreeMap::new();
    for _ in 0..n_pairs {
        let key = cursor.text("a key")?;
        let kind = cursor.u32("a value's type")?;
        let value = cursor.value(kind, 0)?;
        if pairs.insert(key, value).is_some() {
            return Err(format!("key {key:?} occurs twice").into());
        }
    }
    let mut headers = Vec::new();
    for _ in 0..n_tensors {
        headers.push(TensorHeader::read(&mut cursor)?);
    }
    let alignment = match pairs.get("general.alignment") {
        None => ALIGNMENT_DEFAULT,
        Some(value) => match value.as_u64() {
            Some(value) if value.is_power_of_two() && value <= ALIGNMENT_MAX => value,
            _ => return Err(format!("general.alignment is {value:?}").into()),
        },
    };
    let header_bytes = bytes.len() - cursor.bytes.len();
    let alignment = usize::try_from(alignment).map_err(|error| error.to_string())?;
    // A file without tensors may end before its data would begin.
    let data = bytes.get(header_bytes.next_multiple_of(alignment)..).unwrap_or_default();
    let tensors = locate(headers, data, alignment)?;
    Ok(Gguf { path, pairs, tensors })
}

struct TensorHeader<'a> {
    name: &'a str,
    ggml_type: GgmlType,
    shape: Vec<usize>,
    offset: u64,
}

impl<'a> TensorHeader<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, ParseError> {
        let name = cursor.text("a tensor's name")?;
        let rank = cursor.u32("a tensor's rank")?;
        if !(1..=RANK_MAX).contains(&rank) {
            return Err(format!("tensor {name:?} has {rank} dimensions").into());
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            let size = cursor.u64("a tensor's size")?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(format!("tensor {name:?} has a size {size}").into()),
            }
        }
        shape.reverse();
        let type_id = cursor.u32("a tensor's type")?;
        let ggml_type = GgmlType::from_id(type_id).ok_or_else(|| {
            let supported = GgmlType::ALL.map(GgmlType::name).join(", ");
            ParseError::Unsupported(format!(
                "tensor {name:?} has the ggml type {type_id}, which is not supported; \
                 use a file with {supported}"
            ))
        })?;
        Ok(Self { name, ggml_type, shape, offset: cursor.u64("a tensor's offset")? })
    }

    /// Returns the bytes of the packed tensor, or `None` if they are not whole blocks or overflow.
    fn n_bytes(&self) -> Option<usize> {
        let columns = *self.shape.last()?;
        if !columns.is_multiple_of(self.ggml_type.block_len()) {
            return None;
        }
        let n = self.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
        (n / self.ggml_type.block_len()).checked_mul(self.ggml_type.block_bytes())
    }
}

/// Finds each tensor's bytes and checks that no two overlap.
fn locate<'a>(
    mut headers: Vec<TensorHeader<'a>>,
    data: &'a [u8],
    alignment: usize,
) -> Result<BTreeMap<&'a str, GgufTensor<'a>>, ParseError> {
    headers.sort_by_key(|header| header.offset);
    let mut tensors = BTreeMap::new();
    let mut free_from = 0;
    for header in headers {
        let name = header.name;
        let n_bytes = header.n_bytes().ok_or_else(|| {
            format!(
                "tensor {name:?} of shape {:?} is not a whole number of {} blocks",
                header.shape,
                header.ggml_type.name()
            )
        })?;
        let range = usize::try_from(header.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(n_bytes)?));
        let bytes = range.clone().and_then(|range| data.get(range));
        let (Some(range), Some(bytes)) = (range, bytes) else {
            return Err(format!(
                "tensor {name:?} ends beyond the file, which is truncated: {n_bytes} bytes at \
                 offset {} of {}",
                header.offset,
                data.len()
            )
            .into());
        };
        if range.start < free_from || !range.start.is_multiple_of(alignment) {
            return Err(format!("tensor {name:?} overlaps another or is not aligned").into());
        }
        free_from = range.end;
        let tensor = GgufTensor { ggml_type: header.ggml_type, shape: header.shape, bytes };
        if tensors.insert(name, tensor).is_some() {
            return Err(format!("tensor {name:?} occurs twice").into());
        }
    }
    Ok(tensors)
}
