//! Coefficients, buckets, sketches, tolerance and challenge.

use grail_protocol::v5::bucket::bucket;
use grail_protocol::v5::constants::PRIME_Q;
use grail_protocol::v5::tolerance::{Claim, Distance, tolerance};
use grail_protocol::v5::{indices, r_vec, sketch};
use serde_json::Value;

use grail_testkit::vectors::{
    bits, bytes, every_case, every_entry, float, hidden, integer, list, load, same, size, sizes,
    text, tokens, widen_bf16,
};

#[test]
fn coefficients_are_the_references() {
    every_case("r_vec", "generate_r_vec.json", |case| {
        let coefficients = r_vec::from_randomness(text(&case["randomness"]));
        if case.get("error_type").is_some() {
            assert!(coefficients.is_err(), "{case}");
            return;
        }
        let want: Vec<i128> = list(&case["coeffs"]).iter().map(integer).collect();
        assert_eq!(coefficients.unwrap().map(i128::from)[..], want, "{case}");
        let raw: [u8; 32] = bytes(&case["raw"]).try_into().unwrap();
        assert_eq!(r_vec::from_raw(raw).map(i128::from)[..], want, "{case}");
    });
    every_case("r_vec", "legacy_r_vec_int32.json", |case| {
        let value = r_vec::legacy_int32(text(&case["rand_hex"]), size(&case["d_model"]));
        if case.get("error_type").is_some() {
            assert!(value.is_err(), "{case}");
        } else {
            let value: Vec<i128> = value.unwrap().into_iter().map(i128::from).collect();
            let want: Vec<i128> = list(&case["value"]).iter().map(integer).collect();
            assert_eq!(value, want);
        }
    });
}

#[test]
fn buckets_are_the_references_at_every_edge() {
    let check = |value: f64, case: &Value| {
        assert_eq!(i128::from(bucket(value)), integer(&case["bucket"]), "{case}");
    };
    every_case("buckets", "scalar_f64.json", |case| {
        check(f64::from_bits(bits(&case["f64_bits"])), case);
    });
    every_case("buckets", "vectorized_f32.json", |case| {
        let value = f32::from_bits(u32::try_from(bits(&case["f32_bits"])).unwrap());
        check(f64::from(value), case);
    });
    every_case("buckets", "vectorized_bf16.json", |case| {
        let value = widen_bf16(u16::try_from(bits(&case["bf16_bits"])).unwrap());
        check(f64::from(value), case);
    });
}

#[test]
fn sketches_are_the_references() {
    every_case("sketches", "sketches.json", |case| {
        let rows = hidden(&case["hidden_le_hex"], text(&case["dtype"]));
        let hidden_size = size(&case["hidden_dim"]);
        let r_vec = r_vec::from_randomness(text(&case["randomness"])).unwrap();
        let sketches = sketch::commit(&rows, hidden_size, &r_vec);
        for (position, row) in rows.chunks_exact(hidden_size).enumerate() {
            let name = format!("{} row {position}", case["name"]);
            let chosen = sizes(&case["topk_indices_batch"][position]);
            let want = size(&case["sketch_batch"][position]) as i64;
            assert_eq!(case["sketch_single"][position], case["sketch_batch"][position], "{name}");
            if is_ambiguous(row) {
                check_with_the_references_choice(row, &chosen, &r_vec, want, &name);
            } else {
                assert_eq!(sketch::top_indices(row)[..], chosen, "{name}");
                let buckets: Vec<i128> =
                    list(&case["buckets"][position]).iter().map(integer).collect();
                assert_eq!(sketch::buckets(row).map(i128::from)[..], buckets, "{name}");
                assert_eq!(sketches[position], want, "{name}");
            }
        }
    });
}

/// Magnitudes as the sketch ranks them: by bits, all NaN alike.
fn magnitude(activation: f32) -> u32 {
    if activation.is_nan() { u32::MAX } else { activation.abs().to_bits() }
}

/// Whether the 16th and the 17th largest magnitudes are equal: the reference then chooses as its
/// sort kernel happens to.
fn is_ambiguous(row: &[f32]) -> bool {
    let mut magnitudes: Vec<u32> = row.iter().copied().map(magnitude).collect();
    magnitudes.sort_unstable_by(|a, b| b.cmp(a));
    magnitudes.get(16) == Some(&magnitudes[15])
}

/// Both choices have the same magnitudes, and the rest of the way gives the reference's sketch.
fn check_with_the_references_choice(
    row: &[f32],
    chosen: &[usize],
    r_vec: &[i8],
    want: i64,
    name: &str,
) {
    let magnitudes = |indices: &[usize]| {
        let mut all: Vec<u32> = indices.iter().map(|&i| magnitude(row[i])).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(magnitudes(&sketch::top_indices(row)), magnitudes(chosen), "{name}");
    let only_chosen: Vec<f32> = chosen.iter().map(|&i| row[i]).collect();
    assert_eq!(sketch::commit(&only_chosen, 16, r_vec), [want], "{name}");
}

#[test]
fn claims_are_accepted_as_the_reference_accepts_them() {
    let vectors = load("sketches", "verify.json");
    let row = hidden(&vectors["hidden_le_hex"], "f32");
    let r_vec = r_vec::from_randomness(text(&vectors["randomness"])).unwrap();
    let own = sketch::commit(&row, row.len(), &r_vec)[0];
    assert_eq!(i128::from(own), integer(&vectors["validator_sketch"]));
    assert_eq!(i128::from(PRIME_Q), integer(&vectors["prime_q"]));
    every_case("sketches", "verify.json", |case| {
        let position = size(&case["position"]);
        let claim = case.get("miner_sketch_json").and_then(|json| claim(text(json)));
        let Some(claim) = claim else {
            assert!(case.get("error_type").is_some(), "{case}");
            return;
        };
        let distance = Distance::between(own, claim);
        match distance {
            Distance::Integer(distance) => assert_eq!(distance, integer(&case["diff"]), "{case}"),
            Distance::Float(distance) => assert!(same(distance, float(&case["diff"])), "{case}"),
        }
        assert_eq!(i128::from(tolerance(position)), integer(&case["tolerance"]));
        assert_eq!(distance.is_within(position), case["valid"] == true, "{case}");
    });
}

/// Reads a claim from its spelling in JSON, as Python does; text and null are none.
fn claim(json: &str) -> Option<Claim> {
    match json {
        "true" => Some(Claim::Integer(1)),
        "NaN" => Some(Claim::Float(f64::NAN)),
        "Infinity" => Some(Claim::Float(f64::INFINITY)),
        "-Infinity" => Some(Claim::Float(f64::NEG_INFINITY)),
        _ => json.parse().map(Claim::Integer).or_else(|_| json.parse().map(Claim::Float)).ok(),
    }
}

#[test]
fn the_tolerance_grows_as_the_references() {
    every_case("tolerance", "tolerance.json", |case| {
        let position = size(&case["position"]);
        assert_eq!(i128::from(tolerance(position)), integer(&case["tolerance"]), "{case}");
    });
}

#[test]
fn challenges_are_the_references() {
    every_case("indices", "indices_from_root.json", |case| {
        let sequence = tokens(&case["tokens"]);
        let randomness = text(&case["randomness"]);
        let (length, k) = (size(&case["seq_len"]), size(&case["k"]));
        assert_eq!(indices::token_hash(&sequence)[..], bytes(&case["tokens_hash"]));
        assert_eq!(indices::seed(&sequence, randomness).unwrap()[..], bytes(&case["seed"]));
        assert_eq!(indices::is_sparse(length, k), case["path"] == "sample", "{length} {k}");
        let positions = indices::from_root(&sequence, randomness, length, k).unwrap();
        assert_eq!(positions, sizes(&case["indices"]), "{length} {k}");
    });
    every_entry("indices", "indices_from_root.json", "errors", 6, |case| {
        let sequence = tokens(&case["tokens"]);
        let (length, k) = (size(&case["seq_len"]), size(&case["k"]));
        let positions = indices::from_root(&sequence, text(&case["randomness"]), length, k);
        assert!(positions.is_err(), "{case}");
    });
    every_case("indices", "indices_in_range.json", |case| {
        let [start, end, k] = ["start", "end", "k"].map(|key| size(&case[key]));
        let sequence = tokens(&case["tokens"]);
        let positions = indices::in_range(&sequence, text(&case["randomness"]), start, end, k);
        assert_eq!(positions.unwrap(), sizes(&case["indices"]), "{start}..{end} {k}");
        if k == 32 {
            let positions =
                indices::challenge(&sequence, text(&case["randomness"]), start, end - start);
            assert_eq!(positions.unwrap(), sizes(&case["indices"]));
        }
    });
    every_entry("indices", "indices_in_range.json", "errors", 2, |case| {
        // A negative start is no `usize`.
        if let Some(start) = case["start"].as_u64() {
            let start = usize::try_from(start).unwrap();
            let positions = indices::in_range(&[1], "00", start, size(&case["end"]), 32);
            assert!(positions.is_err(), "{case}");
        }
    });
}
