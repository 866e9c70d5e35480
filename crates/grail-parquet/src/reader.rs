//! Reads a rollout file row by row, with no more in memory than a page of each column.

use grail_protocol::v5::file::{Footer, JsonText, Row, WindowFile};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;

use crate::column::Column;
use crate::columns::{COLUMNS, Field, ROLLOUT_GROUP};
use crate::error::ReadError;
use crate::footer::{footer_of, read_metadata};
use crate::limits::{BATCH_ROWS, Limits, PAGES_MAX};
use crate::pages::{Chunk, Pages};
use crate::schema::{LeafKind, Place, find_all};

/// Reads a whole file, from `Bytes` or an open `File`.
///
/// # Errors
/// What the reference makes of the file, see [`ReadError`]; and [`ReadError::Unreadable`] for a file
/// beyond `limits`.
pub fn read<R: ChunkReader + Clone + 'static>(
    source: R,
    limits: &Limits,
) -> Result<WindowFile, ReadError> {
    let reader = RowReader::open(source, limits)?;
    let footer = reader.footer().clone();
    let rows = reader.collect::<Result<_, _>>()?;
    Ok(WindowFile { footer, rows })
}

/// The rows of a file, in order. After an error there are no more.
pub struct RowReader<R> {
    source: R,
    metadata: ParquetMetaData,
    places: Vec<Place>,
    footer: Footer,
    limits: Limits,
    n_rows: usize,
    /// Row groups that were started.
    n_groups: usize,
    /// Columns of the row group that is read.
    columns: Vec<Column>,
    left_in_group: usize,
    batch: std::vec::IntoIter<Row>,
    decoded_bytes: u64,
}

impl<R: ChunkReader + Clone + 'static> RowReader<R> {
    /// Reads all that can be judged without decoding rows: footer, schema, page headers, and whether
    /// a `rollout_group` is null.
    ///
    /// # Errors
    /// As [`read`].
    pub fn open(source: R, limits: &Limits) -> Result<Self, ReadError> {
        let metadata = read_metadata(&source)?;
        let places = find_all(metadata.file_metadata().schema_descr())?;
        let n_rows = count_rows(&metadata, limits)?;
        let mut reader = Self {
            source,
            metadata,
            places,
            footer: Footer::default(),
            limits: *limits,
            n_rows,
            n_groups: 0,
            columns: Vec::new(),
            left_in_group: 0,
            batch: Vec::new().into_iter(),
            decoded_bytes: 0,
        };
        reader.survey()?;
        if reader.has_null_group()? {
            // Arrow decodes everything before the reference looks for nulls.
            reader.pass_all()?;
            return Err(ReadError::Corrupt("a rollout_group is null".into()));
        }
        reader.footer = footer_of(&reader.metadata)?;
        Ok(reader)
    }

    /// Returns what the file says about itself.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Returns how many rows the file has.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Holds all page headers to the limits.
    fn survey(&self) -> Result<(), ReadError> {
        let (mut inflated, mut pages_left) = (0_u64, PAGES_MAX);
        let mut tokens = [0_u64; COLUMNS.len()];
        for group in self.metadata.row_groups() {
            let mut page_bytes = 0_u64;
            let n_rows = u64::try_from(group.num_rows()).unwrap_or(0);
            for place in &self.places {
                let survey =
                    self.pages(group, place)?.survey(value_bytes(place.kind), &mut pages_left)?;
                inflated = inflated.saturating_add(survey.inflated_bytes);
                page_bytes = page_bytes.saturating_add(survey.page_bytes);
                let is_list = matches!(COLUMNS[place.column].1, Field::Tokens | Field::Logprobs);
                tokens[place.column] += survey.n_values;
                if !is_list && survey.n_values != n_rows {
                    return Err(ReadError::unreadable("a column has not one value a row"));
                }
                if is_list && tokens[place.column] > self.limits.tokens as u64 {
                    return Err(over("tokens", self.limits.tokens as u64));
                }
            }
            if page_bytes > self.limits.page_bytes as u64 {
                return Err(over("bytes of pages at a time", self.limits.page_bytes as u64));
            }
        }
        if inflated > self.limits.inflated_bytes {
            return Err(over("inflated bytes", self.limits.inflated_bytes));
        }
        Ok(())
    }

    fn pages(
        &self,
        group: &parquet::file::metadata::RowGroupMetaData,
        place: &Place,
    ) -> Result<Pages<R>, ReadError> {
        let chunk = group
            .columns()
            .get(place.leaf)
            .ok_or_else(|| ReadError::unreadable("a row group lacks a column"))?;
        let descriptor = self.metadata.file_metadata().schema_descr().column(place.leaf);
        if chunk.column_type() != descriptor.physical_type() {
            return Err(ReadError::unreadable("a column chunk has another type than its column"));
        }
        let chunk = Chunk::new(chunk, self.source.len())?;
        Ok(Pages::new(self.source.clone(), chunk, &descriptor))
    }

    fn column(&self, group: usize, place: &Place) -> Result<Column, ReadError> {
        let descriptor = self.metadata.file_metadata().schema_descr().column(place.leaf);
        let pages = self.pages(self.metadata.row_group(group), place)?;
        Ok(Column::new(descriptor, Box::new(pages), *place))
    }

    fn rows_of(&self, group: usize) -> usize {
        usize::try_from(self.metadata.row_group(group).num_rows()).unwrap_or(0)
    }

    fn has_null_group(&self) -> Result<bool, ReadError> {
        let Some(place) = self.places.iter().find(|place| place.column == ROLLOUT_GROUP) else {
            return Ok(false);
        };
        for group in 0..self.metadata.num_row_groups() {
            let mut column = self.column(group, place)?;
            let mut left = self.rows_of(group);
            while left > 0 {
                let mut rows = vec![Row::default(); left.min(BATCH_ROWS)];
                column.fill(&mut rows, &self.limits)?;
                if rows.iter().any(|row| row.rollout_group.is_null()) {
                    return Ok(true);
                }
                left -= rows.len();
            }
        }
        Ok(false)
    }

    fn pass_all(&self) -> Result<(), ReadError> {
        for group in 0..self.metadata.num_row_groups() {
            for place in &self.places {
                let mut column = self.column(group, place)?;
                let mut left = self.rows_of(group);
                while left > 0 {
                    let n_rows = left.min(BATCH_ROWS);
                    column.pass(n_rows)?;
                    left -= n_rows;
                }
            }
        }
        Ok(())
    }

    /// Decodes the next rows; none behind the last.
    fn next_batch(&mut self) -> Result<Vec<Row>, ReadError> {
        while self.left_in_group == 0 {
            if self.n_groups == self.metadata.num_row_groups() {
                return Ok(Vec::new());
            }
            let group = self.n_groups;
            let columns = self.places.iter().map(|place| self.column(group, place));
            self.columns = columns.collect::<Result<_, _>>()?;
            self.left_in_group = self.rows_of(group);
            self.n_groups += 1;
        }
        let mut rows = vec![blank_row(); self.left_in_group.min(BATCH_ROWS)];
        self.decoded_bytes += (size_of::<Row>() * rows.len()) as u64;
        for column in &mut self.columns {
            self.decoded_bytes += column.fill(&mut rows, &self.limits)?;
            if self.decoded_bytes > self.limits.decoded_bytes {
                return Err(over("decoded bytes", self.limits.decoded_bytes));
            }
        }
        self.left_in_group -= rows.len();
        Ok(rows)
    }
}

impl<R: ChunkReader + Clone + 'static> Iterator for RowReader<R> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.batch.next() {
            return Some(Ok(row));
        }
        match self.next_batch() {
            Ok(rows) => {
                self.batch = rows.into_iter();
                self.batch.next().map(Ok)
            }
            Err(error) => {
                self.left_in_group = 0;
                self.n_groups = self.metadata.num_row_groups();
                Some(Err(error))
            }
        }
    }
}

/// A row of a file without columns.
fn blank_row() -> Row {
    let mut row = Row::default();
    for (_, field) in COLUMNS {
        if let Field::Json { default, of_mut, .. } = field {
            *of_mut(&mut row) = JsonText::new(default).expect("defaults are JSON");
        }
    }
    row
}

fn count_rows(metadata: &ParquetMetaData, limits: &Limits) -> Result<usize, ReadError> {
    let mut n_rows = 0_usize;
    for group in metadata.row_groups() {
        let own = usize::try_from(group.num_rows())
            .map_err(|_| ReadError::unreadable("a row group has a negative number of rows"))?;
        n_rows = n_rows.saturating_add(own);
    }
    if n_rows > limits.rows { Err(over("rows", limits.rows as u64)) } else { Ok(n_rows) }
}

fn over(what: &str, limit: u64) -> ReadError {
    ReadError::Unreadable(format!("it has more than {limit} {what}"))
}

/// Fewest bytes of a plain value.
fn value_bytes(kind: LeafKind) -> u64 {
    match kind {
        LeafKind::Bool => 0,
        LeafKind::Int32 | LeafKind::UInt32 | LeafKind::Float | LeafKind::Text => 4,
        LeafKind::Int64 | LeafKind::UInt64 | LeafKind::Double => 8,
    }
}
