//! Reads the pages of a column chunk, each header checked before its page is inflated.
//!
//! The Parquet crate has a page reader too. It takes gzip and brotli pages as long as they get, and
//! believes headers that lack their parts; here neither happens.

use bytes::Bytes;
use parquet::basic::{CompressionCodec, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;
use parquet::schema::types::ColumnDescriptor;

use crate::codec::inflate;
use crate::error::ReadError;
use crate::limits::{PAGE_HEADER_BYTES_MAX, PAGES_MAX};
use crate::source::bytes_at;
use crate::thrift::{Cursor, Stop, kind};
use crate::values::{Shape, check_values, count_present, skip_texts, split_levels};

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKind {
    Dictionary,
    Data,
    DataV2 {
        n_nulls: u32,
        n_rows: u32,
        def_bytes: u32,
        rep_bytes: u32,
        is_compressed: bool,
    },
    /// An index, which is passed over.
    Other,
}

/// The parts of a header that matter; all lengths are of the bytes after it.
#[derive(Clone, Copy, Debug)]
struct PageHeader {
    kind: PageKind,
    inflated_bytes: usize,
    packed_bytes: usize,
    n_values: u32,
    encoding: i32,
    level_encodings: [i32; 2],
}

fn unsigned<T: TryFrom<i32>>(value: i32) -> Result<T, Stop> {
    T::try_from(value).map_err(|_| Stop::Invalid)
}

/// The integers and booleans of a structure by field number; all else is skipped.
fn integers<const N: usize>(cursor: &mut Cursor<'_>) -> Result<[Option<i32>; N], Stop> {
    let (mut last, mut fields) = (0, [None; N]);
    while let Some(kind) = cursor.field(&mut last)? {
        let value = match kind {
            kind::I32 => cursor.int()?,
            kind::TRUE | kind::FALSE => i32::from(kind == kind::TRUE),
            _ => {
                cursor.skip(kind)?;
                continue;
            }
        };
        if let Some(field) = usize::try_from(last).ok().and_then(|last| fields.get_mut(last)) {
            *field = Some(value);
        }
    }
    Ok(fields)
}

/// Parses a header and returns its length too.
fn parse_header(bytes: &[u8]) -> Result<(PageHeader, usize), Stop> {
    let mut cursor = Cursor::new(bytes, 64);
    let (mut last, mut own, mut part) = (0, [None; 4], None);
    while let Some(kind) = cursor.field(&mut last)? {
        match (last, kind) {
            (1..=3, kind::I32) => own[usize::try_from(last).expect("1 to 3")] = Some(cursor.int()?),
            (5 | 7 | 8, kind::STRUCT) => part = Some((last, integers::<9>(&mut cursor)?)),
            _ => cursor.skip(kind)?,
        }
    }
    let [_, Some(page_type), Some(inflated), Some(packed)] = own else { return Err(Stop::Invalid) };
    let (part_number, part) = part.unwrap_or_default();
    let at = |field: usize| part[field].ok_or(Stop::Invalid);
    let (kind, n_values, encoding, level_encodings) = match (page_type, part_number) {
        (0, 5) => (PageKind::Data, at(1)?, at(2)?, [at(3)?, at(4)?]),
        (2, 7) => (PageKind::Dictionary, at(1)?, at(2)?, [RUNS; 2]),
        (3, 8) => {
            let kind = PageKind::DataV2 {
                n_nulls: unsigned(at(2)?)?,
                n_rows: unsigned(at(3)?)?,
                def_bytes: unsigned(at(5)?)?,
                rep_bytes: unsigned(at(6)?)?,
                is_compressed: part[7] != Some(0),
            };
            (kind, at(1)?, at(4)?, [RUNS; 2])
        }
        (1, _) => (PageKind::Other, 0, 0, [RUNS; 2]),
        _ => return Err(Stop::Invalid),
    };
    let header = PageHeader {
        kind,
        inflated_bytes: unsigned(inflated)?,
        packed_bytes: unsigned(packed)?,
        n_values: unsigned(n_values)?,
        encoding,
        level_encodings,
    };
    Ok((header, cursor.position()))
}

/// Where a chunk lies and how it is packed.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    at: u64,
    end: u64,
    codec: CompressionCodec,
    n_values: u64,
}

impl Chunk {
    /// Takes a chunk whose place is inside a file of `length` bytes.
    ///
    /// # Errors
    /// When it is elsewhere, negative, or in another file.
    pub fn new(metadata: &ColumnChunkMetaData, length: u64) -> Result<Self, ReadError> {
        let bad = || ReadError::unreadable("a column chunk is not inside the file");
        let data = metadata.data_page_offset();
        // Zero stands for no dictionary in files of some writers.
        let dictionary = metadata.dictionary_page_offset().filter(|&at| at > 0 && at < data);
        let at = u64::try_from(dictionary.unwrap_or(data)).map_err(|_| bad())?;
        let size = u64::try_from(metadata.compressed_size()).map_err(|_| bad())?;
        let n_values = u64::try_from(metadata.num_values()).map_err(|_| bad())?;
        let end = at.checked_add(size).filter(|&end| end <= length).ok_or_else(bad)?;
        if metadata.file_path().is_some() {
            return Err(ReadError::unreadable("a column chunk is in another file"));
        }
        Ok(Self { at, end, codec: metadata.compression_codec(), n_values })
    }
}

/// What reading a chunk will take.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkSurvey {
    /// Values of all pages, nulls too.
    pub n_values: u64,
    /// Largest data page and the dictionary, packed and inflated.
    pub page_bytes: u64,
    /// All pages, inflated.
    pub inflated_bytes: u64,
}

/// The pages of a chunk, from a file in memory or on disk.
pub struct Pages<R> {
    source: R,
    chunk: Chunk,
    shape: Shape,
    /// Values of pages that were read.
    seen: u64,
    has_dictionary: bool,
}

impl<R: ChunkReader> Pages<R> {
    /// Starts at the first page of a chunk of this column.
    pub fn new(source: R, chunk: Chunk, column: &ColumnDescriptor) -> Self {
        // Schemas are shallow, and deeper levels than a byte can hold would fit no page.
        let levels_max = [column.max_rep_level(), column.max_def_level()]
            .map(|level| u8::try_from(level).unwrap_or(u8::MAX));
        let value_bytes = match column.physical_type() {
            Type::INT32 | Type::FLOAT => Some(4_usize),
            Type::INT64 | Type::DOUBLE => Some(8),
            _ => None,
        };
        let is_text = column.physical_type() == Type::BYTE_ARRAY;
        let shape = Shape { levels_max, value_bytes, is_text };
        Self { source, chunk, shape, seen: 0, has_dictionary: false }
    }

    /// Walks the headers of all pages.
    ///
    /// - `value_bytes`: of a value in a dictionary, at least.
    /// - `pages_left`: pages that there may be, from which those of the chunk are taken.
    ///
    /// # Errors
    /// When a header is none, pages overlap the end, or there are too many.
    pub fn survey(
        mut self,
        value_bytes: u64,
        pages_left: &mut usize,
    ) -> Result<ChunkSurvey, ReadError> {
        let (mut survey, mut dictionary, mut largest) = (ChunkSurvey::default(), 0, 0);
        while let Some(header) = self.next_header()? {
            *pages_left = pages_left
                .checked_sub(1)
                .ok_or_else(|| ReadError::unreadable(format!("it has over {PAGES_MAX} pages")))?;
            let inflated = header.inflated_bytes as u64;
            let both = inflated + header.packed_bytes as u64;
            survey.inflated_bytes += inflated;
            if header.kind == PageKind::Dictionary {
                if u64::from(header.n_values) * value_bytes > inflated {
                    return Err(ReadError::unreadable("a dictionary is smaller than its values"));
                }
                // Decoded values of a dictionary take up to four words each beside its page.
                dictionary = both + 32 * u64::from(header.n_values);
            } else {
                largest = both.max(largest);
            }
            self.seen += u64::from(header.n_values_of_data());
            self.chunk.at += header.packed_bytes as u64;
        }
        survey.n_values = self.seen;
        survey.page_bytes = dictionary + largest;
        Ok(survey)
    }

    /// Reads the next header and goes behind it; `None` behind the last page.
    fn next_header(&mut self) -> Result<Option<PageHeader>, ReadError> {
        // Arrow stops at the number of values that the chunk states.
        if self.seen >= self.chunk.n_values || self.chunk.at >= self.chunk.end {
            return Ok(None);
        }
        let left = self.chunk.end - self.chunk.at;
        let mut length = left.min(256);
        loop {
            let bytes = bytes_at(&self.source, self.chunk.at, length)?;
            match parse_header(&bytes) {
                Ok((header, header_bytes)) => {
                    self.chunk.at += header_bytes as u64;
                    self.check(&header)?;
                    return Ok(Some(header));
                }
                Err(Stop::End) if length < left && length < PAGE_HEADER_BYTES_MAX as u64 => {
                    length = left.min(length * 16);
                }
                Err(_) => return Err(ReadError::unreadable("a page header makes no sense")),
            }
        }
    }

    fn check(&mut self, header: &PageHeader) -> Result<(), ReadError> {
        let is_dictionary = header.kind == PageKind::Dictionary;
        let fault = if header.packed_bytes as u64 > self.chunk.end - self.chunk.at {
            "a page is longer than its column chunk"
        } else if is_dictionary && (self.has_dictionary || self.seen > 0) {
            "a dictionary is not the first page"
        } else if is_dictionary && !matches!(header.encoding, 0 | 2) {
            "a dictionary is not plain"
        } else if header.is_data() && matches!(header.encoding, 2 | 8) && !self.has_dictionary {
            "a page lacks its dictionary"
        } else {
            self.has_dictionary |= is_dictionary;
            return Ok(());
        };
        Err(ReadError::unreadable(fault))
    }

    fn next_page(&mut self) -> Result<Option<Page>, ReadError> {
        loop {
            let Some(header) = self.next_header()? else { return Ok(None) };
            let packed = bytes_at(&self.source, self.chunk.at, header.packed_bytes as u64)?;
            self.chunk.at += header.packed_bytes as u64;
            self.seen += u64::from(header.n_values_of_data());
            if header.kind != PageKind::Other {
                let page = header.page(self.chunk.codec, packed, self.shape);
                return page
                    .map(Some)
                    .ok_or_else(|| ReadError::unreadable("a page does not inflate"));
            }
        }
    }
}

impl PageHeader {
    fn is_data(&self) -> bool {
        matches!(self.kind, PageKind::Data | PageKind::DataV2 { .. })
    }

    /// Returns the definition levels and the values of a page. Levels of version 1 are in runs, with
    /// their length in front; levels in another form are those of very old writers.
    fn parts<'a>(&self, page: &'a [u8], shape: Shape) -> Option<(&'a [u8], &'a [u8])> {
        if let PageKind::DataV2 { def_bytes, rep_bytes, .. } = self.kind {
            let (_, rest) = page.split_at_checked(usize::try_from(rep_bytes).ok()?)?;
            return rest.split_at_checked(usize::try_from(def_bytes).ok()?);
        }
        let [of_definition, of_repetition] = self.level_encodings;
        let mut defs: &[u8] = &[];
        let mut values = page;
        for (level_max, encoding) in
            shape.levels_max.into_iter().zip([of_repetition, of_definition])
        {
            if level_max > 0 {
                (defs, values) = (encoding == RUNS).then(|| split_levels(values))??;
            }
        }
        Some((defs, values))
    }

    fn n_values_of_data(&self) -> u32 {
        if self.is_data() { self.n_values } else { 0 }
    }

    /// Inflates a page. `None` where header and bytes disagree.
    fn page(&self, codec: CompressionCodec, packed: Bytes, shape: Shape) -> Option<Page> {
        // Levels of a version-2 page are in front and not packed.
        let (level_bytes, is_packed) = match self.kind {
            PageKind::DataV2 { def_bytes, rep_bytes, is_compressed, .. } => {
                (usize::try_from(u64::from(def_bytes) + u64::from(rep_bytes)).ok()?, is_compressed)
            }
            _ => (0, true),
        };
        let levels = packed.get(..level_bytes)?;
        let length = self.inflated_bytes.checked_sub(level_bytes)?;
        let is_packed = is_packed && codec != CompressionCodec::UNCOMPRESSED;
        let buf = if is_packed && length > 0 {
            let mut buf = Vec::with_capacity(self.inflated_bytes);
            buf.extend_from_slice(levels);
            inflate(codec, &packed[level_bytes..], length, &mut buf)?;
            Bytes::from(buf)
        } else if is_packed {
            packed.slice(..level_bytes)
        } else {
            (packed.len() == self.inflated_bytes).then_some(packed)?
        };
        let encoding = encoding(self.encoding)?;
        match self.kind {
            PageKind::Dictionary if shape.is_text => skip_texts(&buf, self.n_values)?,
            PageKind::Dictionary | PageKind::Other => {}
            PageKind::Data | PageKind::DataV2 { .. } => {
                let (defs, values) = self.parts(&buf, shape)?;
                let n_present = count_present(defs, shape.levels_max[1], self.n_values)?;
                check_values(values, n_present, encoding, shape)?;
            }
        }
        Some(match self.kind {
            PageKind::Dictionary => {
                Page::DictionaryPage { buf, num_values: self.n_values, encoding, is_sorted: false }
            }
            PageKind::DataV2 { n_nulls, n_rows, def_bytes, rep_bytes, .. } => Page::DataPageV2 {
                buf,
                num_values: self.n_values,
                encoding,
                num_nulls: n_nulls,
                num_rows: n_rows,
                def_levels_byte_len: def_bytes,
                rep_levels_byte_len: rep_bytes,
                is_compressed: is_packed,
                statistics: None,
            },
            PageKind::Data | PageKind::Other => Page::DataPage {
                buf,
                num_values: self.n_values,
                encoding,
                def_level_encoding: level_encoding(self.level_encodings[0])?,
                rep_level_encoding: level_encoding(self.level_encodings[1])?,
                statistics: None,
            },
        })
    }
}

/// Number of the encoding of levels in runs.
const RUNS: i32 = 3;

/// Returns the encoding. `DELTA_BYTE_ARRAY` is none of them: a few bytes of it make any number of long
/// texts, and no writer of rollouts uses it.
fn encoding(number: i32) -> Option<Encoding> {
    Some(match number {
        0 => Encoding::PLAIN,
        2 => Encoding::PLAIN_DICTIONARY,
        3 => Encoding::RLE,
        5 => Encoding::DELTA_BINARY_PACKED,
        6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        8 => Encoding::RLE_DICTIONARY,
        9 => Encoding::BYTE_STREAM_SPLIT,
        _ => return None,
    })
}

fn level_encoding(number: i32) -> Option<Encoding> {
    #[expect(deprecated, reason = "old writers pack levels without runs")]
    match number {
        3 => Some(Encoding::RLE),
        4 => Some(Encoding::BIT_PACKED),
        _ => None,
    }
}

fn foreign(error: ReadError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl<R: ChunkReader> Iterator for Pages<R> {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<R: ChunkReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        self.next_page().map_err(foreign)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        let (at, has_dictionary) = (self.chunk.at, self.has_dictionary);
        let header = self.next_header().map_err(foreign)?;
        (self.chunk.at, self.has_dictionary) = (at, has_dictionary);
        Ok(header.map(|header| PageMetadata {
            num_rows: match header.kind {
                PageKind::DataV2 { n_rows, .. } => usize::try_from(n_rows).ok(),
                _ => None,
            },
            num_levels: header.is_data().then_some(header.n_values as usize),
            is_dict: header.kind == PageKind::Dictionary,
        }))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        if let Some(header) = self.next_header().map_err(foreign)? {
            self.chunk.at += header.packed_bytes as u64;
            self.seen += u64::from(header.n_values_of_data());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_lack_no_part() {
        // Type 0, sizes 1 and 1, and a data page header of 1 value, plain, levels in runs.
        let header = [
            0x15, 0x00, 0x15, 0x02, 0x15, 0x02, 0x2c, 0x15, 0x02, 0x15, 0x00, 0x15, 0x06, 0x15,
            0x06, 0x00, 0x00,
        ];
        let (parsed, length) = parse_header(&header).unwrap();
        assert_eq!((length, parsed.kind, parsed.n_values), (header.len(), PageKind::Data, 1));
        for cut in 0..header.len() {
            assert_eq!(parse_header(&header[..cut]).unwrap_err(), Stop::End, "{cut}");
        }
        // Without the header of its own kind.
        assert_eq!(parse_header(&[0x15, 0, 0x15, 2, 0x15, 2, 0]).unwrap_err(), Stop::Invalid);
        // A negative size.
        let mut negative = header;
        negative[3] = 0x01;
        assert_eq!(parse_header(&negative).unwrap_err(), Stop::Invalid);
    }
}
