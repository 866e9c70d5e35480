//! Which row of a data set a seed or a task id picks.

use super::rows::BadRows;
use super::text::{digit, strip};

/// Seeds are taken modulo this.
const SEEDS: i128 = 1 << 32;

/// What asks for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// Nothing in particular: the first task.
    First,
    /// An environment seed.
    Seed(i128),
    /// A task id, such as `train_7`; the number after its last underscore counts.
    Task(&'a str),
}

/// How seeds are spread over the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The seed's share of 2^32, in double precision.
    Scaled,
    /// The seed modulo the number of rows.
    Modulo,
}

/// A picked row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Number as task ids print it; from a task id it may be any integer.
    pub number: i128,
    /// Index of the row, 0-based.
    pub row: usize,
}

/// The tasks of one split, at least one.
#[derive(Clone, Debug)]
pub struct Source<T> {
    split: String,
    tasks: Vec<T>,
    spread: Spread,
}

impl<T> Source<T> {
    /// Makes a source.
    ///
    /// # Errors
    /// When there are no tasks; the reference fails on every problem then.
    pub fn new(split: &str, tasks: Vec<T>, spread: Spread) -> Result<Self, BadRows> {
        if tasks.is_empty() {
            return Err(BadRows::Empty { split: split.to_owned() });
        }
        Ok(Self { split: split.to_owned(), tasks, spread })
    }

    /// Returns the split's name.
    pub fn split(&self) -> &str {
        &self.split
    }

    /// Returns the tasks in order.
    pub fn tasks(&self) -> &[T] {
        &self.tasks
    }

    /// Picks a task.
    pub fn pick(&self, pick: Pick<'_>) -> Picked {
        let number = match pick {
            Pick::First => 0,
            Pick::Seed(seed) => match self.spread {
                Spread::Scaled => index(scaled(seed, self.tasks.len())),
                Spread::Modulo => seed.rem_euclid(index(self.tasks.len())),
            },
            Pick::Task(id) => task_number(id).unwrap_or(0),
        };
        self.numbered(number)
    }

    /// Picks a task among some of the rows, given by ascending index. A task id still names any row.
    ///
    /// Returns nothing when there are no such rows.
    pub fn pick_among(&self, pick: Pick<'_>, rows: &[usize]) -> Option<Picked> {
        let first = *rows.first()?;
        let number = match pick {
            Pick::First => index(first),
            Pick::Seed(seed) => index(rows[scaled(seed, rows.len())]),
            Pick::Task(id) => task_number(id).unwrap_or(index(first)),
        };
        Some(self.numbered(number))
    }

    /// Returns the task of an environment seed.
    pub fn of_seed(&self, seed: u64) -> &T {
        &self.tasks[self.pick(Pick::Seed(seed.into())).row]
    }

    fn numbered(&self, number: i128) -> Picked {
        let row = number.rem_euclid(index(self.tasks.len()));
        Picked { number, row: usize::try_from(row).expect("a remainder of a length is an index") }
    }
}

/// Scales a seed to an index below `n`, as the reference does in double precision.
fn scaled(seed: i128, n: usize) -> usize {
    let share = seed.rem_euclid(SEEDS) as f64 / SEEDS as f64;
    (share * n as f64) as usize
}

/// Returns what Python's `int` makes of what follows the last underscore. Numbers beyond 128 bits,
/// which no task has, are taken for none.
fn task_number(id: &str) -> Option<i128> {
    let number = strip(id.rsplit('_').next()?);
    let unsigned = number.strip_prefix(['+', '-']).unwrap_or(number);
    if unsigned.is_empty() {
        return None;
    }
    let magnitude = unsigned
        .chars()
        .try_fold(0i128, |high, c| high.checked_mul(10)?.checked_add(digit(c)?.into()))?;
    Some(if number.starts_with('-') { -magnitude } else { magnitude })
}

fn index(n: usize) -> i128 {
    i128::try_from(n).expect("a length fits 128 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn task_numbers_are_read_as_python_reads_them() {
        for (id, want) in [
            ("train_7", Some(7)),
            ("7", Some(7)),
            ("a_b_ -07 ", Some(-7)),
            ("train_٤٢", Some(42)),
            ("train_+3", Some(3)),
            ("train_", None),
            ("train_1x", None),
            ("--1", None),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(task_number(id), want, "{id}");
        }
    }

    proptest! {
        #[test]
        fn every_pick_is_a_row(seed in any::<i128>(), n in 1usize..3_000, id in "[a-z_0-9-]{0,12}") {
            for spread in [Spread::Scaled, Spread::Modulo] {
                let source = Source::new("train", vec![(); n], spread).unwrap();
                for pick in [Pick::First, Pick::Seed(seed), Pick::Task(&id)] {
                    prop_assert!(source.pick(pick).row < n);
                    prop_assert!(source.pick_among(pick, &[n - 1]).unwrap().row < n);
                }
            }
        }
    }
}
