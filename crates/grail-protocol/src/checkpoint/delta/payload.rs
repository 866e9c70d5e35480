//! The bytes inside a delta's frame: a JSON header, then the places and values of each tensor.
//!
//! ```text
//! payload = header_length:u32 LE header data
//! header  = {"version":V,"tensors":[{"name":…,"shape":…,…}]}
//! data    = (indices values)*                       in the order of the tensors' names
//! indices = flat differences:i32*                   v2
//!         | row differences:i32* columns:i32*       v3
//!         | row differences columns                 v3.1, each in 1, 2 or 4 bytes
//! ```

use std::collections::BTreeSet;

use super::header::{Entry, Header};
use super::indices::{flat, read_flat, read_rows_and_columns, rows_and_columns};
use super::{DeltaError, Format, IndexType, SparseTensor, elements};

/// Returns the payload of `tensors`, sorted by name and each by place. Tensors without changes are
/// listed in v2 and left out in the others.
///
/// # Errors
/// [`DeltaError::BadTensor`] for a tensor that could not be read back or applied, and for places
/// that `format` has no room for.
pub fn encode(tensors: &[SparseTensor], format: Format) -> Result<Vec<u8>, DeltaError> {
    let mut sorted: Vec<&SparseTensor> = tensors.iter().collect();
    // UTF-8 sorts as code points do, which is the reference's order.
    sorted.sort_by_key(|tensor| &tensor.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(DeltaError::tensor(&pair[0].name, "it is there twice"));
    }
    let mut data = Vec::new();
    let mut header = Header { version: format.version(), tensors: Vec::new() };
    for tensor in sorted {
        tensor.check()?;
        if format == Format::V2 || !tensor.positions.is_empty() {
            header.tensors.push(write_tensor(tensor, format, &mut data)?);
        }
    }
    let header = header.write(format);
    let length = u32::try_from(header.len())
        .map_err(|_| DeltaError::BadHeader(format!("it has {} bytes", header.len())))?;
    Ok([&length.to_le_bytes(), header.as_bytes(), &data].concat())
}

/// Reads a payload. An empty one has no tensors.
///
/// Holds at most 12 bytes for each byte of the payload, and about 1,000 for each tensor it lists.
///
/// # Errors
/// When the payload is not of this `format`, or lists what no tensor can have.
pub fn decode(payload: &[u8], format: Format) -> Result<Vec<SparseTensor>, DeltaError> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    let (header, data) = Header::read(payload)?;
    if header.version != format.version() {
        let (found, expected) = (header.version, format.version());
        return Err(DeltaError::WrongVersion { found, expected });
    }
    let mut names = BTreeSet::new();
    // Blocks that share bytes would let a small payload fill the memory.
    let mut unclaimed = data.len();
    let mut tensors = Vec::new();
    for entry in &header.tensors {
        if !names.insert(&entry.name) {
            return Err(DeltaError::tensor(&entry.name, "it is there twice"));
        }
        let tensor = read_tensor(entry, data, format, &mut unclaimed)?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn write_tensor(
    tensor: &SparseTensor,
    format: Format,
    data: &mut Vec<u8>,
) -> Result<Entry, DeltaError> {
    let SparseTensor { name, shape, value_type, .. } = tensor;
    let (positions, values) = sorted_changes(tensor);
    let unfit = || DeltaError::tensor(name, format!("a place does not fit {}", format.name()));
    let indices_offset = data.len();
    let mut types = None;
    let mut rows_size = None;
    if format == Format::V2 {
        let differences = flat(&positions).ok_or_else(unfit)?;
        // The reference adds them up in 4 bytes.
        let fits = positions.last().is_none_or(|last| i32::try_from(*last).is_ok());
        IndexType::I32.write(&differences, data).filter(|()| fits).ok_or_else(unfit)?;
    } else {
        let (rows, columns) = rows_and_columns(&positions, shape).ok_or_else(unfit)?;
        let (row_type, column_type) = match format {
            Format::V31 => (IndexType::smallest(&rows, true), IndexType::smallest(&columns, false)),
            _ => (IndexType::I32, IndexType::I32),
        };
        row_type.write(&rows, data).ok_or_else(unfit)?;
        rows_size = Some(data.len() - indices_offset);
        column_type.write(&columns, data).ok_or_else(unfit)?;
        types = Some((row_type, column_type));
    }
    let values_offset = data.len();
    data.extend_from_slice(&values);
    let indices_size = values_offset - indices_offset;
    Ok(Entry {
        name: name.clone(),
        shape: shape.clone(),
        n_places: positions.len() as u64,
        value_dtype: value_type.name().to_owned(),
        row_dtype: types.map(|(rows, _)| rows.name().to_owned()),
        col_dtype: types.map(|(_, columns)| columns.name().to_owned()),
        indices_offset: indices_offset as u64,
        indices_size: indices_size as u64,
        rows_size: rows_size.map(|size| size as u64),
        cols_size: rows_size.map(|size| (indices_size - size) as u64),
        values_offset: values_offset as u64,
        values_size: values.len() as u64,
    })
}

/// Returns places and values in the order of the places; equal places keep theirs.
fn sorted_changes(tensor: &SparseTensor) -> (Vec<u64>, Vec<u8>) {
    if tensor.positions.is_sorted() {
        return (tensor.positions.clone(), tensor.values.clone());
    }
    let values = tensor.values.chunks_exact(tensor.value_type.size());
    let mut pairs: Vec<(u64, &[u8])> = tensor.positions.iter().copied().zip(values).collect();
    pairs.sort_by_key(|(position, _)| *position);
    (
        pairs.iter().map(|(position, _)| *position).collect(),
        pairs.iter().flat_map(|(_, value)| *value).copied().collect(),
    )
}

fn read_tensor(
    entry: &Entry,
    data: &[u8],
    format: Format,
    unclaimed: &mut usize,
) -> Result<SparseTensor, DeltaError> {
    let name = &entry.name;
    let value_type = entry.value_type()?;
    let n = elements(&entry.shape)
        .ok_or_else(|| DeltaError::tensor(name, "its shape is empty or too large"))?;
    let indices = block(data, entry.indices_offset, entry.indices_size);
    if indices.len() as u64 != entry.indices_size {
        return Err(DeltaError::Truncated {
            what: "index block",
            needed: entry.indices_size,
            left: indices.len() as u64,
        });
    }
    // As in the reference, values may be cut short; applying them is then refused.
    let values = block(data, entry.values_offset, entry.values_size);
    if !values.len().is_multiple_of(value_type.size()) {
        let reason = format!("its values have {} bytes", values.len());
        return Err(DeltaError::tensor(name, reason));
    }
    *unclaimed = unclaimed
        .checked_sub(indices.len() + values.len())
        .ok_or_else(|| DeltaError::tensor(name, "its blocks share bytes with others"))?;
    let positions = match format {
        Format::V2 => read_flat(name, indices, n)?,
        Format::V3 | Format::V31 => read_places(entry, indices, format)?,
    };
    Ok(SparseTensor {
        name: name.clone(),
        shape: entry.shape.clone(),
        value_type,
        positions,
        values: values.to_vec(),
    })
}

fn read_places(entry: &Entry, indices: &[u8], format: Format) -> Result<Vec<u64>, DeltaError> {
    let (Some(rows_size), Some(cols_size)) = (entry.rows_size, entry.cols_size) else {
        return Err(DeltaError::tensor(&entry.name, "it has no rows_size and cols_size"));
    };
    let rows = usize::try_from(rows_size).ok().and_then(|size| indices.split_at_checked(size));
    let Some((rows, columns)) = rows.filter(|(_, columns)| columns.len() as u64 == cols_size)
    else {
        let reason = format!(
            "rows of {rows_size} and columns of {cols_size} bytes are not its {} of indices",
            indices.len()
        );
        return Err(DeltaError::tensor(&entry.name, reason));
    };
    let (row_type, column_type) = match format {
        Format::V31 => (
            IndexType::of_name(entry.row_dtype.as_deref()),
            IndexType::of_name(entry.col_dtype.as_deref()),
        ),
        _ => (IndexType::I32, IndexType::I32),
    };
    read_rows_and_columns(&entry.name, (row_type, rows), (column_type, columns), &entry.shape)
}

/// Returns the bytes from `offset` on, at most `size`, as far as there are any.
fn block(data: &[u8], offset: u64, size: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
    let rest = &data[start..];
    &rest[..usize::try_from(size).unwrap_or(usize::MAX).min(rest.len())]
}
