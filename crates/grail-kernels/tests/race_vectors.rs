//! Compares the race with vectors made in exact rational arithmetic.
#![expect(clippy::unwrap_used, reason = "a broken vector file must fail the test")]

use grail_kernels::{RaceKey, math, race_exponential, race_score};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/race.json")).unwrap()
}

fn word(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

#[test]
fn exponentials_match_the_vectors() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 300);
    for case in cases {
        let key = RaceKey(std::array::from_fn(|index| word(&case["key"][index])));
        let (step, token) = (word(&case["step"]), word(&case["token"]));
        let e = race_exponential(token, key, step);
        assert_eq!(e.to_bits(), word(&case["e_bits"]), "{case}");
        assert_eq!(math::ln(e).to_bits(), word(&case["ln_e_bits"]), "{case}");
        let score = race_score(1.5, token, key, step, 0.7);
        assert_eq!(score.to_bits(), (1.5 / 0.7 - math::ln(e)).to_bits(), "{case}");
    }
}

#[test]
fn words_at_the_ends_of_the_range_match_the_vectors() {
    for case in vectors()["words"].as_array().unwrap() {
        let w = (word(&case["word"]) >> 1) as f32;
        let vv = ((w + 0.5) * (-31f32).exp2()).min(1.0 - f32::EPSILON / 2.0);
        let e = -math::ln_1p_neg(vv);
        assert_eq!(e.to_bits(), word(&case["e_bits"]), "{case}");
        assert_eq!(math::ln(e).to_bits(), word(&case["ln_e_bits"]), "{case}");
        assert!(e > 0.0 && e.is_finite());
    }
}
