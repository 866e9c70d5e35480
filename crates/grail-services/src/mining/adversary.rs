//! Miners that cheat, through the same public steps as the honest one.
//!
//! They exist to show on a test network that each cheat is caught for its own reason. Nothing here
//! touches a validator or a verdict: a cheater only ever uploads a well-formed, signed file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use grail_ports::chain::Block;
use grail_ports::model::{Completion, ModelError, RaceCheck, Score, ScoreRequest, StopFlag};
use grail_protocol::constants::{ROLLOUT_FILE_BYTES_MAX, WINDOW_BLOCKS};
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{TokenId, Window};
use grail_protocol::rollout::{Body, Group, RawRollouts, RolloutFile, commitment};
use grail_protocol::sampler::RaceKey;
use serde::{Deserialize, Serialize};

use super::ledger::Sealed;
use super::lifecycle::{Next, Profile, Session};
use super::pace::{self, MiningConfig};
use super::pipeline::{self, GroupTask, MiningJob, PipelineError};
use super::service::NativeProfile;
use super::{MiningError, MiningOutcome};
use crate::blocking::blocking;
use crate::checkpoint::LoadedCheckpoint;
use crate::context::{RunContext, opener_of};
use crate::peers::PeerDirectory;
use crate::state;

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cheat {
    /// Samples with randomness of its own; proofs are honest. Caught as `race_lost`.
    FreeSampling,
    /// Generates with other weights. Caught as `hidden_state_mismatch`.
    NoisyWeights,
    /// Writes another answer and recomputes its proof. Caught as `race_lost`.
    EditedAnswer,
    /// Signs the groups of another miner's previous window, the newest that can be read. Caught as
    /// `prompt_mismatch`.
    CopiedFile,
    /// Puts its name and signature around another miner's sealed work of this window, unread.
    /// Caught as `root_mismatch`.
    CopiedSeal,
    /// Claims the full reward for every answer. Caught as `reward_mismatch`.
    ForgedReward,
}

impl Cheat {
    /// All of them, in the order in which a cycling cheater takes them.
    pub const ALL: [Self; 6] = [
        Self::FreeSampling,
        Self::NoisyWeights,
        Self::EditedAnswer,
        Self::CopiedFile,
        Self::CopiedSeal,
        Self::ForgedReward,
    ];

    /// Returns the name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FreeSampling => "free-sampling",
            Self::NoisyWeights => "noisy-weights",
            Self::EditedAnswer => "edited-answer",
            Self::CopiedFile => "copied-file",
            Self::CopiedSeal => "copied-seal",
            Self::ForgedReward => "forged-reward",
        }
    }

    /// Returns the code of the rejection that must follow.
    pub fn expected_rejection(self) -> &'static str {
        match self {
            Self::FreeSampling | Self::EditedAnswer => "race_lost",
            Self::NoisyWeights => "hidden_state_mismatch",
            Self::CopiedFile => "prompt_mismatch",
            Self::CopiedSeal => "root_mismatch",
            Self::ForgedReward => "reward_mismatch",
        }
    }
}

impl fmt::Display for Cheat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no cheat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a cheat; use free-sampling, noisy-weights, edited-answer, copied-file, \
     copied-seal or forged-reward"
)]
pub struct UnknownCheat(pub String);

impl FromStr for Cheat {
    type Err = UnknownCheat;

    fn from_str(text: &str) -> Result<Self, UnknownCheat> {
        let found = Self::ALL.into_iter().find(|cheat| cheat.name() == text);
        found.ok_or_else(|| UnknownCheat(text.to_owned()))
    }
}

/// Copies the checkpoint in the first folder into the second, new one, with other weights.
pub type Perturb = Arc<dyn Fn(&Path, &Path) -> Result<(), String> + Send + Sync>;

/// A miner that cheats in every window.
pub struct Adversary {
    session: Session<NativeProfile>,
    cheats: Vec<Cheat>,
    perturb: Perturb,
    peers: PeerDirectory,
}

impl Adversary {
    /// Makes a cheater that takes `cheats` in turn, window by window.
    ///
    /// # Panics
    /// When `cheats` is empty.
    pub fn new(
        ctx: RunContext,
        config: MiningConfig,
        cheats: Vec<Cheat>,
        perturb: Perturb,
    ) -> Self {
        assert!(!cheats.is_empty(), "a cheater needs a cheat");
        Self {
            session: Session::native(ctx, config),
            cheats,
            perturb,
            peers: PeerDirectory::default(),
        }
    }

    /// Returns the cheat of a window.
    pub fn cheat_of(&self, window: Window) -> Cheat {
        let turn = usize::try_from(window.start().0 / WINDOW_BLOCKS).unwrap_or(0);
        self.cheats[turn % self.cheats.len()]
    }

    /// Mines the window of `head` dishonestly if that was not done yet.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended.
    pub async fn tick(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        let (open, job) = match self.session.open(head).await? {
            Next::Done(outcome) => return Ok(outcome),
            Next::Mine(open, job) => (open, job),
        };
        let stop = self.session.ctx.stop.clone();
        let maker = match self.cheat_of(job.window) {
            Cheat::CopiedFile => {
                return match self.readable_groups(job.window).await? {
                    Some(groups) => self.session.deliver(&open, job, groups, 0.0).await,
                    None => Ok(nothing_to_copy()),
                };
            }
            Cheat::CopiedSeal => {
                return match self.foreign_seal(&job).await? {
                    Some((sealed, bytes)) => self.session.deliver_file(sealed, &bytes).await,
                    None => Ok(nothing_to_copy()),
                };
            }
            Cheat::NoisyWeights => match self.with_noise(&job).await {
                Ok(noisy) => pace::maker(Arc::new(noisy), stop, pipeline::mine),
                Err(reason) => return self.session.skip(job.window, reason),
            },
            Cheat::FreeSampling => pace::maker(job.clone(), stop, sample_freely),
            Cheat::EditedAnswer => pace::maker(job.clone(), stop, edit_answers),
            Cheat::ForgedReward => pace::maker(job.clone(), stop, forge_rewards),
        };
        self.session.fill(&open, job, maker).await
    }

    /// Returns the job with other weights behind the same names; they are gone after the window.
    async fn with_noise(&self, job: &MiningJob) -> Result<MiningJob, String> {
        let folder = self.session.ctx.state_dir.join("perturbed");
        let (perturb, models) = (self.perturb.clone(), self.session.ctx.models.clone());
        let source = job.checkpoint.dir.clone();
        let model = blocking(move || {
            state::remove_folder(&folder).map_err(|error| error.to_string())?;
            perturb(&source, &folder)?;
            models.load(&folder).map_err(|error| error.to_string())
        })
        .await?;
        let checkpoint = LoadedCheckpoint { model, ..(*job.checkpoint).clone() };
        Ok(MiningJob { checkpoint: Arc::new(checkpoint), ..job.clone() })
    }

    /// Returns the groups of the first peer that uploaded in the window before `window`: those of
    /// `window` itself open after its deadline.
    async fn readable_groups(&mut self, window: Window) -> Result<Option<Vec<Group>>, MiningError> {
        let (chain, beacon) = (self.session.ctx.chain.clone(), self.session.ctx.beacon.clone());
        let Some(previous) = window.previous() else { return Ok(None) };
        let Some(opener) = opener_of(&*chain, &*beacon, previous).await? else { return Ok(None) };
        let read = move |bytes: Bytes| {
            let file = RawRollouts::new(&bytes).and_then(RawRollouts::decode).ok()?;
            let file = file.verify_signature().ok()?.open(Some(&opener)).ok()?;
            Some(file.groups().to_vec()).filter(|groups| !groups.is_empty())
        };
        first_of_peers(&self.session, &mut self.peers, previous, read).await
    }

    /// Returns the sealed body and the root of the first peer that has uploaded in the window of
    /// `job`, under our header and signature.
    async fn foreign_seal(
        &mut self,
        job: &MiningJob,
    ) -> Result<Option<(Sealed, Vec<u8>)>, MiningError> {
        let read = |bytes: Bytes| {
            let file = RolloutFile::decode(&bytes).ok()?;
            matches!(file.body, Body::Sealed(_)).then_some(file)
        };
        let found = first_of_peers(&self.session, &mut self.peers, job.window, read).await?;
        let Some(file) = found else { return Ok(None) };
        let signature = self.session.ctx.signer.sign(&commitment::signed_message(&file.root));
        let file = RolloutFile { header: job.header.clone(), signature, ..file };
        let bytes = file.encode().map_err(|error| PipelineError::Prover(error.into()))?;
        // Nobody can count what is inside.
        let sealed = Sealed {
            window: job.window,
            groups: 0,
            rollouts: 0,
            tokens: 0,
            seconds: 0.0,
            drawn_from: None,
        };
        Ok(Some((sealed, bytes)))
    }
}

/// Returns what `read` finds in the file of the first peer that has uploaded something for `window`
/// in which it finds anything.
pub(crate) async fn first_of_peers<P: Profile, T: Send + 'static>(
    session: &Session<P>,
    peers: &mut PeerDirectory,
    window: Window,
    read: impl Fn(Bytes) -> Option<T> + Send + Sync + 'static,
) -> Result<Option<T>, MiningError> {
    let (ctx, read) = (&session.ctx, Arc::new(read));
    peers.refresh(&*ctx.chain).await?;
    let metagraph = ctx.chain.metagraph().await?;
    for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != ctx.hotkey()) {
        let Some(bucket) = peers.bucket(&*ctx.buckets, neuron.hotkey) else { continue };
        let key = P::key(neuron.hotkey, window);
        let Ok(Some(bytes)) = bucket.get(&key, ROLLOUT_FILE_BYTES_MAX).await else { continue };
        let read = read.clone();
        let found = blocking(move || read(bytes)).await;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

pub(crate) fn nothing_to_copy() -> MiningOutcome {
    MiningOutcome::Waiting("nobody uploaded a file to copy yet".to_owned())
}

/// Races with keys of its own choice; everything else is honest.
fn sample_freely(
    job: &MiningJob,
    first: u32,
    count: u32,
    stop: &StopFlag,
) -> Result<Vec<Group>, PipelineError> {
    let mut tasks = plans(job, first, count)?;
    for key in tasks.iter_mut().flat_map(|task| &mut task.race_keys) {
        *key = own_key(*key);
    }
    let completed = pipeline::complete(job, &tasks, stop)?;
    tasks.iter().zip(completed).map(|(task, answers)| pipeline::claim(job, task, answers)).collect()
}

fn own_key(key: RaceKey) -> RaceKey {
    let hash = key.0.iter().fold(DomainHash::new("cheat-own-key"), |hash, word| hash.u32(*word));
    let mut words = key.0;
    for (word, bytes) in words.iter_mut().zip(hash.finish().0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    RaceKey(words)
}

/// Writes the right answer into every rollout, or another one where it was right, and computes an
/// honest proof for the text.
fn edit_answers(
    job: &MiningJob,
    first: u32,
    count: u32,
    stop: &StopFlag,
) -> Result<Vec<Group>, PipelineError> {
    let tasks = plans(job, first, count)?;
    let mut groups = Vec::with_capacity(tasks.len());
    for (task, mut answers) in tasks.iter().zip(pipeline::complete(job, &tasks, stop)?) {
        for (answer, &key) in answers.iter_mut().zip(&task.race_keys) {
            if let Some(tokens) = other_answer(job, task, &answer.tokens)? {
                *answer = proved(job, task, key, tokens, stop)?;
            }
        }
        groups.push(pipeline::claim(job, task, answers)?);
    }
    Ok(groups)
}

/// Returns the tokens of the right answer, or of a neighbour's where `tokens` say the same already.
fn other_answer(
    job: &MiningJob,
    task: &GroupTask,
    tokens: &[TokenId],
) -> Result<Option<Vec<TokenId>>, PipelineError> {
    const NEIGHBOURS: u64 = 64;
    let LoadedCheckpoint { model, environment, sampler, .. } = &*job.checkpoint;
    let limit = usize::try_from(sampler.max_new_tokens).unwrap_or(usize::MAX);
    for neighbour in 0..NEIGHBOURS {
        let Some(text) = environment.solve(task.seed.wrapping_add(neighbour)) else {
            continue;
        };
        let mut edited = model.encode(&text)?;
        edited.extend(model.info().eos_token_ids.first());
        edited.truncate(limit);
        if edited != tokens {
            return Ok(Some(edited));
        }
    }
    Ok(None)
}

fn proved(
    job: &MiningJob,
    task: &GroupTask,
    key: RaceKey,
    tokens: Vec<TokenId>,
    stop: &StopFlag,
) -> Result<Completion, PipelineError> {
    let request = ScoreRequest {
        tokens: [task.prompt.as_slice(), &tokens].concat(),
        prompt_len: task.prompt.len(),
        race: Some(RaceCheck { key: key.0, temperature: job.checkpoint.sampler.temperature }),
        entropy: false,
        // Sketches where an honest rollout has them.
        whitening: pipeline::request(job, task).whitening,
        rows: false,
    };
    let scores = job.checkpoint.model.score(&[request], stop)?;
    let score = scores.into_iter().next().ok_or_else(|| {
        ModelError::BadRequest("the model returned no score for one sequence".to_owned())
    })?;
    let Score { logprobs, hidden_digest, sketches, .. } = score;
    Ok(Completion { tokens, logprobs, hidden_digest, sketches })
}

/// Mines honestly, then claims the full reward for everything.
fn forge_rewards(
    job: &MiningJob,
    first: u32,
    count: u32,
    stop: &StopFlag,
) -> Result<Vec<Group>, PipelineError> {
    let environment = &job.checkpoint.environment;
    let mut groups = pipeline::mine(job, first, count, stop)?;
    for group in &mut groups {
        let seed = pipeline::plan(job, group.index)?.seed;
        let full = match environment.solve(seed) {
            Some(answer) => environment.evaluate(seed, &answer)?.reward,
            None => 1.0,
        };
        let nothing_to_gain = group.rollouts.iter().all(|r| r.success && r.reward >= full);
        for rollout in &mut group.rollouts {
            // A group that earned everything honestly asks for more.
            rollout.reward = if nothing_to_gain { full + 1.0 } else { full };
            rollout.success = true;
        }
    }
    Ok(groups)
}

fn plans(job: &MiningJob, first: u32, count: u32) -> Result<Vec<GroupTask>, PipelineError> {
    (first..first.saturating_add(count)).map(|group| pipeline::plan(job, group)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheats_are_named_as_on_the_command_line() {
        for cheat in Cheat::ALL {
            assert_eq!(cheat.to_string().parse(), Ok(cheat));
            assert_eq!(serde_json::to_value(cheat).unwrap(), cheat.name());
        }
        let error = "bribery".parse::<Cheat>().unwrap_err();
        assert!(error.to_string().contains("free-sampling"), "{error}");
    }

    #[test]
    fn a_cheaters_own_key_is_another_one() {
        let key = RaceKey([1, 2, 3, 4]);
        assert_ne!(own_key(key), key);
        assert_ne!(own_key(key), own_key(RaceKey([1, 2, 3, 5])));
    }
}
