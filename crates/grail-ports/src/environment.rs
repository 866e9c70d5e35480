//! An environment: a problem from a seed, its prompt, and the reward of an answer.

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatRole {
    /// Instructions for the model.
    System,
    /// The problem.
    User,
    /// The model.
    Assistant,
}

impl ChatRole {
    /// Returns the role as chat templates spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub role: ChatRole,
    /// What is said.
    pub content: String,
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Reward, finite.
    pub reward: f32,
    /// Whether the answer is right.
    pub success: bool,
}

/// What an answer is worth, in double precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExactEvaluation {
    /// Reward, finite.
    pub reward: f64,
    /// Whether the answer is right.
    pub success: bool,
}

/// Our own failure to evaluate, such as a sandbox that did not start. It never counts against a miner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment {id} could not evaluate the answer: {reason}; the rollout is skipped")]
pub struct EnvironmentError {
    /// Id of the environment.
    pub id: String,
    /// What failed.
    pub reason: String,
}

/// A family of problems. Same seed, same problem, on every machine.
pub trait Environment: Send + Sync {
    /// Returns the id that checkpoints carry, such as `arithmetic`.
    fn id(&self) -> &str;

    /// Returns the parameters as canonical JSON (sorted keys, no white space).
    fn params_json(&self) -> String;

    /// Returns the messages that pose the problem of `seed`.
    fn prompt(&self, seed: u64) -> Vec<ChatMessage>;

    /// Returns what `completion` (text without the end token) is worth as an answer to `seed`.
    ///
    /// # Errors
    /// Only for our own failures; a wrong or mad answer is an [`Evaluation`] with a low reward.
    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError>;

    /// Returns what [`Environment::evaluate`] does, for peers that compare rewards in double precision.
    ///
    /// # Errors
    /// As [`Environment::evaluate`].
    fn evaluate_exactly(
        &self,
        seed: u64,
        completion: &str,
    ) -> Result<ExactEvaluation, EnvironmentError> {
        let Evaluation { reward, success } = self.evaluate(seed, completion)?;
        Ok(ExactEvaluation { reward: reward.into(), success })
    }

    /// Returns an answer to the problem of `seed` that earns the full reward, if one is known.
    fn solve(&self, seed: u64) -> Option<String>;
}
