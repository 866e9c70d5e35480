//! Places as differences between neighbours: flat, or a row block and a column block.

use super::{DeltaError, columns};

/// How a difference is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexType {
    /// One byte.
    U8,
    /// Two bytes, little-endian.
    U16,
    /// Four bytes, little-endian, signed.
    I32,
}

impl IndexType {
    /// Returns the type for `differences`; one byte only `with_u8`, as the reference has it for rows
    /// but not for columns.
    pub fn smallest(differences: &[i64], with_u8: bool) -> Self {
        let Some(largest) = differences.iter().max() else { return Self::U8 };
        match (differences.iter().any(|difference| *difference < 0), *largest) {
            (false, ..=0xff) if with_u8 => Self::U8,
            (false, ..=0xffff) => Self::U16,
            _ => Self::I32,
        }
    }

    /// Returns the name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::I32 => "int32",
        }
    }

    /// Returns the bytes of one difference.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    /// Appends `differences`; `None` if one does not fit.
    pub(super) fn write(self, differences: &[i64], bytes: &mut Vec<u8>) -> Option<()> {
        for difference in differences {
            match self {
                Self::U8 => bytes.push(u8::try_from(*difference).ok()?),
                Self::U16 => bytes.extend(u16::try_from(*difference).ok()?.to_le_bytes()),
                Self::I32 => bytes.extend(i32::try_from(*difference).ok()?.to_le_bytes()),
            }
        }
        Some(())
    }

    /// Walks over the differences in `bytes`, a whole number of them.
    fn read(self, bytes: &[u8]) -> impl Iterator<Item = i64> {
        bytes.chunks_exact(self.size()).map(move |chunk| match (self, chunk) {
            (Self::U8, [byte]) => i64::from(*byte),
            (Self::U16, [low, high]) => i64::from(u16::from_le_bytes([*low, *high])),
            (_, chunk) => {
                let chunk = chunk.try_into().expect("the other types have 1 and 2 bytes");
                i64::from(i32::from_le_bytes(chunk))
            }
        })
    }

    fn count(self, name: &str, block: &[u8]) -> Result<usize, DeltaError> {
        if block.len().is_multiple_of(self.size()) {
            return Ok(block.len() / self.size());
        }
        let reason = format!("a block of {} has {} bytes", self.name(), block.len());
        Err(DeltaError::tensor(name, reason))
    }
}

/// Returns the differences of `positions`, the first against 0.
pub(super) fn flat(positions: &[u64]) -> Option<Vec<i64>> {
    let mut last = 0;
    positions
        .iter()
        .map(|position| {
            let position = i64::try_from(*position).ok()?;
            Some(position - std::mem::replace(&mut last, position))
        })
        .collect()
}

/// Returns the differences of rows, and columns: absolute where the row is another one than before,
/// else the difference.
pub(super) fn rows_and_columns(positions: &[u64], shape: &[u64]) -> Option<(Vec<i64>, Vec<i64>)> {
    let width = i64::try_from(columns(shape)).ok()?.max(1);
    let mut last: Option<(i64, i64)> = None;
    let mut differences = (Vec::new(), Vec::new());
    for position in positions {
        let position = i64::try_from(*position).ok()?;
        let place = (position / width, position % width);
        let (row, column) = match last {
            None => place,
            Some((row, column)) if row == place.0 => (0, place.1 - column),
            Some((row, _)) => (place.0 - row, place.1),
        };
        differences.0.push(row);
        differences.1.push(column);
        last = Some(place);
    }
    Some(differences)
}

/// Reads what [`flat`] makes, of 4 bytes each; every place is below `n`.
pub(super) fn read_flat(name: &str, block: &[u8], n: u64) -> Result<Vec<u64>, DeltaError> {
    let count = IndexType::I32.count(name, block)?;
    let mut positions = Vec::with_capacity(count);
    let mut position = 0;
    for difference in IndexType::I32.read(block) {
        position += difference;
        positions.push(inside(name, position, n)?);
    }
    Ok(positions)
}

/// Reads what [`rows_and_columns`] makes; every place lies inside `shape`.
pub(super) fn read_rows_and_columns(
    name: &str,
    (row_type, rows): (IndexType, &[u8]),
    (column_type, columns_block): (IndexType, &[u8]),
    shape: &[u64],
) -> Result<Vec<u64>, DeltaError> {
    let count = row_type.count(name, rows)?;
    let n_columns = column_type.count(name, columns_block)?;
    if count != n_columns {
        let reason = format!("it has {count} rows and {n_columns} columns");
        return Err(DeltaError::tensor(name, reason));
    }
    let (height, width) = (shape.first().copied().unwrap_or(0), columns(shape));
    let mut positions = Vec::with_capacity(count);
    let (mut row, mut column) = (0, 0);
    for (step, value) in row_type.read(rows).zip(column_type.read(columns_block)) {
        row += step;
        // Column 0 before the first entry: absolute and difference are the same there.
        column = if step == 0 { column + value } else { value };
        positions.push(inside(name, row, height)? * width + inside(name, column, width)?);
    }
    Ok(positions)
}

fn inside(name: &str, place: i64, end: u64) -> Result<u64, DeltaError> {
    match u64::try_from(place) {
        Ok(place) if place < end => Ok(place),
        _ => Err(DeltaError::tensor(name, format!("place {place} is not below {end}"))),
    }
}
