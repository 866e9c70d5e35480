//! Inflates pages to the size that their headers state, and never a byte further.

use std::io::Read;

use parquet::basic::CompressionCodec;

/// Inflates `input` onto `output`, which must grow by exactly `length` bytes. `None` where it does
/// not, or where the codec is not one that Parquet files use.
pub fn inflate(
    codec: CompressionCodec,
    input: &[u8],
    length: usize,
    output: &mut Vec<u8>,
) -> Option<()> {
    let start = output.len();
    match codec {
        CompressionCodec::UNCOMPRESSED => output.extend_from_slice(input),
        CompressionCodec::ZSTD => {
            // Frames may follow each other, which a single call inflates too.
            let page = zstd::bulk::decompress(input, length).ok()?;
            output.extend_from_slice(&page);
        }
        CompressionCodec::SNAPPY => {
            if snap::raw::decompress_len(input).ok()? != length {
                return None;
            }
            output.resize(start + length, 0);
            snap::raw::Decoder::new().decompress(input, &mut output[start..]).ok()?;
        }
        CompressionCodec::GZIP => {
            read_bounded(flate2::read::MultiGzDecoder::new(input), length, output)?;
        }
        CompressionCodec::BROTLI => {
            read_bounded(brotli::Decompressor::new(input, 4096), length, output)?;
        }
        CompressionCodec::LZ4_RAW => {
            output.resize(start + length, 0);
            let n = lz4_flex::block::decompress_into(input, &mut output[start..]).ok()?;
            output.truncate(start + n);
        }
        _ => return None,
    }
    (output.len() - start == length).then_some(())
}

/// Reads one byte more than there may be at most, so that what is too long shows.
fn read_bounded(inflater: impl Read, length: usize, output: &mut Vec<u8>) -> Option<()> {
    let most = u64::try_from(length).ok()?.saturating_add(1);
    inflater.take(most).read_to_end(output).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed() -> Vec<(CompressionCodec, Vec<u8>)> {
        let page = [7; 10_000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&page).unwrap();
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 20);
        brotli.write_all(&page).unwrap();
        vec![
            (CompressionCodec::UNCOMPRESSED, page.to_vec()),
            (CompressionCodec::ZSTD, zstd::bulk::compress(&page, 1).unwrap()),
            (CompressionCodec::SNAPPY, snap::raw::Encoder::new().compress_vec(&page).unwrap()),
            (CompressionCodec::GZIP, gzip.finish().unwrap()),
            (CompressionCodec::BROTLI, brotli.into_inner()),
            (CompressionCodec::LZ4_RAW, lz4_flex::block::compress(&page)),
        ]
    }

    #[test]
    fn pages_of_the_stated_size_inflate_and_others_do_not() {
        for (codec, packed) in packed() {
            let mut page = vec![1];
            assert_eq!(inflate(codec, &packed, 10_000, &mut page), Some(()), "{codec:?}");
            assert_eq!((page.len(), page[0], page[10_000]), (10_001, 1, 7));
            for length in [0, 9_999, 10_001] {
                let mut page = Vec::new();
                assert_eq!(inflate(codec, &packed, length, &mut page), None, "{codec:?} {length}");
                assert!(page.len() <= length.max(packed.len()) + 1, "{codec:?} {}", page.len());
            }
            let cut = inflate(codec, &packed[..packed.len() / 2], 10_000, &mut Vec::new());
            assert_eq!(cut, None, "{codec:?}");
        }
    }
}
