//! The reference's `affine_trace`: what a program prints, compared word by word.
//!
//! Only its reward is here: its problems come from a package that the reference downloads at run time,
//! and no validator accepts it.

use super::assessment::{Assessment, one_if};
use super::completion::{Completion, Solution};
use super::text::is_space;
use super::thinking::ThinkingMode;

/// Weights of correctness, thinking, answer, nothing trailing.
const WEIGHTS: [f64; 4] = [0.6, 0.15, 0.15, 0.1];

/// Returns what a completion is worth where a program prints `expected`.
///
/// Success is judged on the first answer in the text, even one inside the thinking, and never on one
/// without any character; the reward on the answer after the thinking.
pub fn assess(mode: ThinkingMode, text: &str, expected: &str) -> Assessment {
    let completion = Completion::parse(mode, text);
    let is_right = |found: Solution<'_>| words(found.content).eq(words(expected));
    let first = Solution::first(text).filter(|found| !found.content.is_empty());
    let components = [
        one_if(completion.solution.is_some_and(is_right)),
        completion.thinking_reward(),
        if completion.solution.is_some() { 0.3 } else { 0.0 },
        completion.no_trailing_reward(),
    ];
    Assessment::added(WEIGHTS, components, first.is_some_and(is_right))
}

/// Returns the words as `str.split` does.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;

    use super::super::tests::{assert_assessed, mode};
    use super::*;

    #[test]
    fn rewards_are_the_references() {
        vectors::every_case("affine_trace", "rewards.json", |case| {
            let expected = vectors::text(&case["expected_output"]);
            let assessed = assess(mode(case), vectors::text(&case["completion"]), expected);
            assert_assessed(&assessed, case);
        });
    }
}
