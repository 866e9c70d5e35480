//! The straight line from a window to the rows of a file: problems, completions, proofs, signatures.

use std::sync::Arc;

use grail_ports::model::{GenerateRequest, Sampling, StopFlag};
use grail_ports::reference::{Trace, TraceRequest};
use grail_ports::signer::Signer;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, TokenId, Window};
use grail_protocol::v5::binding::{commit_binding, sketches_hash};
use grail_protocol::v5::constants::{CHALLENGE_K, GRAIL_PROOF_VERSION, LAYER_INDEX};
use grail_protocol::v5::envelope::honest_challenge;
use grail_protocol::v5::file::{
    Commit, Footer, JsonText, ROLLOUTS_PER_GROUP, RolloutFields, Row, WINDOW_LENGTH, WindowFile,
};
use grail_protocol::v5::seeds::environment_seed;
use grail_protocol::v5::{r_vec, sketch, verify};

use crate::math::mean;
use crate::mining::pace::MinedGroup;
use crate::mining::pipeline::PipelineError;
use crate::training::advantages::{Estimator, advantages};
use crate::v5::assignment::Assignment;
use crate::v5::traces::batch_len;

/// Everything that mining a window depends on.
#[derive(Clone)]
pub struct Job {
    /// The window.
    pub window: Window,
    /// Hash of its first block, with `0x`.
    pub window_hash: String,
    /// What commits carry: the hash mixed with a round of the beacon, hexadecimal.
    pub randomness: String,
    /// The miner.
    pub hotkey: Hotkey,
    /// The checkpoint.
    pub assignment: Arc<Assignment>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Head of the chain when the job was taken; told in each row.
    pub head: i64,
    /// Time of that block, Unix seconds; told in each row.
    pub now: f64,
}

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its index in the window, 0-based: seed material, and the group's id.
    pub index: u32,
    /// Seed of the environment.
    pub seed: u32,
    /// Tokens of the prompt.
    pub prompt: Vec<TokenId>,
}

/// The rows of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvedGroup {
    /// Index of its problem.
    pub index: u32,
    /// 16 rows.
    pub rows: Vec<Row>,
}

impl MinedGroup for ProvedGroup {
    fn index(&self) -> u32 {
        self.index
    }

    fn rollouts(&self) -> usize {
        self.rows.len()
    }

    fn tokens(&self) -> u64 {
        let length = |row: &Row| row.commit.rollout.completion_length.as_integer();
        self.rows.iter().filter_map(length).filter_map(|length| u64::try_from(length).ok()).sum()
    }

    fn reward_mean(&self) -> f64 {
        mean(self.rows.iter().filter_map(|row| row.commit.rollout.total_reward.as_float()))
    }
}

/// What the sketches of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Those of the hidden states.
    Computed,
    /// All zero, which every validator of the profile accepts.
    Zero,
}

/// Returns a problem: nobody chooses it.
pub fn problem(job: &Job, index: u32) -> Result<Problem, PipelineError> {
    let seed = environment_seed(&job.hotkey.to_ss58(), &job.window_hash, index.into());
    let prompt = job.assignment.prompt(seed)?;
    let max = job.assignment.model.info().max_position_embeddings;
    let max_new_tokens = job.assignment.token_limit();
    if prompt.len().saturating_add(max_new_tokens as usize) > max as usize {
        return Err(PipelineError::PromptTooLong { prompt: prompt.len(), max_new_tokens, max });
    }
    Ok(Problem { index, seed, prompt })
}

/// Generates 16 completions of each problem, one list per problem. Blocks.
pub fn complete(
    job: &Job,
    problems: &[Problem],
    stop: &StopFlag,
) -> Result<Vec<Vec<Vec<TokenId>>>, PipelineError> {
    let request = |problem: &Problem| GenerateRequest {
        prompt: problem.prompt.clone(),
        race_keys: (0..ROLLOUTS_PER_GROUP).map(|rollout| race_key(job, problem, rollout)).collect(),
        sampling: job.sampling,
        max_new_tokens: job.assignment.token_limit(),
        whitening: None,
    };
    let requests: Vec<GenerateRequest> = problems.iter().map(request).collect();
    let mut groups = vec![Vec::new(); problems.len()];
    job.assignment.model.generate(&requests, stop, &mut |idx, completions| {
        if let Some(slot) = groups.get_mut(idx) {
            *slot = completions.into_iter().map(|completion| completion.tokens).collect();
        }
    })?;
    match groups.iter().find(|group: &&Vec<_>| group.len() != ROLLOUTS_PER_GROUP) {
        None => Ok(groups),
        Some(group) => {
            Err(PipelineError::WrongCount { expected: ROLLOUTS_PER_GROUP, found: group.len() })
        }
    }
}

/// The profile leaves sampling to the miner; a restart mines the same tokens.
fn race_key(job: &Job, problem: &Problem, rollout: usize) -> [u32; 4] {
    let digest = DomainHash::new("v5-sampler")
        .text(&job.randomness)
        .hotkey(&job.hotkey)
        .u32(problem.index)
        .u64(rollout as u64)
        .finish();
    let mut words = digest.0.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
    std::array::from_fn(|_| u32::from_le_bytes(words.next().unwrap_or_default()))
}

/// Returns the rows of a group, or nothing when a completion is too short to be challenged or does
/// not end as validators demand: then the whole group is dropped. Blocks.
pub fn prove(
    job: &Job,
    problem: &Problem,
    completions: &[Vec<TokenId>],
    proof: Proof,
    signer: &dyn Signer,
    stop: &StopFlag,
) -> Result<Option<ProvedGroup>, PipelineError> {
    let Assignment { model, environment, .. } = &*job.assignment;
    if completions.iter().any(|completion| completion.len() < CHALLENGE_K) {
        return Ok(None);
    }
    let sequence = |completion: &Vec<TokenId>| [problem.prompt.as_slice(), completion].concat();
    let requests: Vec<TraceRequest> = completions
        .iter()
        .map(|completion| TraceRequest {
            tokens: sequence(completion),
            prompt_len: problem.prompt.len(),
            warp: None,
        })
        .collect();
    let hidden_size = model.info().hidden_size as usize;
    let (mut rows, mut rewards) = (Vec::new(), Vec::new());
    let mut rest = requests.as_slice();
    while !rest.is_empty() {
        let lengths = rest.iter().map(|request| request.tokens.len());
        let (batch, later) = rest.split_at(batch_len(lengths, hidden_size));
        for (request, trace) in batch.iter().zip(model.trace(batch, stop)?) {
            if !ends_well(job, request, &trace) {
                return Ok(None);
            }
            let text = model.decode_with_special(&request.tokens[request.prompt_len..])?;
            let earned = environment.evaluate_exactly(problem.seed.into(), &text)?;
            rewards.push(earned.reward);
            let commit = commit(job, request, &trace, proof, signer);
            let rollout = RolloutFields {
                total_reward: earned.reward.into(),
                success: earned.success.into(),
                ..commit.rollout
            };
            let index = rows.len();
            rows.push(row(job, problem, index, Commit { rollout, ..commit }, signer));
        }
        rest = later;
    }
    if rows.len() != completions.len() {
        let (expected, found) = (completions.len(), rows.len());
        return Err(PipelineError::WrongCount { expected, found });
    }
    let estimated = advantages(Estimator::Grpo, &rewards);
    for (row, advantage) in rows.iter_mut().zip(estimated) {
        row.commit.rollout.advantage = advantage.into();
    }
    Ok(Some(ProvedGroup { index: problem.index, rows }))
}

fn ends_well(job: &Job, request: &TraceRequest, trace: &Trace) -> bool {
    let completion = &request.tokens[request.prompt_len..];
    let (limit, end) = (job.assignment.token_limit(), job.assignment.model.end_token());
    completion.last().is_some_and(|&last| {
        verify::termination(completion.len(), limit, last, end, trace.end_probability).passed()
    })
}

/// Returns the signed commit of a sequence; what it earned is still missing.
fn commit(
    job: &Job,
    request: &TraceRequest,
    trace: &Trace,
    proof: Proof,
    signer: &dyn Signer,
) -> Commit {
    const OURS: &str = "we wrote the randomness ourselves, in hexadecimal";
    let TraceRequest { tokens, prompt_len, .. } = request;
    let sketches = match proof {
        Proof::Computed => {
            let coefficients = r_vec::from_randomness(&job.randomness).expect(OURS);
            let hidden = job.assignment.model.info().hidden_size as usize;
            sketch::commit(&trace.rows, hidden, &coefficients)
        }
        Proof::Zero => vec![0; tokens.len()],
    };
    let name = &job.assignment.model_name;
    let hash = sketches_hash(&sketches);
    let binding = commit_binding(tokens, &job.randomness, name, LAYER_INDEX, &hash).expect(OURS);
    let zeros = std::iter::repeat_n(0.0, *prompt_len);
    let logprobs = zeros.chain(trace.logprobs.iter().copied().map(f64::from));
    let length = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    Commit {
        tokens: tokens.iter().map(|&token| i32::try_from(token).unwrap_or(i32::MAX)).collect(),
        commitments: JsonText::of_sketches(&sketches),
        proof_version: GRAIL_PROOF_VERSION.into(),
        model_name: name.as_str().into(),
        layer_index: LAYER_INDEX.into(),
        signature: String::from(signer.sign(&binding)).into(),
        beacon: JsonText::new(format!("{{\"randomness\": \"{}\"}}", job.randomness)).expect(OURS),
        rollout: RolloutFields {
            token_logprobs: logprobs.collect(),
            prompt_length: length(*prompt_len).into(),
            completion_length: length(tokens.len() - prompt_len).into(),
            ..RolloutFields::default()
        },
    }
}

fn row(job: &Job, problem: &Problem, index: usize, commit: Commit, signer: &dyn Signer) -> Row {
    let group = i64::from(problem.index);
    let index = i64::try_from(index).unwrap_or(i64::MAX);
    let size = i64::try_from(ROLLOUTS_PER_GROUP).unwrap_or(i64::MAX);
    let nonce = group * size + index;
    let challenge = honest_challenge(&job.window_hash, nonce);
    let start = |window: Window| i64::try_from(window.start().0).unwrap_or(i64::MAX);
    Row {
        window_start: start(job.window).into(),
        block: job.head.into(),
        nonce: nonce.into(),
        block_hash: job.window_hash.as_str().into(),
        randomness: job.randomness.as_str().into(),
        use_drand: true.into(),
        rollout_group: group.into(),
        rollout_index: index.into(),
        total_in_group: size.into(),
        checkpoint_window: start(job.assignment.checkpoint).into(),
        commit,
        timestamp: job.now.into(),
        signature: String::from(signer.sign(challenge.as_bytes())).into(),
        challenge: challenge.into(),
        hotkey: job.hotkey.to_ss58().into(),
    }
}

/// Returns the bytes of the file of these groups.
///
/// # Errors
/// [`PipelineError::Unwritable`].
pub fn seal(job: &Job, groups: Vec<ProvedGroup>) -> Result<Vec<u8>, PipelineError> {
    let rows: Vec<Row> = groups.into_iter().flat_map(|group| group.rows).collect();
    let footer = Footer {
        wallet: job.hotkey.to_ss58(),
        window_start: i64::try_from(job.window.start().0).unwrap_or(i64::MAX),
        window_length: WINDOW_LENGTH,
        inference_count: i64::try_from(rows.len()).unwrap_or(i64::MAX),
        timestamp: job.now,
    };
    let mut bytes = Vec::new();
    grail_parquet::write(&WindowFile { footer, rows }, &mut bytes)
        .map_err(|error| PipelineError::Unwritable(error.to_string()))?;
    Ok(bytes)
}
