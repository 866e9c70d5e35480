//! The choices that need all logits of a row.

use grail_kernels::math::exp_f64;
use grail_kernels::{Kernels, RaceKey, RaceOutcome};
use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use super::head::not_finite;

/// Runs the race (key, 0-based step) of one row of logits; returns the winner and its score.
pub(super) fn race(
    kernels: &Kernels,
    logits: &[f32],
    temperature: f32,
    (key, step): (RaceKey, u32),
) -> Result<(TokenId, f32), ModelError> {
    let mut outcome = [RaceOutcome::default()];
    kernels
        .race(logits, logits.len(), &[key], &[step], temperature, None, &mut outcome)
        .map_err(not_finite)?;
    Ok((outcome[0].winner, outcome[0].winner_score))
}

/// Below it a token's mass counts for nothing beside the most likely token's, which is 1.
const EXPONENT_MIN: f64 = -700.0;

/// Puts every logit outside the most likely `top_p` mass to minus infinity. Of equal logits the
/// lower id counts as more likely. At least one is kept.
pub(super) fn keep_top_p(logits: &mut [f32], temperature: f32, top_p: f32) {
    // One integer a token, so that a vocabulary sorts without looking anything up.
    let mut order: Vec<u64> = (0u64..)
        .zip(&*logits)
        .map(|(idx, &logit)| u64::from(descending(logit)) << 32 | idx)
        .collect();
    order.sort_unstable();
    let order: Vec<usize> = order.into_iter().map(|key| (key & IDX_MASK) as usize).collect();
    let max = logits[order[0]];
    // The project's own `exp`: a seed then gives the same text on every machine in this mode too.
    let exponent = |idx: usize| f64::from(logits[idx] - max) / f64::from(temperature);
    let masses: Vec<f64> =
        order.iter().map(|&idx| exp_f64(exponent(idx).max(EXPONENT_MIN))).collect();
    let enough = f64::from(top_p) * masses.iter().sum::<f64>();
    let mut sum = 0.0;
    let kept = masses.iter().take_while(|&&mass| {
        let needed = sum < enough;
        sum += mass;
        needed
    });
    let n_kept = kept.count().max(1);
    for &idx in &order[n_kept..] {
        logits[idx] = f32::NEG_INFINITY;
    }
}

/// The low half of a key: which token it is of. Ids are u32.
const IDX_MASK: u64 = (1 << 32) - 1;

/// Returns a number that is smaller for a logit that is larger in [`f32::total_cmp`]'s order.
fn descending(logit: f32) -> u32 {
    let bits = logit.to_bits();
    // Negative numbers are larger the smaller their bits are; positive ones the other way round.
    if bits >> 31 == 1 { bits } else { !bits & (u32::MAX >> 1) }
}

/// Returns the `n` tokens with the largest logits, largest first, of equal ones the lower id first.
pub(super) fn likeliest(logits: &[f32], n: usize) -> Vec<TokenId> {
    let mut best: Vec<(TokenId, f32)> = Vec::with_capacity(n + 1);
    for (id, &logit) in (0..).zip(logits) {
        if best.len() < n || best.last().is_some_and(|&(_, last)| logit > last) {
            let place = best.partition_point(|&(_, other)| other >= logit);
            best.insert(place, (id, logit));
            best.truncate(n);
        }
    }
    best.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_the_mass() {
        // Probabilities 0.1, 0.2, 0.3, 0.4.
        let logits = [1.0f32, 2.0, 3.0, 4.0].map(f32::ln);
        for (top_p, kept) in
            [(0.1, vec![3]), (0.39, vec![3]), (0.5, vec![2, 3]), (1.0, vec![0, 1, 2, 3])]
        {
            let mut row = logits;
            keep_top_p(&mut row, 1.0, top_p);
            let left: Vec<usize> = (0..4).filter(|&idx| row[idx].is_finite()).collect();
            assert_eq!(left, kept, "top_p {top_p}");
        }
    }

    #[test]
    fn the_likeliest_come_in_order() {
        let logits = [1.0, 5.0, -2.0, 5.0, 3.0, f32::NEG_INFINITY];
        for (n, expected) in
            [(0, vec![]), (1, vec![1]), (3, vec![1, 3, 4]), (9, vec![1, 3, 4, 0, 2, 5])]
        {
            assert_eq!(likeliest(&logits, n), expected, "{n}");
        }
    }

    #[test]
    fn equal_logits_are_kept_from_the_lowest_id() {
        let mut row = [0.0; 4];
        keep_top_p(&mut row, 1.0, 0.5);
        assert_eq!(row, [0.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn keys_sort_as_the_total_order_reversed() {
        let logits = [
            f32::INFINITY,
            3.5,
            1.0,
            f32::MIN_POSITIVE,
            0.0,
            -0.0,
            -1e-45,
            -2.0,
            -2.5,
            f32::NEG_INFINITY,
        ];
        for pair in logits.windows(2) {
            assert!(descending(pair[0]) < descending(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn a_low_temperature_keeps_one_token() {
        let mut row = [1.0, 1.5, 0.0];
        keep_top_p(&mut row, 0.01, 0.99);
        assert_eq!(row, [f32::NEG_INFINITY, 1.5, f32::NEG_INFINITY]);
    }
}
