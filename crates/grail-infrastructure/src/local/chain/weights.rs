//! Turns scores into the chain's integers and weights into incentives.

use std::collections::BTreeSet;

use grail_protocol::ids::Uid;

use super::refusal::Refusal;

/// Largest value of a weight or a score on chain.
const U16_MAX: f64 = 65535.0;

/// Returns the uids and weights that the chain takes: each weight divided by the largest, times
/// 65535, rounded half to even; zeros are left out.
///
/// Source: spec/bittensor.md section 6, quantisation (client side).
///
/// # Errors
/// When a weight is negative or not finite, a uid occurs twice, or nothing above 0 remains.
pub fn quantise(weights: &[(Uid, f64)]) -> Result<(Vec<u16>, Vec<u16>), Refusal> {
    let mut seen = BTreeSet::new();
    for (uid, weight) in weights {
        if !weight.is_finite() || *weight < 0.0 {
            return Err(Refusal::WeightNotFinite { uid: uid.0 });
        }
        if !seen.insert(*uid) {
            return Err(Refusal::DuplicateUids);
        }
    }
    let largest = weights.iter().fold(0.0, |largest: f64, (_, weight)| largest.max(*weight));
    if largest <= 0.0 {
        return Err(Refusal::WeightVecLengthIsLow);
    }
    Ok(weights
        .iter()
        .map(|(uid, weight)| (uid.0, to_u16((weight / largest * U16_MAX).round_ties_even())))
        .filter(|(_, value)| *value > 0)
        .unzip())
}

/// Scales `weights` so that the largest is 65535, as the chain does before it keeps them.
pub(super) fn upscale(weights: &[u16]) -> Vec<u16> {
    let largest = weights.iter().copied().max().unwrap_or(0);
    if largest == 0 {
        return weights.to_vec();
    }
    weights
        .iter()
        .map(|weight| {
            let (weight, largest) = (u64::from(*weight), u64::from(largest));
            // Rounded to the nearest, as rows of the recorded session are.
            let scaled = (2 * weight * u64::from(u16::MAX) + largest) / (2 * largest);
            u16::try_from(scaled).expect("a weight is at most the largest")
        })
        .collect()
}

/// A validator's stake and its row of weights.
pub(super) struct Row<'a> {
    /// Uid of the validator.
    pub(super) uid: u16,
    /// Its stake.
    pub(super) stake: u64,
    /// Uids and weights.
    pub(super) weights: &'a [(u16, u16)],
}

/// Returns the incentive of each of `n` neurons as a fraction of 65535: the mean of the validators'
/// normalised rows, weighted by stake. A validator's weight on itself does not count.
///
/// Far simpler than the real chain's consensus (no clipping at the majority, no bonds, no trust),
/// but like it in what matters here: what no staked validator supports earns nothing.
pub(super) fn incentives(rows: &[Row<'_>], n: usize) -> Vec<u16> {
    let mut scores = vec![0.0_f64; n];
    for row in rows {
        let others = || row.weights.iter().filter(|(uid, _)| *uid != row.uid);
        let sum: u64 = others().map(|(_, weight)| u64::from(*weight)).sum();
        if sum == 0 {
            continue;
        }
        for (uid, weight) in others() {
            if let Some(score) = scores.get_mut(usize::from(*uid)) {
                *score += to_f64(row.stake) * (f64::from(*weight) / to_f64(sum));
            }
        }
    }
    let total: f64 = scores.iter().sum();
    if total <= 0.0 {
        return vec![0; n];
    }
    scores.iter().map(|score| to_u16((score / total * U16_MAX).round_ties_even())).collect()
}

/// Returns the dividends of each of `n` neurons as a fraction of 65535: stake, shared among the
/// validators whose weights counted.
pub(super) fn dividends(rows: &[Row<'_>], n: usize) -> Vec<u16> {
    let counts =
        |row: &&Row<'_>| row.weights.iter().any(|(uid, weight)| *uid != row.uid && *weight > 0);
    let total: f64 = rows.iter().filter(counts).map(|row| to_f64(row.stake)).sum();
    let mut dividends = vec![0; n];
    for row in rows.iter().filter(counts) {
        if let Some(share) = dividends.get_mut(usize::from(row.uid)).filter(|_| total > 0.0) {
            *share = to_u16((to_f64(row.stake) / total * U16_MAX).round_ties_even());
        }
    }
    dividends
}

/// Returns `value`, which is within 0 to 65535, as an integer; its fraction is 0.
fn to_u16(value: f64) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no other conversion exists; the range is the caller's promise"
    )]
    let integer = value as u16;
    integer
}

/// Returns `value` rounded to 53 bits, which is enough for shares.
fn to_f64(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "stake beyond 2^53 only loses its last bits")]
    let float = value as f64;
    float
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn quantisation_matches_the_python_sdk() {
        let file: Value =
            serde_json::from_str(include_str!("../../../tests/vectors/quantise.json")).unwrap();
        let mut checked = 0;
        for case in file["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let uids: Vec<u64> = serde_json::from_value(case["uids"].clone()).unwrap();
            let values: Vec<f64> = case["weights"].as_array().unwrap().iter().map(number).collect();
            // Lists of different length and large uids cannot be written in the port's types.
            let Some(weights) = pairs(&uids, &values) else { continue };
            let expected = &case["sdk11_normalize"];
            match quantise(&weights) {
                Ok((uids, values)) => {
                    assert_eq!(serde_json::to_value(uids).unwrap(), expected["uids"], "{name}");
                    assert_eq!(serde_json::to_value(values).unwrap(), expected["values"], "{name}");
                }
                Err(Refusal::WeightVecLengthIsLow) => {
                    assert_eq!(expected["uids"], Value::Array(vec![]), "{name}");
                }
                Err(_) => assert!(expected.get("error").is_some(), "{name}"),
            }
            checked += 1;
        }
        assert!(checked > 30, "{checked} cases");
    }

    fn number(value: &Value) -> f64 {
        match value {
            Value::String(text) => text.parse().unwrap(),
            other => other.as_f64().unwrap(),
        }
    }

    fn pairs(uids: &[u64], values: &[f64]) -> Option<Vec<(Uid, f64)>> {
        if uids.len() != values.len() {
            return None;
        }
        uids.iter().zip(values).map(|(uid, v)| Some((Uid(u16::try_from(*uid).ok()?), *v))).collect()
    }

    #[test]
    fn a_repeated_uid_is_refused() {
        let weights = [(Uid(1), 0.5), (Uid(1), 0.5)];
        assert_eq!(quantise(&weights), Err(Refusal::DuplicateUids));
    }

    #[test]
    fn incentives_follow_stake_and_ignore_self_weights() {
        let rows = [
            Row { uid: 1, stake: 300, weights: &[(0, 65535), (2, 65535)] },
            Row { uid: 3, stake: 100, weights: &[(3, 65535), (2, 65535)] },
            Row { uid: 4, stake: 999, weights: &[] },
        ];
        // uid 0: 150 of 400; uid 2: 250 of 400.
        assert_eq!(incentives(&rows, 5), [24576, 0, 40959, 0, 0]);
        assert_eq!(dividends(&rows, 5), [0, 49151, 0, 16384, 0]);
        assert_eq!(incentives(&[], 2), [0, 0]);
        let on_itself = Row { uid: 0, stake: 5, weights: &[(0, 1)] };
        assert_eq!(incentives(&[on_itself], 2), [0, 0]);
    }

    proptest! {
        #[test]
        fn the_largest_weight_is_full_scale(
            weights in proptest::collection::vec(0.0_f64..1e300, 1..50)
        ) {
            let weights: Vec<_> =
                (0..).zip(&weights).map(|(uid, weight)| (Uid(uid), *weight)).collect();
            prop_assume!(weights.iter().any(|(_, weight)| *weight > 0.0));
            let (uids, values) = quantise(&weights).unwrap();
            prop_assert_eq!(uids.len(), values.len());
            prop_assert_eq!(values.iter().max(), Some(&u16::MAX));
        }

        #[test]
        fn scaling_up_keeps_order(weights in proptest::collection::vec(any::<u16>(), 0..50)) {
            let scaled = upscale(&weights);
            for (before, after) in weights.windows(2).zip(scaled.windows(2)) {
                prop_assert!(before[0] > before[1] || after[0] <= after[1]);
            }
            prop_assert_eq!(upscale(&scaled), scaled);
        }
    }
}
