//! Deltas of checkpoints: the reference's files byte for byte, and hostile ones at no cost.

use std::collections::BTreeMap;

use grail_protocol::checkpoint::WeightsHash;
use grail_protocol::checkpoint::delta::frame::{compress, decompress};
use grail_protocol::checkpoint::delta::payload::{decode, encode};
use grail_protocol::checkpoint::delta::{DeltaError, Format, IndexType, SparseTensor, ValueType};
use grail_protocol::ids::Digest;
use grail_testkit::vectors::{every_case, every_entry};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

/// More than any vector holds.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// An array of the vectors.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Array {
    dtype: String,
    shape: Vec<u64>,
    le_hex: String,
}

/// Arrays by name: tensors, or `{tensor}.indices` and `{tensor}.values`.
type Arrays = BTreeMap<String, Array>;
type Shapes = BTreeMap<String, Vec<u64>>;

impl Array {
    fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.le_hex).expect("vectors are hexadecimal")
    }

    fn words<const N: usize>(&self) -> Vec<[u8; N]> {
        self.bytes().chunks_exact(N).map(|word| word.try_into().expect("N bytes")).collect()
    }

    /// The values as a delta stores them: 16-bit floats as they are, everything else as f32.
    fn values(&self) -> (ValueType, Vec<u8>) {
        let known = ValueType::ALL.into_iter().find(|known| known.name() == self.dtype);
        if let Some(value_type) = known {
            return (value_type, self.bytes());
        }
        let floats: Vec<f32> = match self.dtype.as_str() {
            "float64" => {
                self.words().into_iter().map(|word| f64::from_le_bytes(word) as f32).collect()
            }
            "int32" => {
                self.words().into_iter().map(|word| i32::from_le_bytes(word) as f32).collect()
            }
            other => panic!("the vectors hold {other}, which this test does not know"),
        };
        (ValueType::F32, floats.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// Flat places: rows and columns, or flat already.
    fn positions(&self, shape: &[u64]) -> Vec<u64> {
        let words = self.words().into_iter().map(i32::from_le_bytes);
        let places: Vec<u64> =
            words.map(|word| u64::try_from(word).expect("not negative")).collect();
        if self.shape.len() == 1 || self.shape[0] == 1 {
            return places;
        }
        let width: u64 = shape.iter().skip(1).product();
        let (rows, columns) = places.split_at(places.len() / 2);
        rows.iter().zip(columns).map(|(row, column)| row * width + column).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "the rules read no file; their tests read vectors")]
fn vector(name: &str) -> Vec<u8> {
    let path = grail_testkit::vectors::path("sparse_codec", name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn format_of(case: &Value) -> Format {
    let name = case["format"].as_str().expect("a name");
    Format::ALL.into_iter().find(|format| format.name() == name).expect("a known format")
}

/// Pairs `{name}.indices` with `{name}.values`; a name with only one of them is left out.
fn tensors(arrays: &Arrays, shapes: &Shapes) -> Vec<SparseTensor> {
    let pairs = arrays.iter().filter_map(|(key, indices)| {
        let name = key.strip_suffix(".indices")?;
        let (value_type, values) = arrays.get(&format!("{name}.values"))?.values();
        let shape = shapes.get(name).unwrap_or_else(|| panic!("{name} has no shape")).clone();
        let positions = indices.positions(&shape);
        Some(SparseTensor { name: name.to_owned(), shape, value_type, positions, values })
    });
    pairs.collect()
}

fn by_name(mut tensors: Vec<SparseTensor>) -> Vec<SparseTensor> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

#[test]
fn files_of_the_reference_are_written_and_read() {
    let mut refused = 0;
    every_case("sparse_codec", "codec.json", |case| {
        let format = format_of(case);
        let what = format!("{} in {}", case["name"], format.name());
        if case.get("error_type").is_some_and(|error| !error.is_null()) {
            let input = tensors(&parsed(&case["input"]), &parsed(&case["shapes"]));
            assert!(encode(&input, format).is_err(), "{what}");
            refused += 1;
            return;
        }
        let file = vector(case["file"].as_str().expect("a name"));
        let payload = decompress(&file, PAYLOAD_BYTES_MAX).expect(&what);
        assert_eq!(Digest::of(&payload).to_hex(), case["payload_sha256"], "{what}");
        let ours = compress(&payload).expect("memory is enough");
        assert_eq!(decompress(&ours, PAYLOAD_BYTES_MAX).as_ref(), Ok(&payload), "{what}");

        let decoded = decode(&payload, format).expect(&what);
        if case["input"].is_null() {
            // A large case, whose arrays are in the file and whose digests are in the vector.
            check_digests(&decoded, format, &case["decoded"]);
            assert_eq!(encode(&decoded, format).as_ref(), Ok(&payload), "{what}");
            return;
        }
        let input = tensors(&parsed(&case["input"]), &parsed(&case["shapes"]));
        assert_eq!(encode(&input, format).as_ref(), Ok(&payload), "{what}");
        let want = tensors(&parsed(&case["decoded"]), &parsed(&case["decoded_shapes"]));
        assert_eq!(by_name(decoded), by_name(want), "{what}");
    });
    println!("vectors: sparse_codec/codec.json: {refused} cases are refused");
}

/// Compares digests of the arrays as the reference holds them: flat places in v2, else rows, then
/// columns.
fn check_digests(tensors: &[SparseTensor], format: Format, want: &Value) {
    assert_eq!(want.as_object().map(serde_json::Map::len), Some(2 * tensors.len()));
    for tensor in tensors {
        let width: u64 = tensor.shape.iter().skip(1).product();
        let places = tensor.positions.iter();
        let words: Vec<u64> = match format {
            Format::V2 => places.copied().collect(),
            Format::V3 | Format::V31 => {
                places.clone().map(|at| at / width).chain(places.map(|at| at % width)).collect()
            }
        };
        let words =
            words.iter().flat_map(|word| u32::try_from(*word).expect("small").to_le_bytes());
        let indices: Vec<u8> = words.collect();
        let digest = |part: &str| &want[format!("{}.{part}", tensor.name)]["sha256"];
        assert_eq!(Digest::of(&indices).to_hex(), *digest("indices"), "{}", tensor.name);
        assert_eq!(Digest::of(&tensor.values).to_hex(), *digest("values"), "{}", tensor.name);
    }
}

#[test]
fn odd_files_are_read_or_refused_as_in_the_reference() {
    let (mut read, mut refused) = (0, 0);
    every_entry("sparse_codec", "codec.json", "decode_cases", 15, |case| {
        let file = vector(case["file"].as_str().expect("a name"));
        let decoded =
            decompress(&file, PAYLOAD_BYTES_MAX).and_then(|payload| decode(&payload, Format::V31));
        if case["ok"] == true {
            let decoded = decoded.unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
            let shapes = decoded.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
            let want = tensors(&parsed(&case["decoded"]), &shapes);
            assert_eq!(by_name(decoded), by_name(want), "{}", case["name"]);
            read += 1;
        } else {
            assert!(decoded.is_err(), "{}", case["name"]);
            refused += 1;
        }
    });
    println!("vectors: sparse_codec/codec.json: {read} odd files are read, {refused} refused");
}

#[test]
fn differences_take_the_reference_s_types() {
    every_case("sparse_codec", "index_dtype.json", |case| {
        let differences: Vec<i64> = parsed(&case["deltas"]);
        let with_u8 = case["prefer_uint8"].as_bool().expect("a flag");
        let found = IndexType::smallest(&differences, with_u8);
        assert_eq!(found.name(), case["dtype"].as_str().expect("a name"), "{case}");
    });
}

/// Where we differ from the reference: it compares values, so it misses a zero that turns negative
/// and repeats a NaN; and its threshold drops changes that its own hash then misses.
#[test]
fn changes_are_found_and_applied() {
    let mut equal = 0;
    every_case("sparse_codec", "delta_compute_apply.json", |case| {
        let name = case["name"].as_str().expect("a name");
        let (base, current): (Arrays, Arrays) = (parsed(&case["base"]), parsed(&case["current"]));
        let known = current.iter().filter(|(name, _)| base.contains_key(*name));
        let changes: Vec<SparseTensor> = known
            .map(|(name, new)| {
                let (value_type, _) = new.values();
                let (old, new_bytes) = (base[name].bytes(), new.bytes());
                SparseTensor::between(name, &new.shape, value_type, &old, &new_bytes)
            })
            .collect();
        for change in &changes {
            let mut bytes = base[&change.name].bytes();
            change.apply(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(bytes, current[&change.name].bytes(), "{name}: {}", change.name);
        }
        let known_changes = changes.clone();
        let changed: Vec<_> = changes.into_iter().filter(|c| !c.positions.is_empty()).collect();
        let theirs = tensors(&parsed(&case["sparse"]), &parsed(&case["shapes"]));
        let differs = ["minus zero", "NaN stays NaN", "threshold"].iter().any(|d| name.contains(d));
        assert_eq!(by_name(changed) != by_name(theirs.clone()), differs, "{name}");
        equal += usize::from(!differs);
        // What the reference hashes, ours leads to, also where its own delta does not.
        let hash = |arrays: &Arrays| {
            let tensors: Vec<_> =
                arrays.iter().map(|(name, array)| (name.as_str(), array.bytes())).collect();
            WeightsHash::of(tensors.iter().map(|(name, bytes)| (*name, &bytes[..]))).to_string()
        };
        assert_eq!(
            (hash(&base), hash(&current)),
            (parsed(&case["hash_base"]), parsed(&case["hash_current"])),
            "{name}"
        );
        if base.keys().eq(current.keys()) {
            let mut ours = base.clone();
            for change in &known_changes {
                let array = ours.get_mut(&change.name).expect("it is in the base");
                let mut bytes = array.bytes();
                change.apply(&mut bytes).expect("it was applied before");
                array.le_hex = hex::encode(bytes);
            }
            assert_eq!(hash(&ours), case["hash_current"], "{name}");
        }
        // A delta of the reference, applied by the reference's rules, gives its result.
        if !name.contains("mixed") {
            let mut theirs_applied = base.clone();
            for change in &theirs {
                let Some(array) = theirs_applied.get_mut(&change.name) else { continue };
                let mut bytes = array.bytes();
                change.apply(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
                array.le_hex = hex::encode(bytes);
            }
            assert_eq!(hash(&theirs_applied), case["hash_reconstructed"], "{name}");
            let matches = case["hash_reconstructed"] == case["hash_current"];
            assert_eq!(case["hash_matches"], matches, "{name}");
        }
    });
    println!("vectors: sparse_codec/delta_compute_apply.json: {equal} equal to the reference's");
}

#[test]
fn weights_are_hashed_as_in_the_reference() {
    let mut refused = 0;
    every_case("sparse_codec", "weights_hash.json", |case| {
        if case.get("hash").is_none() {
            // PyTorch cannot view a tensor without dimensions as bytes. A hash of bytes can take
            // one, and no delta can name it.
            assert!(tensor(&[], &[]).apply(&mut [0; 2]).is_err(), "{case}");
            refused += 1;
            return;
        }
        let arrays: Arrays = parsed(&case["tensors"]);
        let tensors: Vec<_> =
            arrays.iter().map(|(name, array)| (name.as_str(), array.bytes())).collect();
        let hash = WeightsHash::of(tensors.iter().map(|(name, bytes)| (*name, &bytes[..])));
        assert_eq!(hash.to_string(), parsed::<String>(&case["hash"]), "{case}");
    });
    println!("vectors: sparse_codec/weights_hash.json: {refused} cases have no hash");
}

fn tensor(shape: &[u64], positions: &[u64]) -> SparseTensor {
    SparseTensor {
        name: "w".to_owned(),
        shape: shape.to_vec(),
        value_type: ValueType::Bf16,
        positions: positions.to_vec(),
        values: positions.iter().flat_map(|place| (*place as u16).to_le_bytes()).collect(),
    }
}

#[test]
fn changes_that_do_not_fit_are_neither_written_nor_applied() {
    let odd = |values: usize| SparseTensor { values: vec![0; values], ..tensor(&[2, 2], &[0, 3]) };
    let unfit = [
        tensor(&[2, 2], &[4]),
        tensor(&[], &[]),
        tensor(&[0, 1 << 62, 1 << 62], &[]),
        tensor(&[1; 9], &[0]),
        odd(3),
        odd(2),
        odd(6),
    ];
    for tensor in unfit {
        let mut bytes = vec![7; 8];
        assert!(
            matches!(tensor.apply(&mut bytes), Err(DeltaError::BadTensor { .. })),
            "{tensor:?}"
        );
        assert_eq!(bytes, [7; 8], "{tensor:?}");
        for format in Format::ALL {
            assert!(encode(std::slice::from_ref(&tensor), format).is_err(), "{tensor:?}");
        }
    }
    assert!(tensor(&[2, 2], &[3]).apply(&mut [0; 6]).is_err(), "a tensor of another size");
    let twice = [tensor(&[4], &[0]), tensor(&[4], &[1])];
    assert!(encode(&twice, Format::V31).is_err(), "the same name twice");
}

#[test]
fn flat_places_end_at_four_bytes() {
    let far = tensor(&[1 << 16, 1 << 16], &[1 << 31]);
    assert!(encode(std::slice::from_ref(&far), Format::V2).is_err());
    for format in [Format::V3, Format::V31] {
        let payload = encode(std::slice::from_ref(&far), format).expect("rows and columns fit");
        assert_eq!(decode(&payload, format), Ok(vec![far.clone()]));
    }
}

/// A payload with this header.
fn payload(header: &str, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).expect("a short text").to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

fn entry(name: &str, shape: &str, indices: (u64, u64), values: (u64, u64)) -> String {
    format!(
        "{{\"name\":\"{name}\",\"shape\":{shape},\"value_dtype\":\"bfloat16\",\
         \"indices_offset\":{},\"indices_size\":{},\"values_offset\":{},\"values_size\":{}}}",
        indices.0, indices.1, values.0, values.1
    )
}

#[test]
fn hostile_payloads_are_refused() {
    let v2 = |entries: &[String], data: &[u8]| {
        let header = format!("{{\"version\":2,\"tensors\":[{}]}}", entries.join(","));
        decode(&payload(&header, data), Format::V2)
    };
    let data = [1, 0, 0, 0, 9, 9];
    assert!(v2(&[entry("w", "[4]", (0, 4), (4, 2))], &data).is_ok());
    for (what, entries) in [
        ("a place beyond the tensor", vec![entry("w", "[1]", (0, 4), (4, 2))]),
        ("a tensor without values", vec![entry("w", "[0]", (0, 4), (4, 2))]),
        ("no shape", vec![entry("w", "[]", (0, 0), (0, 0))]),
        ("a shape that overflows", vec![entry("w", "[4294967296,4294967296]", (0, 0), (0, 0))]),
        (
            "a shape that overflows behind 0",
            vec![entry("w", "[0,4294967296,4294967296]", (0, 0), (0, 0))],
        ),
        ("indices beyond the end", vec![entry("w", "[4]", (u64::MAX, 4), (4, 2))]),
        ("indices longer than the data", vec![entry("w", "[4]", (0, u64::MAX), (4, 2))]),
        ("half an index", vec![entry("w", "[4]", (0, 3), (4, 2))]),
        ("half a value", vec![entry("w", "[4]", (0, 4), (5, 2))]),
        (
            "shared bytes",
            vec![entry("v", "[4]", (0, 4), (4, 2)), entry("w", "[4]", (0, 4), (4, 2))],
        ),
        (
            "one name twice",
            vec![entry("w", "[4]", (0, 4), (6, 0)), entry("w", "[4]", (4, 0), (4, 2))],
        ),
    ] {
        assert!(v2(&entries, &data).is_err(), "{what}");
    }
    for header in
        ["", "[]", "{\"version\":2}", "{\"version\":-2,\"tensors\":[]}", &"[".repeat(5_000)]
    {
        let refused = decode(&payload(header, &[]), Format::V2);
        assert!(matches!(refused, Err(DeltaError::BadHeader(_))), "{header:.20}: {refused:?}");
    }
    let negative = [0xff, 0xff, 0xff, 0xff, 9, 9];
    assert!(v2(&[entry("w", "[4]", (0, 4), (4, 2))], &negative).is_err(), "a negative place");
}

#[test]
fn a_bomb_is_refused_by_what_it_claims() {
    let zeros = compress(&vec![0; 8 << 20]).expect("memory is enough");
    assert!(zeros.len() < 2_000, "{} bytes", zeros.len());
    let refused = decompress(&zeros, PAYLOAD_BYTES_MAX);
    assert!(matches!(refused, Err(DeltaError::TooLarge { found: 8_388_608, .. })), "{refused:?}");

    // A frame that claims 2^62 bytes, with one empty block, where the caller would allow them.
    let mut lie = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    lie.extend((1u64 << 62).to_le_bytes());
    lie.extend([0x01, 0x00, 0x00]);
    let refused = decompress(&lie, u64::MAX);
    assert!(matches!(refused, Err(DeltaError::TooLarge { .. })), "{refused:?}");

    // A frame that claims more than it holds.
    let mut short = compress(b"grail grail grail").expect("memory is enough");
    assert_eq!(short[4..6], [0x20, 17], "one byte of content size");
    short[5] = 18;
    let refused = decompress(&short, PAYLOAD_BYTES_MAX);
    assert!(matches!(refused, Err(DeltaError::BadFrame(_))), "{refused:?}");
}

fn any_tensor() -> impl Strategy<Value = SparseTensor> {
    let shape = prop::collection::vec(1u64..40, 1..4);
    let value_type = prop::sample::select(ValueType::ALL.to_vec());
    let places = prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..30);
    ("[a-zé\"]{1,6}", shape, value_type, places).prop_map(|(name, shape, value_type, places)| {
        let n: u64 = shape.iter().product();
        let n = usize::try_from(n).expect("at most 40^3");
        let mut positions: Vec<u64> = places.iter().map(|(at, _)| at.index(n) as u64).collect();
        positions.sort_unstable();
        let size = value_type.size();
        let values = places.iter().flat_map(|(_, bits)| bits.to_le_bytes()[..size].to_vec());
        SparseTensor { name, shape, value_type, positions, values: values.collect() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(tensors in prop::collection::vec(any_tensor(), 0..5)) {
        let tensors: BTreeMap<_, _> = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let tensors: Vec<_> = tensors.into_values().collect();
        for format in Format::ALL {
            let payload = encode(&tensors, format).unwrap();
            prop_assert_eq!(decode(&payload, format), Ok(tensors.clone()));
            let file = compress(&payload).unwrap();
            prop_assert_eq!(decompress(&file, payload.len() as u64), Ok(payload));
        }
    }

    #[test]
    fn what_changed_is_found_whatever_the_bits(
        base in prop::collection::vec(any::<u16>(), 12), new in prop::collection::vec(any::<u16>(), 12),
        kept in prop::collection::vec(any::<bool>(), 12),
    ) {
        let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let new: Vec<u16> =
            kept.iter().zip(&base).zip(&new).map(|((kept, old), new)| if *kept { *old } else { *new }).collect();
        let (base, new) = (bytes(&base), bytes(&new));
        let change = SparseTensor::between("w", &[3, 4], ValueType::Bf16, &base, &new);
        let mut applied = base;
        change.apply(&mut applied).unwrap();
        prop_assert_eq!(applied, new);
    }
}
