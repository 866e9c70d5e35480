//! Keeps the groups of the last windows and draws an epoch's groups from them.
//!
//! Source: `spec/trainer.md`, replay buffer; the draws are CPython's.

use std::collections::VecDeque;

use grail_protocol::v5::python::random::Random;

/// How windows are kept and mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayConfig {
    /// Windows kept, at least 1.
    pub windows_max: usize,
    /// Share of an epoch that comes from the newest window, 0 to 1.
    pub recent_share: f64,
    /// Weight of a window compared with that of the next newer one, at least 0; for older windows.
    pub decay: f64,
}

impl Default for ReplayConfig {
    /// The reference's settings.
    fn default() -> Self {
        Self { windows_max: 2, recent_share: 0.5, decay: 0.7 }
    }
}

/// The groups of some windows, the oldest window first.
#[derive(Clone, Debug)]
pub struct ReplayBuffer<T> {
    config: ReplayConfig,
    windows: VecDeque<(u64, Vec<T>)>,
}

impl<T> ReplayBuffer<T> {
    /// Makes an empty buffer.
    pub fn new(config: ReplayConfig) -> Self {
        Self { config, windows: VecDeque::new() }
    }

    /// Adds the groups of a window, newer than all before; the oldest windows leave when there are
    /// too many. Groups of the newest window replace those it had.
    pub fn add(&mut self, window: u64, groups: Vec<T>) {
        self.windows.retain(|(kept, _)| *kept != window);
        self.windows.push_back((window, groups));
        while self.windows.len() > self.config.windows_max.max(1) {
            self.windows.pop_front();
        }
    }

    /// Returns the windows with their groups, the oldest first.
    pub fn windows(&self) -> impl ExactSizeIterator<Item = (u64, &[T])> {
        self.windows.iter().map(|(window, groups)| (*window, groups.as_slice()))
    }

    /// Returns how many of `groups_max` groups each window is to give, the oldest first. A window
    /// may have fewer; the newest makes up for that as far as it can.
    pub fn allocations(&self, groups_max: usize) -> Vec<usize> {
        let Some(older) = self.windows.len().checked_sub(1) else {
            return Vec::new();
        };
        if older == 0 {
            return vec![groups_max];
        }
        let recent = cut(to_f64(groups_max) * self.config.recent_share).min(groups_max);
        let rest = to_f64(groups_max - recent);
        // Ages `older`, ..., 1 of the windows before the newest.
        let ages = (1..=i32::try_from(older).unwrap_or(i32::MAX)).rev();
        let weights: Vec<f64> = ages.map(|age| self.config.decay.powi(age)).collect();
        let total: f64 = weights.iter().sum();
        // All weights may be 0; then nothing comes from older windows.
        let share = |weight: &f64| if total > 0.0 { cut(rest * (weight / total)) } else { 0 };
        weights.iter().map(share).chain([recent]).collect()
    }

    /// Adds the groups of a window and returns those to train on, at most `groups_max`: as they come
    /// where one window is kept, else drawn from all that are.
    pub fn mix(&mut self, window: u64, groups: Vec<T>, groups_max: usize) -> Vec<T>
    where
        T: Clone,
    {
        if self.config.windows_max <= 1 {
            return groups;
        }
        self.add(window, groups);
        self.sample(groups_max, window).into_iter().cloned().collect()
    }

    /// Draws at most `groups_max` groups, no group twice. Equal seeds draw equally.
    pub fn sample(&self, groups_max: usize, seed: u64) -> Vec<&T> {
        let mut rng = Random::from_integer(i128::from(seed));
        let mut drawn = Vec::new();
        let mut unused: Vec<usize> = Vec::new();
        for ((_, groups), allocation) in self.windows.iter().zip(self.allocations(groups_max)) {
            let places = rng.sample(groups.len(), allocation.min(groups.len()));
            unused = (0..groups.len()).filter(|place| !places.contains(place)).collect();
            drawn.extend(places.into_iter().map(|place| &groups[place]));
        }
        let missing = groups_max.saturating_sub(drawn.len()).min(unused.len());
        if let (Some((_, newest)), 1..) = (self.windows.back(), missing) {
            let places = rng.sample(unused.len(), missing);
            drawn.extend(places.into_iter().map(|place| &newest[unused[place]]));
        }
        drawn
    }
}

#[expect(clippy::cast_precision_loss, reason = "a buffer has far fewer than 2^53 groups")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Python's int() of a number from 0 on"
)]
fn cut(x: f64) -> usize {
    x as usize
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, float, list, size, sizes, text};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_are_drawn_as_in_the_reference() {
        every_case("trainer_data", "replay_buffer.json", |case| {
            let mut buffer = ReplayBuffer::new(ReplayConfig {
                windows_max: size(&case["max_windows"]),
                recent_share: float(&case["recent_fraction"]),
                decay: float(&case["decay"]),
            });
            for step in list(&case["steps"]) {
                let groups: Vec<&str> = list(&step["groups"]).iter().map(text).collect();
                buffer.add(step["add_window"].as_u64().unwrap(), groups);
                let groups_max = size(&step["max_groups"]);
                assert_eq!(buffer.allocations(groups_max), sizes(&step["allocations"]), "{step}");
                let sampled = buffer.sample(groups_max, step["seed"].as_u64().unwrap());
                let sampled: Vec<&str> = sampled.into_iter().copied().collect();
                let expected: Vec<&str> = list(&step["sampled"]).iter().map(text).collect();
                assert_eq!(sampled, expected, "{step}");
                let stats = &step["stats"];
                let groups: usize = buffer.windows().map(|(_, groups)| groups.len()).sum();
                assert_eq!(buffer.windows().len(), size(&stats["windows"]));
                assert_eq!(groups, size(&stats["total_groups"]));
                let (oldest, _) = buffer.windows().next().unwrap();
                let (newest, _) = buffer.windows().last().unwrap();
                assert_eq!(Some(oldest), stats["oldest_window"].as_u64());
                assert_eq!(Some(newest), stats["newest_window"].as_u64());
                // Python's estimate of its own memory: 10,000 bytes a group, of a mebibyte.
                let memory_mb = groups as f64 * 10_000.0 / 1_048_576.0;
                assert!((memory_mb - float(&stats["memory_mb"])).abs() <= 0.005 + 1e-9, "{stats}");
            }
        });
    }

    #[test]
    fn one_window_is_used_as_it_comes_and_more_are_mixed() {
        let one = ReplayConfig { windows_max: 1, ..ReplayConfig::default() };
        let mut buffer = ReplayBuffer::new(one);
        for window in [0, 30] {
            assert_eq!(buffer.mix(window, vec![3, 1, 2], 2), [3, 1, 2]);
        }
        let mut buffer = ReplayBuffer::new(ReplayConfig::default());
        let mut first = buffer.mix(0, vec![3, 1, 2], 4);
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3]);
        let mixed = buffer.mix(30, vec![10, 11, 12], 4);
        let old = mixed.iter().filter(|group| **group < 10).count();
        assert_eq!((mixed.len(), old), (4, 2), "{mixed:?}");
    }

    #[test]
    fn an_empty_buffer_gives_nothing() {
        let mut buffer = ReplayBuffer::<u8>::new(ReplayConfig::default());
        assert_eq!(buffer.sample(8, 1), Vec::<&u8>::new());
        buffer.add(0, Vec::new());
        assert_eq!(buffer.sample(8, 1), Vec::<&u8>::new());
        // Weights that are all 0 divide nothing.
        let config = ReplayConfig { decay: 0.0, ..ReplayConfig::default() };
        let mut buffer = ReplayBuffer::new(config);
        buffer.add(0, vec![1]);
        buffer.add(30, vec![2, 3]);
        assert_eq!(buffer.allocations(4), [0, 2]);
        assert_eq!(buffer.sample(4, 1).len(), 2);
    }

    proptest! {
        #[test]
        fn no_group_is_drawn_twice_and_no_more_than_asked_for(
            sizes in prop::collection::vec(0usize..12, 1..5),
            groups_max in 0usize..40,
            seed: u64,
        ) {
            let config = ReplayConfig { windows_max: 3, ..ReplayConfig::default() };
            let mut buffer = ReplayBuffer::new(config);
            for (window, size) in sizes.iter().enumerate() {
                buffer.add(window as u64, (0..*size).map(|group| (window, group)).collect());
            }
            let mut drawn = buffer.sample(groups_max, seed);
            prop_assert!(drawn.len() <= groups_max && buffer.windows().len() <= 3);
            let count = drawn.len();
            drawn.sort_unstable();
            drawn.dedup();
            prop_assert_eq!(drawn.len(), count);
        }
    }
}
