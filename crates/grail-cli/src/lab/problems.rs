//! The lab's problems: arithmetic with its steps written out, so that rollouts have a length.
//!
//! Networks ask for the number alone, which leaves two tokens to judge. Answers here have steps
//! before the result, as real rollouts do, and tokens in them to tamper with.

use std::sync::Arc;

use grail_ports::environment::{ChatMessage, Environment, EnvironmentError, Evaluation};

/// Id of the environment.
pub const ID: &str = "lab-worked";

/// Asks for the steps; problems and rewards are those of another environment.
pub struct Worked {
    problems: Arc<dyn Environment>,
}

impl Worked {
    /// Takes the environment that has the problems.
    pub fn new(problems: Arc<dyn Environment>) -> Self {
        Self { problems }
    }
}

impl Environment for Worked {
    fn id(&self) -> &str {
        ID
    }

    fn params_json(&self) -> String {
        self.problems.params_json()
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        let mut messages = self.problems.prompt(seed);
        for message in &mut messages {
            let asked = message.content.replace(" Answer with the number only.", "");
            message.content =
                format!("{asked} Write down every step in a full sentence, then the result.");
        }
        messages
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        self.problems.evaluate(seed, completion)
    }

    fn solve(&self, seed: u64) -> Option<String> {
        self.problems.solve(seed)
    }
}

#[cfg(test)]
mod tests {
    use grail_environments::registry;

    use super::*;

    #[test]
    fn it_asks_for_steps_and_rewards_as_before() {
        let problems = registry::create("arithmetic", "{}").unwrap();
        let worked = Worked::new(problems.clone());
        let asked = &worked.prompt(7)[0].content;
        assert!(asked.starts_with("What is ") && asked.contains("? Write down every step"));
        let answer = worked.solve(7).unwrap();
        assert_eq!(worked.evaluate(7, &answer), problems.evaluate(7, &answer));
    }
}
