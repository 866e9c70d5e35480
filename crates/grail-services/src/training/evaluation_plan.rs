//! Which tasks an evaluation of the reference asks, and with which seeds.
//!
//! Source: `spec/trainer.md`, evaluation. The native trainer's evaluation is
//! [`super::evaluation`].

use grail_protocol::v5::python::mersenne::numpy_choice;
use sha2::{Digest as _, Sha256};

/// Seed of the choice of a fixed subset, and of evaluations.
pub const EVALUATION_SEED: u32 = 2025;

/// Returns the seed of one answer, below 2^63.
///
/// Source: `spec/crypto.md`, seeds.
pub fn evaluation_seed(seed_base: u64, cycle: u64, task: &str, replicate: u32) -> u64 {
    let text = format!("{seed_base}:{cycle}:{task}:{replicate}");
    let digest = Sha256::digest(text);
    let (head, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_be_bytes(*head) & (u64::MAX >> 1)
}

/// Returns the tasks of a fixed subset, ascending: `size` of `tasks` as NumPy chooses them, all
/// where there are no more.
pub fn subset(tasks: u32, size: u32, seed: u32) -> Vec<u32> {
    let size = usize::try_from(size.min(tasks)).unwrap_or(usize::MAX);
    let mut chosen = numpy_choice(seed, tasks, size);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, list, size, sizes, text};

    use super::*;

    #[test]
    fn answers_have_the_seeds_of_the_reference() {
        every_case("trainer_data", "eval_plan.json", |case| {
            let [base, cycle] = ["seed_base", "cycle_index"].map(|key| case[key].as_u64().unwrap());
            for answer in list(&case["seeds"]) {
                let replicate = u32::try_from(size(&answer["replicate"])).unwrap();
                let seed = evaluation_seed(base, cycle, text(&answer["task_id"]), replicate);
                assert_eq!(seed.to_string(), text(&answer["seed"]), "{answer}");
            }
        });
    }

    #[test]
    fn a_subset_is_what_numpy_chooses() {
        every_case("pyrandom", "numpy_randomstate_choice.json", |case| {
            let [seed, tasks, wanted] = ["seed", "n", "size"].map(|key| size(&case[key]) as u32);
            let mut expected = sizes(&case["choice"]);
            expected.sort_unstable();
            let chosen = subset(tasks, wanted, seed);
            assert!(chosen.iter().map(|&task| task as usize).eq(expected), "{case}");
        });
        assert_eq!(subset(3, 9, EVALUATION_SEED), [0, 1, 2]);
        assert_eq!(subset(0, 9, EVALUATION_SEED), [0; 0]);
    }
}
