//! How well honest and hostile miners can be told apart: units of 300 tokens, ROC curve, detection.

use super::results::Record;

/// Tokens that one decision may look at where curves are drawn.
pub const UNIT_TOKENS: u32 = 300;
/// Most points of a curve that are kept.
const ROC_POINTS_MAX: usize = 65;

/// Consecutive rollouts of one miner, cut at [`UNIT_TOKENS`] tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// Margin of every token, nats.
    pub margins: Vec<f32>,
    /// Distance of every sketch, bits.
    pub distances: Vec<u8>,
}

/// Returns the units of `records`, in order; what is left at the end is not enough for one more.
///
/// A rollout is split where a unit is full: what follows in it is dropped, so that every unit begins
/// with a rollout and its sketches belong to its tokens.
pub fn units<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Unit> {
    let size = UNIT_TOKENS as usize;
    let (mut units, mut open) = (Vec::new(), Unit::default());
    for record in records {
        let room = size - open.margins.len();
        let taken = room.min(record.tokens as usize);
        open.margins.extend(record.margins().into_iter().take(taken));
        let sketches = grail_protocol::sketch::sketches_of(taken);
        open.distances.extend(record.distances.iter().take(sketches));
        if open.margins.len() == size {
            units.push(std::mem::take(&mut open));
        }
    }
    units
}

/// Returns the probability that a hostile statistic exceeds an honest one, ties counted half;
/// `None` without either.
pub fn auc(honest: &[f64], hostile: &[f64]) -> Option<f64> {
    if honest.is_empty() || hostile.is_empty() {
        return None;
    }
    let mut sorted = honest.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wins: f64 = hostile
        .iter()
        .map(|value| {
            let below = sorted.partition_point(|other| other.total_cmp(value).is_lt());
            let up_to = sorted.partition_point(|other| other.total_cmp(value).is_le());
            as_f64(below) + as_f64(up_to - below) / 2.0
        })
        .sum();
    Some(wins / as_f64(sorted.len()) / as_f64(hostile.len()))
}

/// Returns points (false positives, true positives) from (0, 0) to (1, 1), shares, for falling
/// thresholds.
pub fn roc(honest: &[f64], hostile: &[f64]) -> Vec<(f64, f64)> {
    if honest.is_empty() || hostile.is_empty() {
        return Vec::new();
    }
    let mut thresholds: Vec<f64> = honest.iter().chain(hostile).copied().collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let share = |values: &[f64], threshold: f64| {
        as_f64(values.iter().filter(|value| **value >= threshold).count()) / as_f64(values.len())
    };
    let mut points = vec![(0.0, 0.0)];
    points.extend(thresholds.iter().map(|&at| (share(honest, at), share(hostile, at))));
    // Corners alone: on a straight piece the points between say nothing.
    let straight = |a: (f64, f64), b: (f64, f64), c: (f64, f64)| {
        (b.0 - a.0) * (c.1 - a.1) == (b.1 - a.1) * (c.0 - a.0)
    };
    let mut corners: Vec<(f64, f64)> = Vec::new();
    for point in points {
        while let [.., a, b] = corners[..] {
            if !straight(a, b, point) {
                break;
            }
            corners.pop();
        }
        corners.push(point);
    }
    thin(corners)
}

/// Keeps the ends and an even choice between them.
fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let n = points.len();
    if n <= ROC_POINTS_MAX {
        return points;
    }
    (0..ROC_POINTS_MAX).map(|idx| points[idx * (n - 1) / (ROC_POINTS_MAX - 1)]).collect()
}

/// Returns the median number of tokens that are verified until a rollout is rejected, that rollout
/// included, over all counted rollouts as starting points; `None` where most never lead to one.
pub fn tokens_to_detection(records: &[Record]) -> Option<u64> {
    let counted: Vec<&Record> = records.iter().filter(|record| record.counted).collect();
    let mut waits = Vec::with_capacity(counted.len());
    let mut wait = None;
    for record in counted.iter().rev() {
        let tokens = u64::from(record.tokens);
        wait = match (&record.code, wait) {
            (Some(_), _) => Some(tokens),
            (None, Some(after)) => Some(tokens + after),
            (None, None) => None,
        };
        waits.push(wait);
    }
    // Starting points after the last detection sort last: they never saw one.
    waits.sort_by_key(|wait| wait.unwrap_or(u64::MAX));
    *waits.get(waits.len().checked_sub(1)? / 2)?
}

/// Returns, for each of `levels` (nats), the share of tokens whose margin is above it.
pub fn survival(records: &[Record], levels: &[f32]) -> Vec<f64> {
    let tokens: u64 = records.iter().map(|record| u64::from(record.tokens)).sum();
    let margins: Vec<f32> =
        records.iter().flat_map(|record| &record.lost).map(|(_, margin)| *margin).collect();
    let above = |level: &f32| margins.iter().filter(|margin| *margin > level).count();
    levels.iter().map(|level| as_f64(above(level)) / count_f64(tokens.max(1))).collect()
}

/// Returns the largest share that `failures` of `n` leaves plausible, at 95 % confidence (0 of n:
/// three over n).
pub fn upper_bound(failures: u64, n: u64) -> Option<f64> {
    if n == 0 {
        return None;
    }
    if failures == 0 {
        return Some((3.0 / count_f64(n)).min(1.0));
    }
    // Wilson's interval.
    let (n, z) = (count_f64(n), 1.96);
    let p = count_f64(failures) / n;
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Some(((centre + spread) / (1.0 + z * z / n)).min(1.0))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(tokens: u32, rejected: bool) -> Record {
        Record {
            tokens,
            counted: true,
            code: rejected.then(|| "race_lost".to_owned()),
            distances: vec![1; grail_protocol::sketch::sketches_of(tokens as usize)],
            ..Record::default()
        }
    }

    #[test]
    fn the_area_is_the_chance_that_a_hostile_value_is_larger() {
        assert_eq!(auc(&[0.0, 1.0], &[2.0, 3.0]), Some(1.0));
        assert_eq!(auc(&[2.0, 3.0], &[0.0, 1.0]), Some(0.0));
        assert_eq!(auc(&[1.0], &[1.0]), Some(0.5));
        assert_eq!(auc(&[0.0, 2.0], &[1.0]), Some(0.5));
        assert_eq!(auc(&[], &[1.0]), None);
    }

    proptest! {
        #[test]
        fn the_curve_has_the_area(
            honest in prop::collection::vec(0i32..20, 1..40),
            hostile in prop::collection::vec(0i32..20, 1..40),
        ) {
            let of = |values: Vec<i32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
            let (honest, hostile) = (of(honest), of(hostile));
            let points = roc(&honest, &hostile);
            prop_assert_eq!(points.first(), Some(&(0.0, 0.0)));
            prop_assert_eq!(points.last(), Some(&(1.0, 1.0)));
            let trapezoids: f64 = points
                .windows(2)
                .map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0)
                .sum();
            prop_assert!((trapezoids - auc(&honest, &hostile).unwrap()).abs() < 1e-9);
        }
    }

    #[test]
    fn units_begin_with_a_rollout_and_have_one_size() {
        let records: Vec<Record> = (0..10).map(|_| record(70, false)).collect();
        let units = units(&records);
        // Five rollouts make a unit of 4 x 70 + 20 tokens.
        assert_eq!(units.len(), 2);
        assert!(units.iter().all(|unit| unit.margins.len() == 300));
        assert!(units.iter().all(|unit| unit.distances.len() == 4 * 17 + 5));
        assert!(super::units(&records[..4]).is_empty());
    }

    #[test]
    fn detection_counts_the_tokens_up_to_a_rejected_rollout() {
        let sure: Vec<Record> = (0..5).map(|_| record(10, true)).collect();
        assert_eq!(tokens_to_detection(&sure), Some(10));
        let every_third = [false, false, true, false, false, true].map(|it| record(10, it));
        assert_eq!(tokens_to_detection(&every_third), Some(20));
        let never = [record(10, false), record(10, false)];
        assert_eq!(tokens_to_detection(&never), None);
        assert_eq!(tokens_to_detection(&[]), None);
    }

    #[test]
    fn survival_counts_all_tokens() {
        let mut one = record(10, false);
        one.lost = vec![(2, 0.3), (5, 1.5)];
        assert_eq!(survival(&[one], &[0.1, 0.5, 2.0]), [0.2, 0.1, 0.0]);
        assert_eq!(survival(&[], &[0.1]), [0.0]);
    }

    #[test]
    fn no_failure_in_many_bounds_the_rate_by_three_over_n() {
        assert_eq!(upper_bound(0, 3_000), Some(0.001));
        assert_eq!(upper_bound(0, 0), None);
        let some = upper_bound(5, 100).unwrap();
        assert!((0.10..0.12).contains(&some), "{some}");
    }
}
