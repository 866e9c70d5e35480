//! Repeats work and keeps the seconds of every repetition.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How often work is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Time for repetitions of one kernel.
    kernel: Duration,
    /// Repetitions of a whole task, such as a training step.
    task: usize,
}

impl Effort {
    /// For figures that will be quoted.
    pub const FULL: Self = Self { kernel: Duration::from_millis(300), task: 5 };
    /// For a look: noisier.
    pub const QUICK: Self = Self { kernel: Duration::from_millis(50), task: 2 };

    /// Repetitions of a kernel are at least this many,
    const KERNEL_MIN: usize = 3;
    /// and at most this many.
    const KERNEL_MAX: usize = 100_000;

    /// Runs a kernel once to warm up, then again and again; returns the seconds of each.
    pub fn of_kernel(self, mut call: impl FnMut()) -> Vec<f64> {
        call();
        let (all, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < Self::KERNEL_MIN
            || (all.elapsed() < self.kernel && seconds.len() < Self::KERNEL_MAX)
        {
            let start = Instant::now();
            call();
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds
    }

    /// Runs several tasks in turn, once to warm up and then as often as [`Effort`] says; returns the
    /// seconds of each repetition of each task.
    pub fn of_tasks<const N: usize>(
        self,
        mut tasks: [&mut dyn FnMut() -> Result<()>; N],
    ) -> Result<[Vec<f64>; N]> {
        for task in &mut tasks {
            task()?;
        }
        let mut seconds = [const { Vec::new() }; N];
        for _ in 0..self.task {
            for (task, seconds) in tasks.iter_mut().zip(&mut seconds) {
                let start = Instant::now();
                task()?;
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(seconds)
    }
}

/// Returns the middle of `values`, the mean of the two middle ones if their number is even; NaN for
/// none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// Returns the values that a tenth of `values` lies below and above: of fewer than ten, the smallest
/// and the largest; NaN for none.
pub fn tenths(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let left_out = sorted.len() / 10;
    match (sorted.get(left_out), sorted.iter().nth_back(left_out)) {
        (Some(&low), Some(&high)) => (low, high),
        _ => (f64::NAN, f64::NAN),
    }
}

/// Returns the median of `left[i] / right[i]`: of repetitions that took turns, so that what slows the
/// machine for a while cancels.
pub fn median_ratio(left: &[f64], right: &[f64]) -> f64 {
    let ratios: Vec<f64> = left.iter().zip(right).map(|(left, right)| left / right).collect();
    median(&ratios)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (values, want) in [(vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 5.0], 5.0)]
        {
            assert_eq!(median(&values), want, "{values:?}");
        }
        assert!(median(&[]).is_nan());
        assert_eq!(median_ratio(&[2.0, 8.0, 9.0], &[1.0, 2.0, 3.0]), 3.0);
    }

    #[test]
    fn a_tenth_at_each_end_is_left_out() {
        let many: Vec<f64> = (0..20).rev().map(f64::from).collect();
        for (values, want) in
            [(vec![2.0, 1.0, 7.0], (1.0, 7.0)), (many, (2.0, 17.0)), (vec![4.0], (4.0, 4.0))]
        {
            assert_eq!(tenths(&values), want, "{values:?}");
        }
        assert!(tenths(&[]).0.is_nan());
    }

    #[test]
    fn tasks_take_turns_after_a_warm_up() {
        let order = std::cell::RefCell::new(Vec::new());
        let push = |name| {
            order.borrow_mut().push(name);
            Ok(())
        };
        let (mut a, mut b) = (|| push('a'), || push('b'));
        let [a, b] = Effort::QUICK.of_tasks([&mut a, &mut b]).unwrap();
        assert_eq!((a.len(), b.len()), (2, 2));
        assert_eq!(order.into_inner(), ['a', 'b', 'a', 'b', 'a', 'b']);
    }

    #[test]
    fn a_failed_task_ends_the_measurement() {
        let mut calls = 0;
        let result = Effort::QUICK.of_tasks([&mut || {
            calls += 1;
            anyhow::bail!("no")
        }]);
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }
}
