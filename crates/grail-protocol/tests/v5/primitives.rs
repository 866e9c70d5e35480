//! The functions below the proof: prf, randomness of Python, sums.

use grail_protocol::v5::prf::prf;
use grail_protocol::v5::python::mersenne::numpy_choice;
use grail_protocol::v5::python::random::Random;
use grail_protocol::v5::python::sum::{fsum, sum};
use num_bigint::{BigInt, BigUint};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use grail_testkit::vectors::{
    bits, bytes, every_case, every_entry, float, floats, integer, list, same, size, text,
};

#[test]
fn the_prf_gives_the_references_bytes() {
    every_case("prf", "prf.json", |case| {
        let parts: Vec<Vec<u8>> = list(&case["parts"]).iter().map(bytes).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let output = prf(&bytes(&case["label"]), &parts, size(&case["out_bytes"])).unwrap();
        if case["output"].is_string() {
            assert_eq!(output, bytes(&case["output"]), "{case}");
        } else {
            assert_eq!(Sha256::digest(&output)[..], bytes(&case["output_sha256"]), "{case}");
        }
    });
    every_entry("prf", "prf.json", "errors", 2, |case| {
        // A negative number of bytes is no `usize`.
        if let Some(n_bytes) = case["out_bytes"].as_u64() {
            assert!(prf(b"sketch", &[], usize::try_from(n_bytes).unwrap()).is_err(), "{case}");
        }
    });
}

#[test]
fn random_numbers_are_cpythons() {
    every_case("pyrandom", "pyrandom.json", |case| {
        let fresh = || seeded(case);
        let draws = |key: &str| list(case.get(key).unwrap_or(&Value::Array(Vec::new()))).to_vec();

        let random: Vec<f64> = draws("random").iter().map(float).collect();
        let mut rng = fresh();
        assert!(random.iter().all(|&want| rng.random() == want), "{case}");

        let rng = fresh();
        for (word, want) in rng.state().iter().zip(draws("state_first8")) {
            assert_eq!(i128::from(*word), integer(&want), "{case}");
        }

        let mut rng = fresh();
        for draw in draws("getrandbits") {
            let drawn = BigUint::new(rng.bits(size(&draw[0])));
            assert_eq!(drawn.to_string(), text(&draw[1]), "{draw} of {}", case["seed"]);
        }
        let mut rng = fresh();
        for draw in draws("randbelow") {
            let n = u64::try_from(integer(&draw[0])).unwrap();
            assert_eq!(i128::from(rng.below(n)), integer(&draw[1]), "{draw}");
        }
        let mut rng = fresh();
        for draw in draws("randint") {
            let [low, high, want] = [0, 1, 2].map(|i| i64::try_from(integer(&draw[i])).unwrap());
            assert_eq!(rng.randint(low, high), want, "{draw}");
        }
        check_collections(case, fresh);
    });
}

/// Shuffles, samples and choices, and the draws that nothing on the wire uses.
fn check_collections(case: &Value, fresh: impl Fn() -> Random) {
    let mut rng = fresh();
    for (n, want) in case["shuffle"].as_object().into_iter().flatten() {
        let mut items: Vec<usize> = (0..n.parse().unwrap()).collect();
        rng.shuffle(&mut items);
        assert_eq!(items, grail_testkit::vectors::sizes(want), "shuffle of {n}");
    }
    let mut rng = fresh();
    for draw in case["sample"].as_array().into_iter().flatten() {
        let drawn = rng.sample(size(&draw[0]), size(&draw[1]));
        assert_eq!(drawn, grail_testkit::vectors::sizes(&draw[2]), "{draw}");
    }
    let Some(weighted) = case.get("choices_weighted") else { return };
    let drawn = fresh().choices(&[3.0, 0.5, 1.0, 2.0, 1.5, 6.0], list(weighted).len());
    assert_eq!(drawn, grail_testkit::vectors::sizes(weighted));
    let mut rng = fresh();
    for want in list(&case["choice"]) {
        let index = usize::try_from(rng.below(10)).unwrap();
        assert_eq!(&"abcdefghij"[index..=index], text(want));
    }
    let mut rng = fresh();
    for want in floats(&case["uniform"]) {
        assert_eq!(rng.uniform(-2.0, 5.0), want);
    }
    let mut rng = fresh();
    for want in floats(&case["gauss"]) {
        // Sine, cosine and logarithm are the machine's.
        assert!((rng.gauss(0.0, 1.0) - want).abs() < 1e-14);
    }
}

fn seeded(case: &Value) -> Random {
    let seed = text(&case["seed"]);
    match text(&case["seed_type"]) {
        "bytes" => Random::from_bytes(&hex::decode(seed).unwrap()),
        "int" => match seed.parse() {
            Ok(small) => Random::from_integer(small),
            Err(_) => Random::from_magnitude(&seed.parse::<BigInt>().unwrap().to_bytes_be().1),
        },
        "str" => Random::from_bytes(seed.as_bytes()),
        other => panic!("seed type {other}"),
    }
}

#[test]
fn numpys_choice_is_the_head_of_its_shuffle() {
    every_case("pyrandom", "numpy_randomstate_choice.json", |case| {
        let number = |key: &str| u32::try_from(integer(&case[key])).unwrap();
        let drawn = numpy_choice(number("seed"), number("n"), size(&case["size"]));
        let drawn: Vec<i128> = drawn.into_iter().map(i128::from).collect();
        let want: Vec<i128> = list(&case["choice"]).iter().map(integer).collect();
        assert_eq!(drawn, want, "{case}");
    });
}

#[test]
fn sums_are_compensated_and_exact() {
    every_case("pyrandom", "py312_sum.json", |case| {
        let values = floats(&case["values"]);
        let total = sum(values.iter().copied());
        assert!(same(total, float(&case["sum"])), "{total} {case}");
        assert!(same(total, f64::from_bits(bits(&case["sum_bits"]))), "{total} {case}");
        let naive: f64 = values.iter().fold(0.0, |total, value| total + value);
        assert!(same(naive, f64::from_bits(bits(&case["naive_bits"]))), "{naive} {case}");
        // Where Python raises, there is no sum.
        let expected = (case["fsum"] != "error").then(|| float(&case["fsum"]));
        let is_expected = |exact: Option<f64>| match (exact, expected) {
            (Some(exact), Some(expected)) => same(exact, expected),
            (exact, expected) => exact.is_none() && expected.is_none(),
        };
        assert!(is_expected(fsum(values.iter().copied())), "{case}");
        assert!(is_expected(fsum(values.into_iter().rev())) || expected.is_none(), "{case}");
    });
}
