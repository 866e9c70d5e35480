//! The JSON header of a payload: which tensors, and where their bytes are.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::{DeltaError, Format, IndexType, TENSORS_MAX, ValueType};
use crate::canonical_json::canonical_json;

/// Most bytes of a header; that of a model with 65,536 tensors is below it.
const HEADER_BYTES_MAX: u64 = 32 << 20;

/// Most bytes of a tensor's name.
const TENSOR_NAME_BYTES_MAX: usize = 1_024;

/// A header as it stands in a payload. Unknown keys and the order of keys mean nothing.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) tensors: Vec<Entry>,
}

/// One tensor of a header; offsets count from the first byte behind the header.
#[derive(Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// Repeats what the sizes say. Nobody reads it.
    #[serde(rename = "num_nonzero", default)]
    pub(super) n_places: u64,
    pub(super) value_dtype: String,
    pub(super) row_dtype: Option<String>,
    pub(super) col_dtype: Option<String>,
    pub(super) indices_offset: u64,
    pub(super) indices_size: u64,
    pub(super) rows_size: Option<u64>,
    pub(super) cols_size: Option<u64>,
    pub(super) values_offset: u64,
    pub(super) values_size: u64,
}

impl Header {
    /// Splits a payload into its header and the bytes behind it.
    pub(super) fn read(payload: &[u8]) -> Result<(Self, &[u8]), DeltaError> {
        let Some((length, rest)) = payload.split_first_chunk() else {
            return Err(DeltaError::Truncated {
                what: "payload",
                needed: 4,
                left: payload.len() as u64,
            });
        };
        let (length, left) = (u64::from(u32::from_le_bytes(*length)), rest.len() as u64);
        if length > left {
            return Err(DeltaError::Truncated { what: "header", needed: length, left });
        }
        if length > HEADER_BYTES_MAX {
            let max = HEADER_BYTES_MAX;
            return Err(DeltaError::TooLarge { what: "header", found: length, max });
        }
        let (json, data) = rest.split_at(usize::try_from(length).expect("below a slice's length"));
        let header: Self = serde_json::from_slice(json)
            .map_err(|error| DeltaError::BadHeader(error.to_string()))?;
        if header.tensors.len() > TENSORS_MAX {
            let n = header.tensors.len();
            let reason = format!("it lists {n} tensors, at most {TENSORS_MAX} fit");
            return Err(DeltaError::BadHeader(reason));
        }
        match header.tensors.iter().find(|entry| entry.name.len() > TENSOR_NAME_BYTES_MAX) {
            Some(entry) => Err(DeltaError::tensor(&entry.name, "its name is too long")),
            None => Ok((header, data)),
        }
    }

    /// Returns the text that [`Header::read`] reads, in the reference's spelling.
    pub(super) fn write(&self, format: Format) -> String {
        let mut text = format!("{{\"version\":{},\"tensors\":[", self.version);
        for (position, entry) in self.tensors.iter().enumerate() {
            text.push_str(if position > 0 { ",{" } else { "{" });
            entry.write(format, &mut text);
            text.push('}');
        }
        text.push_str("]}");
        text
    }
}

impl Entry {
    /// Returns the type of the values.
    pub(super) fn value_type(&self) -> Result<ValueType, DeltaError> {
        let known = ValueType::ALL.into_iter().find(|known| known.name() == self.value_dtype);
        known.ok_or_else(|| {
            let dtype: String = self.value_dtype.chars().take(64).collect();
            DeltaError::tensor(&self.name, format!("its values are {dtype:?}"))
        })
    }

    fn write(&self, format: Format, text: &mut String) {
        // Python escapes whatever is not ASCII, as canonical JSON does.
        let name = canonical_json(&Value::String(self.name.clone()));
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let mut push = |part: std::fmt::Arguments<'_>| {
            text.write_fmt(part).expect("a string takes any text");
        };
        push(format_args!("\"name\":{name},\"shape\":[{}]", shape.join(",")));
        push(format_args!(",\"num_nonzero\":{}", self.n_places));
        push(format_args!(",\"value_dtype\":\"{}\"", self.value_dtype));
        if let (Format::V31, Some(rows), Some(cols)) = (format, &self.row_dtype, &self.col_dtype) {
            push(format_args!(",\"row_dtype\":\"{rows}\",\"col_dtype\":\"{cols}\""));
        }
        push(format_args!(",\"indices_offset\":{}", self.indices_offset));
        push(format_args!(",\"indices_size\":{}", self.indices_size));
        if let (Some(rows), Some(cols)) = (self.rows_size, self.cols_size) {
            push(format_args!(",\"rows_size\":{rows},\"cols_size\":{cols}"));
        }
        push(format_args!(",\"values_offset\":{}", self.values_offset));
        push(format_args!(",\"values_size\":{}", self.values_size));
    }
}

impl IndexType {
    /// Returns the type that a header calls `name`; every unknown or missing one is 4 bytes wide.
    pub(super) fn of_name(name: Option<&str>) -> Self {
        match name {
            Some("uint8") => Self::U8,
            Some("uint16") => Self::U16,
            _ => Self::I32,
        }
    }
}
