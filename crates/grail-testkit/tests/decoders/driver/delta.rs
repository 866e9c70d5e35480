//! Deltas of checkpoints: frames, and payloads that need no valid frame around them.

use grail_protocol::checkpoint::delta::frame::{compress, decompress};
use grail_protocol::checkpoint::delta::native::{
    DeltaWriter, blocks, decode_block, encode_block, read_blocks,
};
use grail_protocol::checkpoint::delta::payload::{decode, encode};
use grail_protocol::checkpoint::delta::{Format, SparseTensor};
use grail_protocol::checkpoint::tensors::TensorIndex;

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

/// The input is the header of a safetensors file, behind its length in 2 bytes, then a delta for
/// it without its first 40 bytes, which say that it is one and for which header.
pub fn drive_native(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first_chunk() else { return false };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (header, coded) = rest.split_at(length);
    let Some(data_bytes) = end_of(header).filter(|bytes| *bytes <= TENSOR_BYTES_MAX) else {
        return false;
    };
    let Ok(index) = TensorIndex::parse(header, data_bytes) else { return false };
    let described =
        index.tensors.iter().map(|it| (it.name.clone(), it.dtype.clone(), it.shape.clone()));
    let laid_out = TensorIndex::lay_out(described).expect("it was read");
    let written = laid_out.to_header();
    assert_eq!(TensorIndex::parse(&written[8..], data_bytes), Ok(laid_out));

    let plan = blocks(&index);
    let delta = [&DeltaWriter::new(header).finish(), coded].concat();
    let Ok(coded) = read_blocks(&delta, header, plan.len()) else { return false };
    let base: Vec<u8> = (0..data_bytes).map(|place| (place * 37 % 251) as u8).collect();
    let mut out = vec![0; base.len()];
    let (mut writer, mut at) = (DeltaWriter::new(header), 0);
    for (block, coded) in plan.iter().zip(coded) {
        let range = at..at + block.bytes();
        at = range.end;
        if decode_block(block, &base[range.clone()], coded, &mut out[range.clone()]).is_err() {
            return false;
        }
        writer.push(&encode_block(block, &base[range.clone()], &out[range]));
    }
    // What came out is coded again, perhaps shorter, and comes out again.
    let written = writer.finish();
    let mut again = vec![0; base.len()];
    let mut at = 0;
    for (block, coded) in plan.iter().zip(read_blocks(&written, header, plan.len()).expect("ours"))
    {
        let range = at..at + block.bytes();
        at = range.end;
        decode_block(block, &base[range.clone()], coded, &mut again[range]).expect("ours is read");
    }
    assert_eq!(again, out);
    true
}

/// Returns where the last tensor of a header ends, by what it claims.
fn end_of(header: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(header).ok()?;
    let ends =
        value.as_object()?.values().filter_map(|it| it.get("data_offsets")?.get(1)?.as_u64());
    ends.max()
}
