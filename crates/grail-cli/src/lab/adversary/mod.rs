//! Makes the rollouts of a row as its miner would, through the miner's own pipeline.

mod edits;
mod files;
mod grinding;
mod honest;
mod proofs;
mod sampling;

use std::sync::Arc;

use anyhow::{Context, Result};
use grail_ports::model::{Completion, Model, ModelError, RaceCheck, Score, ScoreRequest};
use grail_protocol::constants::NUMERICS_EXACT;
use grail_protocol::ids::{Digest, TokenId};
use grail_protocol::rollout::{FileHeader, Group, Proof};
use grail_protocol::sampler::RaceKey;
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::mining::pipeline::{GroupTask, MiningJob};

pub use files::{ForgedFile, forge_file};
pub use proofs::v5_forgery;

use super::rows::{Act, Profile, Row, Variant};
use super::variants;
use super::world::{World, load};

/// What a miner hands in.
pub struct Submission {
    /// What it says the work is about.
    pub header: FileHeader,
    /// The work.
    pub groups: Vec<Group>,
    /// Whether the cheat changed each rollout, as far as the cheater knows.
    pub cheated: Vec<Vec<bool>>,
    /// Seconds of generation.
    pub seconds: f64,
    /// The model that made it, for profiles that take their proof from a second pass.
    pub model: Arc<dyn Model>,
}

/// One row's miner in one chunk.
pub struct Maker<'a> {
    /// What rows share.
    pub world: &'a World,
    /// The profile to cheat in.
    pub profile: Profile,
    /// The chunk.
    pub chunk: u32,
    /// Groups to make.
    pub groups: u32,
    /// The model that this chunk's miner runs where it is not the published one; kept from chunk to
    /// chunk by the caller.
    pub other: &'a mut Option<Arc<dyn Model>>,
}

impl Maker<'_> {
    /// Makes the rollouts of a row that is judged rollout by rollout.
    pub fn make(&mut self, row: &Row) -> Result<Submission> {
        match row.act {
            Act::Honest(how) => honest::make(self, how),
            Act::Proof(forgery) => proofs::make(self, forgery),
            Act::Weights(variant) => self.with_weights(variant),
            Act::CheapTokens(variant) => self.cheap_tokens(variant),
            Act::Sampling(sampler) => sampling::make(self, sampler),
            Act::Edit(edit) => edits::make(self, edit),
            Act::Grind(variants) => grinding::make(self, variants),
            Act::FalseExact => self.false_exact(),
            Act::Logprobs | Act::File(_) | Act::Documented => self.honest_work(),
        }
    }

    /// Returns the job of the lab's miner with the published weights.
    fn job(&self) -> Result<MiningJob> {
        Ok(self.world.own_job(self.chunk, self.world.engine(self.profile)?))
    }

    /// Returns what an honest miner hands in.
    pub fn honest_work(&self) -> Result<Submission> {
        let mined = self.world.mined(self.profile, self.chunk, self.groups)?;
        let n = self.groups as usize;
        let job = self.job()?;
        let completions = mined.completions.iter().take(n).cloned().collect();
        self.submit(&job, &mined.tasks[..n], completions, mined.seconds)
    }

    /// Claims completions; all of them count as cheated.
    fn submit(
        &self,
        job: &MiningJob,
        tasks: &[GroupTask],
        completions: Vec<Vec<Completion>>,
        seconds: f64,
    ) -> Result<Submission> {
        let groups = self.world.claim(job, tasks, completions)?;
        let cheated = groups.iter().map(|group| vec![true; group.rollouts.len()]).collect();
        let model = job.checkpoint.model.clone();
        Ok(Submission { header: job.header.clone(), groups, cheated, seconds, model })
    }

    /// Mines with a bf16 engine under a header that says exact.
    fn false_exact(&self) -> Result<Submission> {
        let mut job = self.world.own_job(self.chunk, self.world.engine(Profile::Tolerant)?);
        NUMERICS_EXACT.clone_into(&mut job.header.numerics);
        let mined = self.world.mine(&job, self.groups)?;
        self.submit(&job, &mined.tasks, mined.completions, mined.seconds)
    }

    /// Samples with other weights and the legal keys, and proves with the published ones.
    fn cheap_tokens(&mut self, variant: Variant) -> Result<Submission> {
        let cheap = self.other_model(variant)?;
        let mined = self.world.mine(&self.world.own_job(self.chunk, cheap), self.groups)?;
        let job = self.job()?;
        let mut completions = Vec::with_capacity(mined.tasks.len());
        for (task, group) in mined.tasks.iter().zip(mined.completions) {
            let answers = group.into_iter().map(|answer| answer.tokens).enumerate().collect();
            completions.push(proved(self, &job, task, answers)?);
        }
        self.submit(&job, &mined.tasks, completions, mined.seconds)
    }

    /// Returns other weights on this profile's engine.
    fn other_model(&mut self, variant: Variant) -> Result<Arc<dyn Model>> {
        if let Some(model) = &*self.other {
            return Ok(model.clone());
        }
        let dir = variants::folder(self.world, variant)?;
        Ok(self.other.insert(load(self.world.kind(self.profile), &dir)?).clone())
    }

    /// Mines with other weights behind the published digest: keys and header are the legal ones.
    fn with_weights(&mut self, variant: Variant) -> Result<Submission> {
        let model = self.other_model(variant)?;
        let job = self.world.own_job(self.chunk, model);
        let mined = self.world.mine(&job, self.groups)?;
        self.submit(&job, &mined.tasks, mined.completions, mined.seconds)
    }
}

/// Computes proofs for tokens as the answers of rollouts (given by index) of one group, in one pass
/// of the job's model.
fn proved(
    maker: &Maker<'_>,
    job: &MiningJob,
    task: &GroupTask,
    answers: Vec<(usize, Vec<TokenId>)>,
) -> Result<Vec<Completion>> {
    if maker.profile == Profile::V5 {
        // Its proof comes from a pass of its own, later.
        let bare = |(_, tokens)| Completion {
            tokens,
            logprobs: Vec::new(),
            hidden_digest: Digest([0; 32]),
            sketches: Vec::new(),
        };
        return Ok(answers.into_iter().map(bare).collect());
    }
    let LoadedCheckpoint { model, sampler, whitening, .. } = &*job.checkpoint;
    let whitening = match Proof::is_exact(&job.header.numerics) {
        true => None,
        false => whitening.clone(),
    };
    let race = |key: &RaceKey| RaceCheck { key: key.0, temperature: sampler.temperature };
    let requests: Vec<ScoreRequest> = answers
        .iter()
        .map(|(rollout, tokens)| ScoreRequest {
            tokens: [task.prompt.as_slice(), tokens].concat(),
            prompt_len: task.prompt.len(),
            race: task.race_keys.get(*rollout).map(race),
            entropy: false,
            whitening: whitening.clone(),
            rows: false,
        })
        .collect();
    let scores = model.score(&requests, maker.world.stop())?;
    if scores.len() != answers.len() {
        return Err(no_score().into());
    }
    let completion = |((_, tokens), score): ((usize, Vec<TokenId>), Score)| {
        let Score { logprobs, hidden_digest, sketches, .. } = score;
        Completion { tokens, logprobs, hidden_digest, sketches }
    };
    Ok(answers.into_iter().zip(scores).map(completion).collect())
}

fn no_score() -> ModelError {
    ModelError::BadRequest("the model returned no score for one sequence".to_owned())
}

/// Returns the end token that a cheater appends.
fn end_token(model: &dyn Model) -> Result<TokenId> {
    model.info().eos_token_ids.first().copied().context("the model has no end token")
}
