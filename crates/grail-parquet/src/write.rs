//! Writes a rollout file as the reference's reader takes it: one row group, ZSTD 1, data pages v1.

use std::io::Write;
use std::sync::Arc;

use grail_protocol::v5::file::{FOOTER_KEYS, JsonText, Row, Scalar, WindowFile};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::{
    ColumnCloseResult, ColumnWriter, get_column_writer, get_typed_column_writer_mut,
};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion,
};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use crate::columns::{COLUMNS, Field, Kind, SCHEMA};
use crate::error::WriteError;
use crate::pieces::Pieces;
use crate::threads::on_all_threads;

/// Rows that are handed to the encoder at a time. It looks at the size of a page in between, so this
/// keeps the pages of long texts near a megabyte.
const ROWS_AT_A_TIME: usize = 64;

/// Columns whose values hardly repeat: a dictionary costs time, and makes the file larger.
const WITHOUT_DICTIONARY: [&str; 3] = [
    "commit.tokens.list.element",
    "commit.commitments",
    "commit.rollout.token_logprobs.list.element",
];

/// Writes a file. Log-probabilities are rounded to f32.
///
/// Columns are encoded on all threads and held until all before them are written, so memory holds the
/// compressed file at most, and a few pages.
///
/// # Errors
/// When a cell does not fit its column, or the sink fails.
pub fn write<W: Write + Send>(file: &WindowFile, sink: W) -> Result<(), WriteError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = Arc::new(properties(file)?);
    let mut writer = SerializedFileWriter::new(sink, schema, Arc::clone(&properties))?;
    let leaves = writer.schema_descr().columns().to_vec();
    let encode = |place: usize| {
        let (path, field) = &COLUMNS[place];
        let target = Target { path, max_def: max_def(path, field) };
        target.encode(&leaves[place], Arc::clone(&properties), field, &file.rows)
    };
    let mut group = writer.next_row_group()?;
    for column in on_all_threads(COLUMNS.len(), encode) {
        let (pages, close) = column?;
        group.append_column(&pages, close)?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

fn properties(file: &WindowFile) -> Result<WriterProperties, WriteError> {
    let entries = FOOTER_KEYS.into_iter().zip(file.footer.texts());
    let entries = entries.map(|(key, text)| KeyValue::new(key.to_owned(), text)).collect();
    let builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_key_value_metadata(Some(entries));
    let builder = WITHOUT_DICTIONARY.into_iter().fold(builder, |builder, path| {
        let path = ColumnPath::new(path.split('.').map(str::to_owned).collect());
        builder.set_column_dictionary_enabled(path, false)
    });
    Ok(builder.build())
}

/// Every structure and field is optional; a list adds its repetition and its optional element.
fn max_def(path: &str, field: &Field) -> i16 {
    let is_list = matches!(field, Field::Tokens | Field::Logprobs);
    let depth = path.split('.').count() + if is_list { 2 } else { 0 };
    i16::try_from(depth).expect("columns are five levels deep at most")
}

struct Target {
    path: &'static str,
    max_def: i16,
}

impl Target {
    /// Returns the pages of the column, and what the file's footer says of them.
    fn encode(
        &self,
        leaf: &ColumnDescPtr,
        properties: WriterPropertiesPtr,
        field: &Field,
        rows: &[Row],
    ) -> Result<(Pieces, ColumnCloseResult), WriteError> {
        let mut pages = TrackedWrite::new(Pieces::default());
        let sink = Box::new(SerializedPageWriter::new(&mut pages));
        let mut column = get_column_writer(Arc::clone(leaf), properties, sink);
        for (chunk, rows) in rows.chunks(ROWS_AT_A_TIME).enumerate() {
            self.write(&mut column, field, rows, chunk * ROWS_AT_A_TIME)?;
        }
        let close = column.close()?;
        Ok((pages.into_inner()?, close))
    }

    fn write(
        &self,
        column: &mut ColumnWriter<'_>,
        field: &Field,
        rows: &[Row],
        first_row: usize,
    ) -> Result<(), WriteError> {
        match *field {
            Field::Cell { kind, of, .. } => {
                let cells =
                    || rows.iter().map(of).enumerate().map(|(at, cell)| (first_row + at, cell));
                match kind {
                    Kind::Bool => {
                        self.cells::<BoolType>(column, cells(), Scalar::as_bool, "boolean")
                    }
                    Kind::Int32 => {
                        self.cells::<Int32Type>(column, cells(), int32, "32-bit integer")
                    }
                    Kind::Int64 => {
                        self.cells::<Int64Type>(column, cells(), Scalar::as_integer, "integer")
                    }
                    Kind::Double => self.cells::<DoubleType>(column, cells(), double, "float"),
                    Kind::Text => self.cells::<ByteArrayType>(column, cells(), text, "text"),
                }
            }
            Field::Json { of, .. } => {
                let texts = rows.iter().map(of).map(JsonText::as_str);
                let values: Vec<ByteArray> = texts.map(ByteArray::from).collect();
                let defs = vec![self.max_def; values.len()];
                self.batch::<ByteArrayType>(column, &values, &defs, None)
            }
            Field::Tokens => {
                let lists = rows.iter().map(|row| row.commit.tokens.as_slice());
                self.lists::<Int32Type, _>(column, lists, |token| token)
            }
            Field::Logprobs => {
                let lists = rows.iter().map(|row| row.commit.rollout.token_logprobs.as_slice());
                self.lists::<FloatType, _>(column, lists, |logprob| logprob as f32)
            }
        }
    }

    fn cells<'r, T: DataType>(
        &self,
        column: &mut ColumnWriter<'_>,
        cells: impl Iterator<Item = (usize, &'r Scalar)>,
        convert: impl Fn(&Scalar) -> Option<T::T>,
        expected: &'static str,
    ) -> Result<(), WriteError> {
        let (mut values, mut defs) = (Vec::new(), Vec::new());
        for (row, cell) in cells {
            let is_null = cell.is_null();
            defs.push(self.max_def - i16::from(is_null));
            if !is_null {
                let bad = WriteError::Cell { row, column: self.path, expected };
                values.push(convert(cell).ok_or(bad)?);
            }
        }
        self.batch::<T>(column, &values, &defs, None)
    }

    fn lists<'r, T: DataType, V: Copy + 'r>(
        &self,
        column: &mut ColumnWriter<'_>,
        lists: impl Iterator<Item = &'r [V]>,
        convert: impl Fn(V) -> T::T,
    ) -> Result<(), WriteError> {
        let (mut values, mut defs, mut reps) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists {
            values.extend(list.iter().map(|&value| convert(value)));
            reps.push(0);
            if list.is_empty() {
                // There is a list, and no element of it.
                defs.push(self.max_def - 2);
            } else {
                reps.resize(reps.len() + list.len() - 1, 1);
                defs.resize(defs.len() + list.len(), self.max_def);
            }
        }
        self.batch::<T>(column, &values, &defs, Some(&reps))
    }

    fn batch<T: DataType>(
        &self,
        column: &mut ColumnWriter<'_>,
        values: &[T::T],
        defs: &[i16],
        reps: Option<&[i16]>,
    ) -> Result<(), WriteError> {
        get_typed_column_writer_mut::<T>(column).write_batch(values, Some(defs), reps)?;
        Ok(())
    }
}

fn int32(cell: &Scalar) -> Option<i32> {
    cell.as_integer().and_then(|integer| i32::try_from(integer).ok())
}

fn double(cell: &Scalar) -> Option<f64> {
    if let Scalar::Float(float) = cell { Some(*float) } else { None }
}

fn text(cell: &Scalar) -> Option<ByteArray> {
    cell.as_text().map(ByteArray::from)
}
