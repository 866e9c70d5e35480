//! Where the tensors of a safetensors file lie, from its header alone; and headers for new files.
//!
//! A file is the header's length (u64 LE), the header (JSON) and the tensors' bytes, which follow
//! one another without gaps.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

/// Longest header that is read; that of a model with 65,536 tensors is below it.
pub const HEADER_BYTES_MAX: u64 = 32 << 20;

/// Bytes in front of the header.
pub const LENGTH_BYTES: usize = 8;

/// Most tensors of one file.
const TENSORS_MAX: usize = 65_536;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the checkpoint.
    pub name: String,
    /// Type of the values, as safetensors spells it: `BF16`, `F32`, …
    pub dtype: String,
    /// Sizes, outermost first; none for a single value.
    pub shape: Vec<u64>,
    /// Its bytes, from the first byte behind the header.
    pub range: Range<u64>,
}

/// The tensors of one file in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorIndex {
    /// The tensors; each starts where the one before ends.
    pub tensors: Vec<TensorEntry>,
}

/// A header that is not one of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header of the safetensors file is unusable: {0}; fetch the file again")]
pub struct BadTensors(String);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl TensorIndex {
    /// Returns the length of the header from the first 8 bytes of a file of `file_bytes`.
    ///
    /// # Errors
    /// When the header would be longer than the file or than any header.
    pub fn header_length(first: [u8; LENGTH_BYTES], file_bytes: u64) -> Result<usize, BadTensors> {
        let length = u64::from_le_bytes(first);
        let left = file_bytes.saturating_sub(LENGTH_BYTES as u64);
        if length > left.min(HEADER_BYTES_MAX) {
            return Err(BadTensors(format!("it claims {length} bytes, {left} are there")));
        }
        usize::try_from(length).map_err(|error| BadTensors(error.to_string()))
    }

    /// Reads a header in front of `data_bytes` bytes of tensors.
    ///
    /// # Errors
    /// For JSON of another form, tensors that overlap, leave gaps or do not fit their shape.
    pub fn parse(header: &[u8], data_bytes: u64) -> Result<Self, BadTensors> {
        let bad = |what: String| BadTensors(what);
        let mut fields: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|error| bad(error.to_string()))?;
        fields.remove("__metadata__");
        if fields.len() > TENSORS_MAX {
            return Err(bad(format!("it lists {} tensors, {TENSORS_MAX} are read", fields.len())));
        }
        let mut tensors = Vec::new();
        for (name, field) in fields {
            let shown: String = name.chars().take(64).collect();
            let entry: Entry =
                serde_json::from_value(field).map_err(|e| bad(format!("{shown:?}: {e}")))?;
            let [start, end] = entry.data_offsets;
            let count = entry.shape.iter().try_fold(1u64, |n, size| n.checked_mul(*size));
            let size = dtype_size(&entry.dtype).and_then(|size| count?.checked_mul(size));
            if size.is_none() || end.checked_sub(start) != size {
                let Entry { dtype, shape, .. } = entry;
                let dtype: String = dtype.chars().take(16).collect();
                let rank = shape.len();
                let what = format!("{shown:?} of {dtype} with {rank} sizes lies at {start}..{end}");
                return Err(bad(what));
            }
            let Entry { dtype, shape, .. } = entry;
            tensors.push(TensorEntry { name, dtype, shape, range: start..end });
        }
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        let mut end = 0;
        for tensor in &tensors {
            if tensor.range.start != end {
                let (found, name) = (tensor.range.start, &tensor.name);
                return Err(bad(format!("{name:.64} starts at {found}, expected {end}")));
            }
            end = tensor.range.end;
        }
        match end == data_bytes {
            true => Ok(Self { tensors }),
            false => Err(bad(format!("its tensors have {end} bytes, the file {data_bytes}"))),
        }
    }

    /// Lays out tensors given as name, type and shape in the order of their names.
    ///
    /// # Errors
    /// For a type that is not known and sizes beyond 2^63.
    pub fn lay_out(
        tensors: impl IntoIterator<Item = (String, String, Vec<u64>)>,
    ) -> Result<Self, BadTensors> {
        let mut sorted: Vec<_> = tensors.into_iter().collect();
        sorted.sort();
        let mut end = 0u64;
        let place = |(name, dtype, shape): (String, String, Vec<u64>)| {
            let count = shape.iter().try_fold(1u64, |n, size| n.checked_mul(*size));
            let size = dtype_size(&dtype).and_then(|size| count?.checked_mul(size));
            let start = end;
            end = size
                .and_then(|size| start.checked_add(size))
                .ok_or_else(|| BadTensors(format!("{name:.64} has no size")))?;
            Ok(TensorEntry { name, dtype, shape, range: start..end })
        };
        Ok(Self { tensors: sorted.into_iter().map(place).collect::<Result<_, _>>()? })
    }

    /// Returns length and header of a file with these tensors, as Hugging Face writes them.
    pub fn to_header(&self) -> Vec<u8> {
        let mut fields = serde_json::Map::new();
        fields.insert("__metadata__".to_owned(), serde_json::json!({"format": "pt"}));
        for TensorEntry { name, dtype, shape, range } in &self.tensors {
            let entry = serde_json::json!({
                "dtype": dtype, "shape": shape, "data_offsets": [range.start, range.end],
            });
            fields.insert(name.clone(), entry);
        }
        let mut json = serde_json::Value::Object(fields).to_string();
        // Tensors start at a multiple of 8, so that they can be used where they lie.
        while !json.len().is_multiple_of(8) {
            json.push(' ');
        }
        [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
    }
}

/// Returns the bytes of one value.
fn dtype_size(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "F8_E4M3" | "F8_E5M2" | "I8" | "U8" | "BOOL" => 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, dtype: &str, shape: &[u64]) -> (String, String, Vec<u64>) {
        (name.to_owned(), dtype.to_owned(), shape.to_vec())
    }

    #[test]
    fn what_is_laid_out_is_read_back() {
        let tensors =
            [entry("b", "F32", &[2, 3]), entry("a", "BF16", &[5]), entry("c", "BOOL", &[])];
        let index = TensorIndex::lay_out(tensors).unwrap();
        let ranges: Vec<_> = index.tensors.iter().map(|tensor| tensor.range.clone()).collect();
        assert_eq!(ranges, [0..10, 10..34, 34..35]);
        let file = index.to_header();
        let length =
            TensorIndex::header_length(file[..8].try_into().unwrap(), file.len() as u64).unwrap();
        assert_eq!(8 + length, file.len());
        assert_eq!(TensorIndex::parse(&file[8..], 35), Ok(index));
        assert!(TensorIndex::parse(&file[8..], 36).is_err());
        assert!(TensorIndex::lay_out([entry("a", "F7", &[1])]).is_err());
        assert!(TensorIndex::lay_out([entry("a", "F32", &[1 << 62, 8])]).is_err());
    }

    #[test]
    fn headers_that_lie_are_refused() {
        for header in [
            "",
            "[]",
            "{\"a\":1}",
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
            r#"{"a":{"dtype":"F9","shape":[1],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
        ] {
            assert!(TensorIndex::parse(header.as_bytes(), 4).is_err(), "{header}");
        }
        for (claimed, file) in [(9, 16), (u64::MAX, 16), (HEADER_BYTES_MAX + 1, 1 << 40), (1, 0)] {
            assert!(TensorIndex::header_length(claimed.to_le_bytes(), file).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in any::<Vec<u8>>(), data in any::<u64>()) {
            let _ = TensorIndex::parse(&header, data);
        }
    }
}
