//! Inflates a `.parquet.gz` object, up to a bound.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

use crate::error::ReadError;

/// Returns the file in a gzip object. The reference inflates without a bound; honest miners write no
/// such object.
///
/// # Errors
/// [`ReadError::Unreadable`] when it is no gzip, or has more than `bytes_max`.
pub fn gunzip(object: &[u8], bytes_max: u64) -> Result<Vec<u8>, ReadError> {
    let mut file = Vec::new();
    MultiGzDecoder::new(object)
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut file)
        .map_err(|error| ReadError::Unreadable(format!("it is no gzip: {error}")))?;
    if file.len() as u64 > bytes_max {
        return Err(ReadError::Unreadable(format!("it inflates to more than {bytes_max} bytes")));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn inflation_stops_at_the_bound() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let object = gzip.finish().unwrap();
        assert_eq!(gunzip(&object, 1 << 20).unwrap().len(), 1 << 20);
        assert!(gunzip(&object, (1 << 20) - 1).is_err());
        assert!(gunzip(&object[..object.len() - 9], 1 << 20).is_err());
        assert!(gunzip(b"PAR1", 1 << 20).is_err());
    }
}
