//! Counts how often a duration fell into each of several ranges.

/// Upper ends of the ranges, seconds, inclusive. A question to a node on the same machine takes a
/// millisecond, weights a minute or two until a block has them.
pub const BOUNDS_S: [f64; 12] =
    [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Durations, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many were in each range and in none before it; the last one has no end.
    counts: [u64; BOUNDS_S.len() + 1],
    /// Their sum, seconds.
    sum_s: f64,
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&mut self, seconds: f64) {
        let range = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        self.counts[range] += 1;
        self.sum_s += seconds;
    }

    /// Returns for each bound how many durations were not above it.
    pub fn up_to(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        BOUNDS_S.into_iter().zip(sums)
    }

    /// Returns how many durations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns their sum, seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_counts_in_every_range_that_holds_it() {
        let mut histogram = Histogram::default();
        for seconds in [0.0, 0.001, 0.0011, 0.5, 299.0, 1_000.0] {
            histogram.add(seconds);
        }
        let counts: Vec<u64> = histogram.up_to().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!(histogram.count(), 6);
        assert!((histogram.sum_s() - 1_299.502_1).abs() < 1e-9);
    }
}
