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
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
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
