//! Finds a file's footer and shows that it is small and shallow before it is parsed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use grail_protocol::v5::file::Footer;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;

use crate::error::ReadError;
use crate::limits::{FOOTER_BYTES_MAX, FOOTER_ELEMENTS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_ELEMENTS_MAX};
use crate::source::bytes_at;
use crate::thrift::{Cursor, Stop, kind};

/// Fewest bytes of a Parquet file: magic, length of the footer, magic.
const FILE_BYTES_MIN: u64 = 12;

/// Length of the footer and magic.
const TAIL_BYTES: u64 = 8;

/// Reads the metadata of a file.
///
/// # Errors
/// [`ReadError::Corrupt`] where Arrow calls the file corrupt: too short, no magic at the end, a footer
/// longer than the file. [`ReadError::Unreadable`] where the footer makes no sense.
pub fn read_metadata<R: ChunkReader>(source: &R) -> Result<ParquetMetaData, ReadError> {
    let length = source.len();
    if length < FILE_BYTES_MIN {
        return Err(ReadError::Corrupt(format!("it has {length} bytes")));
    }
    let tail = bytes_at(source, length - TAIL_BYTES, TAIL_BYTES)?;
    let (footer_length, magic) = tail.split_at(4);
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(ReadError::unreadable("its footer is encrypted")),
        _ => return Err(ReadError::Corrupt("it does not end as Parquet does".into())),
    }
    let footer_length = u64::from(u32::from_le_bytes(
        footer_length.try_into().expect("the first of two parts of 4 bytes"),
    ));
    if footer_length > length - TAIL_BYTES {
        return Err(ReadError::Corrupt(format!(
            "it has no room for {footer_length} bytes of footer"
        )));
    }
    if footer_length > FOOTER_BYTES_MAX {
        return Err(ReadError::unreadable(format!("its footer has {footer_length} bytes")));
    }
    let footer = bytes_at(source, length - TAIL_BYTES - footer_length, footer_length)?;
    survey(&footer).map_err(|_| ReadError::unreadable("its footer is no Thrift of modest size"))?;
    // The survey bounds what the parser allocates and how deep it calls itself. That the parser never
    // panics on what passed, its authors do not promise.
    catch_unwind(AssertUnwindSafe(|| ParquetMetaDataReader::decode_metadata(&footer)))
        .map_err(|_| ReadError::unreadable("its footer upsets the parser"))?
        .map_err(ReadError::from)
}

/// Walks a `FileMetaData`.
fn survey(footer: &[u8]) -> Result<(), Stop> {
    let mut cursor = Cursor::new(footer, FOOTER_ELEMENTS_MAX);
    let mut last = 0;
    while let Some(kind) = cursor.field(&mut last)? {
        if last == 2 && kind == kind::LIST {
            survey_schema(&mut cursor)?;
        } else {
            cursor.skip(kind)?;
        }
    }
    Ok(())
}

/// Walks the schema, a tree in depth-first order, and refuses what nests deeply.
fn survey_schema(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let (kind, length) = cursor.list()?;
    if kind != kind::STRUCT || length > SCHEMA_ELEMENTS_MAX {
        return Err(Stop::Invalid);
    }
    // Children that are still to come, per open group.
    let mut open: Vec<i32> = Vec::new();
    for _ in 0..length {
        let n_children = schema_element(cursor)?;
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if n_children < 0 || open.len() == SCHEMA_DEPTH_MAX {
            return Err(Stop::Invalid);
        }
        if n_children > 0 {
            open.push(n_children);
        }
    }
    Ok(())
}

/// Reads the number of an element's children.
fn schema_element(cursor: &mut Cursor<'_>) -> Result<i32, Stop> {
    let (mut last, mut n_children) = (0, 0);
    while let Some(kind) = cursor.field(&mut last)? {
        if last == 5 && kind == kind::I32 {
            n_children = cursor.int()?;
        } else {
            cursor.skip(kind)?;
        }
    }
    Ok(n_children)
}

/// Returns what the file says about itself.
///
/// # Errors
/// When a number is none.
pub fn footer_of(metadata: &ParquetMetaData) -> Result<Footer, ReadError> {
    let entries = metadata.file_metadata().key_value_metadata();
    // Of equal keys Arrow's readers take the first.
    let find = |key: &str| {
        let entry = entries?.iter().find(|entry| entry.key == key)?;
        Some(entry.value.as_deref().unwrap_or_default())
    };
    Ok(Footer::from_texts(find)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer with a schema in which each element but the last has one child.
    fn chain(length: usize) -> Vec<u8> {
        let mut footer = vec![0x29, 0xfc];
        let mut rest = length;
        while rest >= 0x80 {
            footer.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        footer.push(rest as u8);
        for _ in 0..length {
            footer.extend([0x55, 0x02, 0x00]);
        }
        footer.push(0);
        footer
    }

    #[test]
    fn deep_and_wide_schemas_are_refused_before_they_are_parsed() {
        assert_eq!(survey(&chain(SCHEMA_DEPTH_MAX)), Ok(()));
        assert_eq!(survey(&chain(SCHEMA_DEPTH_MAX + 1)), Err(Stop::Invalid));
        assert_eq!(survey(&chain(1000)), Err(Stop::Invalid));
        assert_eq!(survey(&chain(SCHEMA_ELEMENTS_MAX + 1)), Err(Stop::Invalid));
    }
}
