//! The straight line from a window to a sealed file: tasks, completions, claims, signature.
//!
//! Each step is a function of explicit arguments; the service decides when and how many.

use std::sync::Arc;

use grail_ports::environment::EnvironmentError;
use grail_ports::model::{Completion, GenerateRequest, ModelError, Sampling, StopFlag};
use grail_ports::signer::Signer;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::ids::{TokenId, Window};
use grail_protocol::prover::{self, ProverError};
use grail_protocol::randomness::{WindowRandomness, task_seed};
use grail_protocol::rollout::{FileHeader, Group, Proof, Rollout};
use grail_protocol::sampler::RaceKey;
use grail_protocol::timelock::SealTo;

use crate::checkpoint::LoadedCheckpoint;

/// Everything that mining a window depends on; equal jobs give equal groups.
#[derive(Clone)]
pub struct MiningJob {
    /// The window.
    pub window: Window,
    /// Its randomness.
    pub randomness: WindowRandomness,
    /// The checkpoint for the window.
    pub checkpoint: Arc<LoadedCheckpoint>,
    /// What the file will say it is about.
    pub header: FileHeader,
    /// Where it will be sealed to.
    pub seal: SealTo,
}

/// One problem and the races of its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupTask {
    /// Index of the group in the window, 0-based.
    pub group: u32,
    /// Seed of the problem.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt: Vec<TokenId>,
    /// One key per rollout.
    pub race_keys: Vec<RaceKey>,
}

/// Why a group or file could not be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PipelineError {
    /// The model failed or was stopped.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The groups do not fit into a file, or nothing can be sealed to the beacon.
    #[error("the rollouts cannot be written: {0}")]
    Prover(#[from] ProverError),
    /// The rollouts do not fit into a file of the reference's profile.
    #[error("the rollouts cannot be written: {0}")]
    Unwritable(String),
    /// A completion of the allowed length would not fit into the model's context.
    #[error(
        "prompt of {prompt} tokens and {max_new_tokens} new ones exceed the {max} of the model; \
         the trainer must publish a smaller max_tokens or another environment"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Most tokens of a completion.
        max_new_tokens: u32,
        /// Most tokens of both.
        max: u32,
    },
    /// The model returned another number of completions than keys.
    #[error("the model returned {found} completions for {expected} race keys; report this")]
    WrongCount {
        /// Keys.
        expected: usize,
        /// Completions.
        found: usize,
    },
}

/// Returns the task of a group: nobody chooses it.
pub fn plan(job: &MiningJob, group: u32) -> Result<GroupTask, PipelineError> {
    let seed = task_seed(job.randomness, job.header.hotkey, group);
    let LoadedCheckpoint { model, environment, sampler, .. } = &*job.checkpoint;
    let prompt = model.render(&environment.prompt(seed))?;
    let max = model.info().max_position_embeddings;
    let room = usize::try_from(max).unwrap_or(usize::MAX);
    let wanted = usize::try_from(sampler.max_new_tokens).unwrap_or(usize::MAX);
    if prompt.len().saturating_add(wanted) > room {
        let max_new_tokens = sampler.max_new_tokens;
        return Err(PipelineError::PromptTooLong { prompt: prompt.len(), max_new_tokens, max });
    }
    let race_keys = (0..ROLLOUTS_PER_GROUP)
        .map(|rollout| job.header.race_key(job.randomness, group, rollout))
        .collect();
    Ok(GroupTask { group, seed, prompt, race_keys })
}

/// Returns what the model is asked for a task.
pub fn request(job: &MiningJob, task: &GroupTask) -> GenerateRequest {
    GenerateRequest {
        prompt: task.prompt.clone(),
        race_keys: task.race_keys.iter().map(|key| key.0).collect(),
        sampling: Sampling::Race { temperature: job.checkpoint.sampler.temperature },
        max_new_tokens: job.checkpoint.sampler.max_new_tokens,
        // An exact engine proves itself by a digest and sends no sketches.
        whitening: match Proof::is_exact(&job.header.numerics) {
            true => None,
            false => job.checkpoint.whitening.clone(),
        },
    }
}

/// Generates the completions of `tasks`, one list per task. Blocks.
///
/// # Errors
/// Nothing is returned of tasks that were complete before an error: a window that is stopped is
/// mined again from the start, with the same tokens.
pub fn complete(
    job: &MiningJob,
    tasks: &[GroupTask],
    stop: &StopFlag,
) -> Result<Vec<Vec<Completion>>, PipelineError> {
    let requests: Vec<GenerateRequest> = tasks.iter().map(|task| request(job, task)).collect();
    let mut groups: Vec<Vec<Completion>> = vec![Vec::new(); tasks.len()];
    job.checkpoint.model.generate(&requests, stop, &mut |idx, completions| {
        if let Some(slot) = groups.get_mut(idx) {
            *slot = completions;
        }
    })?;
    for (task, completions) in tasks.iter().zip(&groups) {
        let (expected, found) = (task.race_keys.len(), completions.len());
        if expected != found {
            return Err(PipelineError::WrongCount { expected, found });
        }
    }
    Ok(groups)
}

/// Returns the group with rewards as the environment gives them.
pub fn claim(
    job: &MiningJob,
    task: &GroupTask,
    completions: Vec<Completion>,
) -> Result<Group, PipelineError> {
    let LoadedCheckpoint { model, environment, .. } = &*job.checkpoint;
    let mut rollouts = Vec::with_capacity(completions.len());
    for Completion { tokens, hidden_digest, sketches, .. } in completions {
        let text = model.decode(&tokens)?;
        let evaluation = environment.evaluate(task.seed, &text)?;
        rollouts.push(Rollout {
            tokens,
            reward: evaluation.reward,
            success: evaluation.success,
            proof: match Proof::is_exact(&job.header.numerics) {
                true => Proof::Exact(hidden_digest),
                false => Proof::Tolerant(sketches),
            },
        });
    }
    Ok(Group { index: task.group, prompt: task.prompt.clone(), rollouts })
}

/// Makes honest groups `first..first + count`. Blocks.
pub fn mine(
    job: &MiningJob,
    first: u32,
    count: u32,
    stop: &StopFlag,
) -> Result<Vec<Group>, PipelineError> {
    let tasks: Vec<GroupTask> = (first..first.saturating_add(count))
        .map(|group| plan(job, group))
        .collect::<Result<_, _>>()?;
    let completed = complete(job, &tasks, stop)?;
    tasks.iter().zip(completed).map(|(task, answers)| claim(job, task, answers)).collect()
}

/// Returns the bytes of the file, signed and sealed.
pub fn seal(
    header: FileHeader,
    groups: Vec<Group>,
    to: SealTo,
    signer: &dyn Signer,
) -> Result<Vec<u8>, PipelineError> {
    Ok(prover::seal(header, groups, to, &|message| signer.sign(message))?)
}
