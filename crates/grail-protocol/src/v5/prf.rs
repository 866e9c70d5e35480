//! The pseudo-random function of v5: SHAKE-256 over a label and parts, joined by `||`.

use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

/// Most bytes that one call returns.
pub const PRF_BYTES_MAX: usize = 65_536;

/// More bytes than [`PRF_BYTES_MAX`] were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes asked of the prf; at most {PRF_BYTES_MAX} are defined")]
pub struct TooLong(pub usize);

/// Returns `n_bytes` of `SHAKE256(label || part || part …)`.
///
/// The separator follows the label even when there are no parts, and nothing follows the last part.
/// Parts have no length prefix: parts that contain `||` are ambiguous. Source: `crypto.py`.
///
/// # Errors
/// When more than [`PRF_BYTES_MAX`] bytes are asked for.
pub fn prf(label: &[u8], parts: &[&[u8]], n_bytes: usize) -> Result<Vec<u8>, TooLong> {
    if n_bytes > PRF_BYTES_MAX {
        return Err(TooLong(n_bytes));
    }
    let mut bytes = vec![0; n_bytes];
    read(label, parts, &mut bytes);
    Ok(bytes)
}

/// Returns the 32 bytes that the protocol's own uses need.
pub(super) fn prf32(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = [0; 32];
    read(label, parts, &mut bytes);
    bytes
}

fn read(label: &[u8], parts: &[&[u8]], out: &mut [u8]) {
    let mut shake = Shake256::default();
    shake.update(label);
    shake.update(b"||");
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            shake.update(b"||");
        }
        shake.update(part);
    }
    shake.finalize_xof().read(out);
}
