//! An environment that a tiny model can learn: repeat the letter that the prompt names.

use std::collections::BTreeSet;
use std::sync::Mutex;

use grail_ports::environment::{ChatMessage, ChatRole, Environment, EnvironmentError, Evaluation};

use crate::{draw, lock};

/// Asks for the letter `a` or `b`.
///
/// Reward 1 and success for exactly that letter, 0.25 for a longer answer that starts with it,
/// else 0. Seeds given to [`FakeEnvironment::break_seed`] cannot be evaluated.
#[derive(Default)]
pub struct FakeEnvironment {
    broken: Mutex<BTreeSet<u64>>,
}

impl FakeEnvironment {
    /// Makes every evaluation of `seed` fail, as a sandbox that does not start would.
    pub fn break_seed(&self, seed: u64) {
        lock(&self.broken).insert(seed);
    }

    /// Undoes [`FakeEnvironment::break_seed`] for all seeds.
    pub fn repair(&self) {
        lock(&self.broken).clear();
    }

    fn letter(seed: u64) -> char {
        if draw::word("grail/testkit/letter", seed, &[]).is_multiple_of(2) { 'a' } else { 'b' }
    }
}

impl Environment for FakeEnvironment {
    fn id(&self) -> &str {
        "fake"
    }

    fn params_json(&self) -> String {
        "{}".to_owned()
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        let content = Self::letter(seed).to_string();
        vec![ChatMessage { role: ChatRole::User, content }]
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        if lock(&self.broken).contains(&seed) {
            let reason = format!("seed {seed} is broken");
            return Err(EnvironmentError { id: self.id().to_owned(), reason });
        }
        let rest = completion.strip_prefix(Self::letter(seed));
        let success = rest == Some("");
        let reward = if success { 1.0 } else { rest.map_or(0.0, |_| 0.25) };
        Ok(Evaluation { reward, success })
    }

    fn solve(&self, seed: u64) -> Option<String> {
        Some(Self::letter(seed).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[test]
    fn the_environment_passes_the_contract() {
        contract::environment(&FakeEnvironment::default(), 0..200);
    }

    #[test]
    fn only_the_letter_alone_succeeds() {
        let environment = FakeEnvironment::default();
        let letter = environment.solve(5).unwrap();
        for (completion, reward) in [(letter.clone(), 1.0), (letter + "!", 0.25), ("".into(), 0.0)]
        {
            let evaluation = environment.evaluate(5, &completion).unwrap();
            assert!((evaluation.reward - reward).abs() < f32::EPSILON, "{completion}");
            assert_eq!(evaluation.success, reward > 0.9);
        }
        environment.break_seed(5);
        assert!(environment.evaluate(5, "a").is_err());
        environment.repair();
        assert!(environment.evaluate(5, "a").is_ok());
    }
}
