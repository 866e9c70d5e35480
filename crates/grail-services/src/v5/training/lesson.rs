//! What a trainer of the reference's profile learns from: the files of trusted miners, as claimed.
//!
//! A trust list names miners without a recent failure; it vouches for no rollout, and rewards and
//! log-probabilities are the miners' own words. Rows that would stop the trainer are left out here,
//! and groups are kept apart by miner. Source: spec `trainer.md`, data.

use grail_parquet::{Limits, RowReader};
use grail_ports::chain::{Metagraph, Neuron};
use grail_ports::model::{ModelInfo, TrainingSequence};
use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{Hotkey, TokenId, Window};
use grail_protocol::v5::file::{Row, object_key};
use grail_protocol::v5::trust::{
    BadTrustList, TRUST_LIST_BYTES_MAX, TrustList, trust_list_key, windows_to_ask,
};
use tracing::{debug, warn};

use super::super::fetch::{Download, download};
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::math::mean;
use crate::peers::PeerDirectory;
use crate::training::TrainingError;
use crate::training::groups::{
    ClaimedGroup, ClaimedRollout, ClaimedRow, GroupFilter, GroupKey, group_rows,
};
use crate::training::pipeline::{StepsConfig, TrainingGroup};
use crate::training::profile::Lesson;
use crate::training::trust::{best_earning, deciding_validator};
use crate::validation::discovery::Candidate;

/// Miners that are trusted where no validator publishes a list.
const TRUSTED_WITHOUT_LIST: usize = 1;

/// Miners whose files of one window are read.
const FILES_MAX: usize = 64;

/// Returns the rollouts of `window`, or nothing when no trusted miner has a file that can be read.
///
/// - `model`: what the rollouts must fit.
///
/// # Errors
/// When the chain or the validator's bucket fails; a miner's bucket that fails is left out.
pub async fn lesson(
    ctx: &RunContext,
    peers: &PeerDirectory,
    window: Window,
    model: &ModelInfo,
    steps: &StepsConfig,
) -> Result<Option<Lesson>, TrainingError> {
    let metagraph = ctx.chain.metagraph().await?;
    let mut miners = trusted(ctx, peers, &metagraph, window).await?;
    if miners.len() > FILES_MAX {
        warn!(%window, left_out = miners.len() - FILES_MAX, "more trusted miners than are read");
        miners.truncate(FILES_MAX);
    }
    let filter = GroupFilter {
        groups_max: usize::try_from(steps.groups_max).unwrap_or(usize::MAX),
        ..GroupFilter::default()
    };
    let (mut groups, mut rewards, mut n_files) = (Vec::new(), Vec::new(), 0);
    for hotkey in miners {
        let Some(bucket) = peers.bucket(&*ctx.buckets, hotkey) else { continue };
        let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
        let key = object_key(&hotkey.to_ss58(), start);
        let Some(&Neuron { uid, .. }) = metagraph.neuron(hotkey) else { continue };
        let candidate = Candidate { uid, hotkey, bucket, key };
        // The reference looks at no deadline here, so late work is learnt from too.
        let bytes = match download(&candidate, None).await {
            Download::File(bytes, _) => bytes,
            Download::Absent => continue,
            Download::Unknown(reason) => {
                warn!(%hotkey, reason, "left out a trusted miner's file");
                continue;
            }
        };
        ctx.heartbeat.beat();
        let (estimator, model) = (steps.estimator, model.clone());
        let read = move || {
            let reader = RowReader::open(bytes, &Limits::default())?;
            let rows = reader.map(|row| row.map(|row| claimed(hotkey, row, &model)));
            let rows: Vec<ClaimedRow> = rows.collect::<Result<_, _>>()?;
            let rewards = rows.iter().flat_map(|row| &row.rollout).map(|it| it.reward);
            let reward_mean = mean(rewards.filter(|reward| reward.is_finite()));
            let mut groups = group_rows(rows, GroupKey::HotkeyAndGroup);
            groups.iter_mut().for_each(|group| group.estimate(estimator));
            // No more of one miner's groups than are used at all, so that memory is bounded.
            Ok::<_, grail_parquet::ReadError>((filter.apply(groups), reward_mean))
        };
        match blocking(read).await {
            Ok((of_miner, reward_mean)) => {
                n_files += 1;
                groups.extend(of_miner);
                rewards.push(reward_mean);
            }
            Err(error) => debug!(%hotkey, %error, "left out a trusted miner's file"),
        }
    }
    if n_files == 0 {
        return Ok(None);
    }
    let groups = filter.apply(groups).into_iter().map(training_group).collect();
    Ok(Some(Lesson { window, groups, reward_mean: mean(rewards) }))
}

/// Returns the miners that are trusted for `window`: those of the trust list of the validator with
/// the most stake, else those that earn most.
async fn trusted(
    ctx: &RunContext,
    peers: &PeerDirectory,
    metagraph: &Metagraph,
    window: Window,
) -> Result<Vec<Hotkey>, TrainingError> {
    if let Some(list) = trust_list(ctx, peers, metagraph, window).await?
        && !list.eligible_hotkeys.is_empty()
    {
        return Ok(list.eligible_hotkeys.iter().filter_map(|name| name.parse().ok()).collect());
    }
    let incentives: Vec<f64> = metagraph.neurons.iter().map(|neuron| neuron.incentive).collect();
    let best = best_earning(&incentives, TRUSTED_WITHOUT_LIST);
    Ok(best.into_iter().map(|place| metagraph.neurons[place].hotkey).collect())
}

async fn trust_list(
    ctx: &RunContext,
    peers: &PeerDirectory,
    metagraph: &Metagraph,
    window: Window,
) -> Result<Option<TrustList>, TrainingError> {
    let permits: Vec<bool> = metagraph.neurons.iter().map(|it| it.validator_permit).collect();
    let stakes: Vec<f64> = metagraph.neurons.iter().map(|it| it.stake as f64).collect();
    let Some(place) = deciding_validator(&permits, &stakes) else { return Ok(None) };
    let Neuron { hotkey, .. } = metagraph.neurons[place];
    let Some(bucket) = peers.bucket(&*ctx.buckets, hotkey) else { return Ok(None) };
    for start in windows_to_ask(window.start().0, WINDOW_BLOCKS) {
        let Some(bytes) = bucket.get(&trust_list_key(start), TRUST_LIST_BYTES_MAX).await? else {
            continue;
        };
        let parsed = std::str::from_utf8(&bytes).map_err(|_| BadTrustList::Hotkeys);
        // The first list that is there decides, usable or not.
        return Ok(match parsed.and_then(TrustList::parse) {
            Ok(list) => Some(list),
            Err(error) => {
                warn!(validator = %hotkey, window = start, %error, "a trust list that cannot be used");
                None
            }
        });
    }
    Ok(None)
}

/// Returns what a row claims; nothing of it is checked but that it can be trained on.
fn claimed(hotkey: Hotkey, row: Row, model: &ModelInfo) -> ClaimedRow {
    let group = row.rollout_group.to_text();
    ClaimedRow { hotkey: hotkey.to_ss58(), group, rollout: rollout(row, model) }
}

fn rollout(row: Row, model: &ModelInfo) -> Option<ClaimedRollout> {
    let claims = row.commit.rollout;
    let prompt_length = claims.prompt_length.as_integer()?;
    let completion_length = claims.completion_length.as_integer()?;
    let tokens: Vec<TokenId> = row
        .commit
        .tokens
        .iter()
        .map(|&token| TokenId::try_from(token).ok().filter(|&token| token < model.vocab_size))
        .collect::<Option<_>>()?;
    let length = prompt_length.checked_add(completion_length)?;
    let is_whole = prompt_length >= 1
        && completion_length >= 1
        && usize::try_from(length) == Ok(tokens.len())
        && tokens.len() <= model.max_position_embeddings as usize;
    is_whole.then(|| ClaimedRollout {
        nonce: row.nonce.as_integer().unwrap_or_default(),
        tokens,
        prompt_length,
        completion_length,
        reward: claims.total_reward.as_float().unwrap_or(f64::NAN),
        advantage: claims.advantage.as_float().unwrap_or(f64::NAN),
        success: claims.success.as_bool() == Some(true),
        logprobs: Some(claims.token_logprobs),
    })
}

fn training_group(group: ClaimedGroup) -> TrainingGroup {
    let mut training = TrainingGroup {
        sequences: Vec::new(),
        behaviour: Vec::new(),
        reference: Vec::new(),
        advantages: Vec::new(),
    };
    for rollout in group.rollouts {
        let length = |length: i64| usize::try_from(length).unwrap_or_default();
        let prompt_len = length(rollout.prompt_length);
        let completion_len = length(rollout.completion_length);
        let logprobs = rollout.logprobs.unwrap_or_default();
        let of_completion = match logprobs.get(prompt_len..prompt_len + completion_len) {
            Some(of_completion) => of_completion,
            None => &logprobs[..completion_len.min(logprobs.len())],
        };
        training.behaviour.push(of_completion.iter().map(|&logprob| logprob as f32).collect());
        training.advantages.push(rollout.advantage);
        training.sequences.push(TrainingSequence { tokens: rollout.tokens, prompt_len });
    }
    training
}
