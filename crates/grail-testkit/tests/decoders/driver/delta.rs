//! Deltas of checkpoints: frames, and payloads that need no valid frame around them.

use grail_protocol::checkpoint::delta::frame::{compress, decompress};
use grail_protocol::checkpoint::delta::payload::{decode, encode};
use grail_protocol::checkpoint::delta::{Format, SparseTensor};

/// Most bytes that a frame may hold here.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// Most bytes of a tensor that changes are applied to.
const TENSOR_BYTES_MAX: u64 = 16 << 10;

/// The first byte chooses the version, and whether a frame or a payload follows.
pub fn drive(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else { return false };
    let kind = usize::from(*kind);
    let format = Format::ALL[kind % 3];
    if kind / 3 % 2 == 0 {
        return payload(bytes, format);
    }
    let Ok(inside) = decompress(bytes, PAYLOAD_BYTES_MAX) else { return false };
    assert!(inside.len() as u64 <= PAYLOAD_BYTES_MAX);
    let frame = compress(&inside).expect("memory is enough");
    assert_eq!(decompress(&frame, PAYLOAD_BYTES_MAX).as_ref(), Ok(&inside));
    payload(&inside, format)
}

fn payload(bytes: &[u8], format: Format) -> bool {
    let Ok(tensors) = decode(bytes, format) else { return false };
    let held: usize = tensors.iter().map(|t| t.positions.len() + t.values.len()).sum();
    assert!(held <= bytes.len(), "a delta has more changes than bytes");
    tensors.iter().for_each(apply);
    // Cut values, unsorted places and places beyond 4 bytes are read, but never written.
    let Ok(written) = encode(&tensors, format) else { return true };
    let again = decode(&written, format).expect("our own payload is read");
    assert_eq!(encode(&again, format).as_ref(), Ok(&written), "a payload has a second encoding");
    let is_plain = tensors.is_sorted_by(|a, b| a.name < b.name)
        && tensors.iter().all(|t| t.positions.is_sorted() && !t.positions.is_empty());
    assert!(!is_plain || again == tensors, "changes are not what was written");
    true
}

/// Applies the changes to zeros, and finds them again.
fn apply(changes: &SparseTensor) {
    let size = changes.value_type.size();
    let n = changes.shape.iter().try_fold(size as u64, |bytes, n| bytes.checked_mul(*n));
    let Some(n) = n.filter(|n| *n <= TENSOR_BYTES_MAX) else { return };
    let zeros = vec![0; usize::try_from(n).expect("a small number")];
    let mut bytes = zeros.clone();
    if changes.apply(&mut bytes).is_err() {
        assert_eq!(bytes, zeros, "changes that do not fit were applied in part");
        return;
    }
    let SparseTensor { name, shape, value_type, .. } = changes;
    let found = SparseTensor::between(name, shape, *value_type, &zeros, &bytes);
    let mut rebuilt = zeros;
    found.apply(&mut rebuilt).expect("changes that were found fit");
    assert_eq!(rebuilt, bytes);
}
