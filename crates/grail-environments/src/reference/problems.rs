//! Fits a family of the reference's problems to the port: prompts with a system message, rewards.

use grail_ports::environment::{
    ChatMessage, ChatRole, Environment, EnvironmentError, Evaluation, ExactEvaluation,
};

use super::assessment::Assessment;
use super::thinking::{SOLUTION_CLOSE, SOLUTION_OPEN, ThinkingMode};

/// Why an answer could not be judged; never the answer's doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unevaluated(pub String);

/// What differs between the environments.
pub(super) trait Problems: Send + Sync {
    /// Returns the user's message that poses the problem of a seed.
    fn question(&self, seed: u64) -> String;

    /// Returns what a completion is worth as an answer to it.
    fn assess(
        &self,
        mode: ThinkingMode,
        seed: u64,
        completion: &str,
    ) -> Result<Assessment, Unevaluated>;

    /// Returns what to write between the answer's tags for the full reward, if it is known.
    fn solution(&self, seed: u64) -> Option<String>;
}

/// An environment of the reference.
pub(super) struct ReferenceEnvironment<P> {
    pub(super) id: String,
    /// Canonical JSON.
    pub(super) params: String,
    pub(super) mode: ThinkingMode,
    pub(super) problems: P,
}

impl<P: Problems> Environment for ReferenceEnvironment<P> {
    fn id(&self) -> &str {
        &self.id
    }

    fn params_json(&self) -> String {
        self.params.clone()
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        let content = self.problems.question(seed);
        self.mode.prepare(vec![ChatMessage { role: ChatRole::User, content }])
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        let ExactEvaluation { reward, success } = self.evaluate_exactly(seed, completion)?;
        Ok(Evaluation { reward: reward as f32, success })
    }

    fn evaluate_exactly(
        &self,
        seed: u64,
        completion: &str,
    ) -> Result<ExactEvaluation, EnvironmentError> {
        let assessed = self.problems.assess(self.mode, seed, completion);
        assessed
            .map(|Assessment { reward, success, .. }| ExactEvaluation { reward, success })
            .map_err(|Unevaluated(reason)| EnvironmentError { id: self.id.clone(), reason })
    }

    fn solve(&self, seed: u64) -> Option<String> {
        let solution = self.problems.solution(seed)?;
        let (open, close) = (self.mode.thinking_open(), self.mode.thinking_close());
        Some(format!("{open}{close}{SOLUTION_OPEN}{solution}{SOLUTION_CLOSE}"))
    }
}
