//! The zstd frame around a delta: one, with its content's size in front.

use zstd::zstd_safe;

use super::DeltaError;

/// The reference's level.
const LEVEL: i32 = 1;

/// A block of zstd has at least 4 bytes and holds at most 128 KiB, so a frame that claims to hold
/// more than this many bytes for each of its own lies.
const EXPANSION_MAX: u64 = (128 << 10) / 4;

/// Returns the frame of `payload`.
///
/// # Errors
/// [`DeltaError::BadFrame`] when the compressor fails, for want of memory.
pub fn compress(payload: &[u8]) -> Result<Vec<u8>, DeltaError> {
    zstd::bulk::compress(payload, LEVEL).map_err(|error| DeltaError::BadFrame(error.to_string()))
}

/// Returns the payload in the first frame of `bytes`, at most `payload_bytes_max`; what follows the
/// frame is ignored. Empty input holds an empty payload.
///
/// Takes no more memory than the frame claims, and looks at the claim first.
///
/// # Errors
/// [`DeltaError::TooLarge`] and [`DeltaError::BadFrame`].
pub fn decompress(bytes: &[u8], payload_bytes_max: u64) -> Result<Vec<u8>, DeltaError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let bad = |reason: &str| DeltaError::BadFrame(reason.to_owned());
    let claimed = match zstd_safe::get_frame_content_size(bytes) {
        Ok(Some(claimed)) => claimed,
        Ok(None) => return Err(bad("it does not say the size of its content")),
        Err(_) => return Err(bad("it has no frame header")),
    };
    let frame = zstd_safe::find_frame_compressed_size(bytes)
        .ok()
        .and_then(|length| bytes.get(..length))
        .ok_or_else(|| bad("it is cut short or damaged"))?;
    let max = payload_bytes_max.min(EXPANSION_MAX.saturating_mul(frame.len() as u64));
    if claimed > max {
        return Err(DeltaError::TooLarge { what: "payload", found: claimed, max });
    }
    let capacity = usize::try_from(claimed).map_err(|error| bad(&error.to_string()))?;
    let mut payload = Vec::new();
    payload.try_reserve_exact(capacity).map_err(|error| bad(&error.to_string()))?;
    zstd::bulk::Decompressor::new()
        .and_then(|mut reader| reader.decompress_to_buffer(frame, &mut payload))
        .map_err(|error| bad(&error.to_string()))?;
    match payload.len() as u64 {
        found if found == claimed => Ok(payload),
        found => Err(bad(&format!("it holds {found} bytes and claims {claimed}"))),
    }
}
