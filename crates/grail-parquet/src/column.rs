//! Decodes a known column, some rows at a time, into the rows that it is part of.

use std::panic::{AssertUnwindSafe, catch_unwind};

use grail_protocol::v5::file::{COMMITMENTS_BYTES_MAX, JsonText, Row, Scalar};
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::schema::types::ColumnDescPtr;

use crate::columns::{COLUMNS, Field};
use crate::error::ReadError;
use crate::limits::{Limits, TEXT_BYTES_MAX};
use crate::schema::{LeafKind, Place};

/// A column of one row group.
pub struct Column {
    reader: ColumnReader,
    place: Place,
    defs: Vec<i16>,
    reps: Vec<i16>,
}

/// The levels and values of some rows.
struct Batch<'a, T> {
    /// Empty when nothing can be null.
    defs: &'a [i16],
    /// Empty when nothing repeats.
    reps: &'a [i16],
    values: Vec<T>,
}

impl Column {
    /// Starts at the first row of the pages.
    pub fn new(descriptor: ColumnDescPtr, pages: Box<dyn PageReader>, place: Place) -> Self {
        let reader = get_column_reader(descriptor, pages);
        Self { reader, place, defs: Vec::new(), reps: Vec::new() }
    }

    /// Decodes `n_rows` without looking at the values.
    ///
    /// # Errors
    /// When they cannot be decoded.
    pub fn pass(&mut self, n_rows: usize) -> Result<(), ReadError> {
        let (defs, reps) = (&mut self.defs, &mut self.reps);
        match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => decode(reader, defs, reps, n_rows).map(drop),
            ColumnReader::Int32ColumnReader(reader) => decode(reader, defs, reps, n_rows).map(drop),
            ColumnReader::Int64ColumnReader(reader) => decode(reader, defs, reps, n_rows).map(drop),
            ColumnReader::FloatColumnReader(reader) => decode(reader, defs, reps, n_rows).map(drop),
            ColumnReader::DoubleColumnReader(reader) => {
                decode(reader, defs, reps, n_rows).map(drop)
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                decode(reader, defs, reps, n_rows).map(drop)
            }
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                Err(ReadError::unreadable("a column has a type that it must not have"))
            }
        }
    }

    /// Decodes as many rows as there are into them, and returns how many bytes they took.
    ///
    /// # Errors
    /// When the pages are damaged, a structure or a list is null, or a value is beyond its limit.
    pub fn fill(&mut self, rows: &mut [Row], limits: &Limits) -> Result<u64, ReadError> {
        let (path, field) = &COLUMNS[self.place.column];
        let filled = match field {
            Field::Cell { of_mut, .. } => self.fill_cells(rows, *of_mut),
            Field::Json { of_mut, .. } => self.fill_json(rows, *of_mut),
            Field::Tokens => self.fill_tokens(rows, limits),
            Field::Logprobs => self.fill_logprobs(rows, limits),
        };
        filled.map_err(|error| match error {
            ReadError::Unreadable(what) => ReadError::Unreadable(format!("column {path}: {what}")),
            other => other,
        })
    }

    fn fill_cells(
        &mut self,
        rows: &mut [Row],
        of_mut: fn(&mut Row) -> &mut Scalar,
    ) -> Result<u64, ReadError> {
        let Self { reader, place, defs, reps } = self;
        let n_rows = rows.len();
        let cells = rows.iter_mut().map(of_mut);
        match (reader, place.kind) {
            (ColumnReader::BoolColumnReader(reader), _) => {
                set_cells(decode(reader, defs, reps, n_rows)?, place, cells, |flag| {
                    Ok(Scalar::Bool(flag))
                })
            }
            (ColumnReader::Int32ColumnReader(reader), kind) => {
                set_cells(decode(reader, defs, reps, n_rows)?, place, cells, |integer: i32| {
                    let is_unsigned = kind == LeafKind::UInt32;
                    Ok(Scalar::Integer(if is_unsigned {
                        i64::from(integer.cast_unsigned())
                    } else {
                        i64::from(integer)
                    }))
                })
            }
            (ColumnReader::Int64ColumnReader(reader), kind) => {
                set_cells(decode(reader, defs, reps, n_rows)?, place, cells, |integer: i64| {
                    if kind == LeafKind::UInt64 && integer < 0 {
                        return Err(ReadError::unreadable("an integer is beyond 63 bits"));
                    }
                    Ok(Scalar::Integer(integer))
                })
            }
            (ColumnReader::FloatColumnReader(reader), _) => {
                set_cells(decode(reader, defs, reps, n_rows)?, place, cells, |float| {
                    Ok(Scalar::Float(f64::from(float)))
                })
            }
            (ColumnReader::DoubleColumnReader(reader), _) => {
                set_cells(decode(reader, defs, reps, n_rows)?, place, cells, |float| {
                    Ok(Scalar::Float(float))
                })
            }
            (ColumnReader::ByteArrayColumnReader(reader), _) => {
                let mut n_bytes = 0;
                let batch = decode(reader, defs, reps, n_rows)?;
                let fixed = set_cells(batch, place, cells, |bytes| {
                    n_bytes += bytes.len() as u64;
                    Ok(Scalar::Text(text(&bytes, TEXT_BYTES_MAX)?.into()))
                })?;
                Ok(fixed + n_bytes)
            }
            _ => Err(ReadError::unreadable("it has a type that it must not have")),
        }
    }

    fn fill_json(
        &mut self,
        rows: &mut [Row],
        of_mut: fn(&mut Row) -> &mut JsonText,
    ) -> Result<u64, ReadError> {
        let Self { reader, place, defs, reps } = self;
        let ColumnReader::ByteArrayColumnReader(reader) = reader else {
            return Err(ReadError::unreadable("it is no text"));
        };
        let batch = decode(reader, defs, reps, rows.len())?;
        let mut values = batch.values.into_iter();
        let mut n_bytes = 0;
        for (at, row) in rows.iter_mut().enumerate() {
            // Python hands a null on as it is, and does not parse it.
            *of_mut(row) = match is_present(batch.defs, at, place)? {
                true => {
                    let bytes = values.next().ok_or_else(missing)?;
                    n_bytes += bytes.len() as u64;
                    let json = JsonText::new(text(&bytes, COMMITMENTS_BYTES_MAX)?);
                    json.map_err(|error| ReadError::Unreadable(error.to_string()))?
                }
                false => JsonText::null(),
            };
        }
        Ok(n_bytes)
    }

    fn fill_tokens(&mut self, rows: &mut [Row], limits: &Limits) -> Result<u64, ReadError> {
        let Self { reader, place, defs, reps } = self;
        let most = limits.tokens_per_row;
        let beyond = || ReadError::unreadable("a token is beyond 32 bits");
        match (reader, place.kind) {
            (ColumnReader::Int32ColumnReader(reader), LeafKind::Int32) => {
                let batch = decode(reader, defs, reps, rows.len())?;
                set_lists(&batch, place, most, rows, |row, tokens| {
                    row.commit.tokens = tokens.to_vec();
                    Ok(())
                })
            }
            (ColumnReader::Int64ColumnReader(reader), LeafKind::Int64) => {
                let batch = decode(reader, defs, reps, rows.len())?;
                set_lists(&batch, place, most, rows, |row, tokens| {
                    let narrow = tokens.iter().map(|&token| i32::try_from(token));
                    row.commit.tokens = narrow.collect::<Result<_, _>>().map_err(|_| beyond())?;
                    Ok(())
                })
            }
            _ => Err(ReadError::unreadable("it is no list of integers")),
        }
    }

    fn fill_logprobs(&mut self, rows: &mut [Row], limits: &Limits) -> Result<u64, ReadError> {
        let Self { reader, place, defs, reps } = self;
        let most = limits.tokens_per_row;
        match reader {
            ColumnReader::FloatColumnReader(reader) => {
                let batch = decode(reader, defs, reps, rows.len())?;
                set_lists(&batch, place, most, rows, |row, logprobs: &[f32]| {
                    let wide = logprobs.iter().map(|&logprob| f64::from(logprob));
                    row.commit.rollout.token_logprobs = wide.collect();
                    Ok(())
                })
            }
            ColumnReader::DoubleColumnReader(reader) => {
                let batch = decode(reader, defs, reps, rows.len())?;
                set_lists(&batch, place, most, rows, |row, logprobs: &[f64]| {
                    row.commit.rollout.token_logprobs = logprobs.to_vec();
                    Ok(())
                })
            }
            _ => Err(ReadError::unreadable("it is no list of floats")),
        }
    }
}

/// Decodes exactly `n_rows` rows.
fn decode<'a, T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    defs: &'a mut Vec<i16>,
    reps: &'a mut Vec<i16>,
    n_rows: usize,
) -> Result<Batch<'a, T::T>, ReadError> {
    defs.clear();
    reps.clear();
    let mut values = Vec::new();
    // Headers, sizes and dictionaries are checked before. What is left to the crate's decoders are
    // the packed bits themselves; they answer damage with errors as far as their authors know, and a
    // place where they panic instead must not end a validator. The reader is not used again then.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        reader.read_records(n_rows, Some(&mut *defs), Some(&mut *reps), &mut values)
    }));
    let decoded = decoded.map_err(|_| ReadError::unreadable("a page upsets the decoder"))?;
    let (n_decoded, _, _) = decoded?;
    if n_decoded == n_rows { Ok(Batch { defs, reps, values }) } else { Err(missing()) }
}

fn missing() -> ReadError {
    ReadError::unreadable("rows are missing")
}

/// Whether the value of a row is there. A null structure around it makes the reference raise.
fn is_present(defs: &[i16], at: usize, place: &Place) -> Result<bool, ReadError> {
    // Levels are left out where nothing can be null.
    let def = defs.get(at).copied().unwrap_or(place.def);
    if def < place.parent_def {
        return Err(ReadError::unreadable("the structure around it is null"));
    }
    Ok(def == place.def)
}

fn text(bytes: &ByteArray, bytes_max: usize) -> Result<&str, ReadError> {
    if bytes.len() > bytes_max {
        return Err(ReadError::unreadable(format!("a text has {} bytes", bytes.len())));
    }
    std::str::from_utf8(bytes.data()).map_err(|_| ReadError::unreadable("a text is no UTF-8"))
}

/// Sets the cells of some rows and returns their fixed size.
fn set_cells<'r, T>(
    batch: Batch<'_, T>,
    place: &Place,
    cells: impl Iterator<Item = &'r mut Scalar>,
    mut convert: impl FnMut(T) -> Result<Scalar, ReadError>,
) -> Result<u64, ReadError> {
    let mut values = batch.values.into_iter();
    let mut n_bytes = 0;
    for (at, cell) in cells.enumerate() {
        n_bytes += size_of::<Scalar>() as u64;
        *cell = match is_present(batch.defs, at, place)? {
            true => convert(values.next().ok_or_else(missing)?)?,
            false => Scalar::Null,
        };
    }
    Ok(n_bytes)
}

/// Cuts the values of some rows at the repetition levels and sets each list.
fn set_lists<T>(
    batch: &Batch<'_, T>,
    place: &Place,
    length_max: usize,
    rows: &mut [Row],
    mut set: impl FnMut(&mut Row, &[T]) -> Result<(), ReadError>,
) -> Result<u64, ReadError> {
    let Batch { defs, reps, values } = batch;
    if defs.len() != reps.len() {
        return Err(missing());
    }
    let mut values = values.as_slice();
    let (mut at, mut n_bytes) = (0, 0);
    for row in rows {
        let first = *defs.get(at).ok_or_else(missing)?;
        if first < place.def {
            return Err(ReadError::unreadable("a list or the structure around it is null"));
        }
        let n_more = reps[at + 1..].iter().take_while(|rep| **rep > 0).count();
        // An empty list has one level and no value.
        let n_levels = 1 + n_more;
        let length = if first == place.def { 0 } else { n_levels };
        let is_whole = defs[at..at + n_levels].iter().all(|def| *def == place.element_def);
        if (length == 0 && n_more > 0) || (length > 0 && !is_whole) {
            return Err(ReadError::unreadable("an element of a list is null"));
        }
        if length > length_max {
            return Err(ReadError::unreadable(format!("a list has {length} elements")));
        }
        let (own, rest) = values.split_at_checked(length).ok_or_else(missing)?;
        set(row, own)?;
        values = rest;
        at += n_levels;
        n_bytes += size_of_val(own) as u64;
    }
    Ok(n_bytes)
}
