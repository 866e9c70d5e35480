//! Turns rows of weights into incentives and dividends.

/// Largest value of a weight or a score on chain.
const U16_MAX: f64 = 65535.0;

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

    use super::*;

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
        fn scaling_up_keeps_order(weights in proptest::collection::vec(any::<u16>(), 0..50)) {
            let scaled = upscale(&weights);
            for (before, after) in weights.windows(2).zip(scaled.windows(2)) {
                prop_assert!(before[0] > before[1] || after[0] <= after[1]);
            }
            prop_assert_eq!(upscale(&scaled), scaled);
        }
    }
}
