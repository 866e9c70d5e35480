//! Publishes what a validator found: a verdict per miner, and the rollouts that the trainer may use.

use bytes::Bytes;
use grail_ports::object_store::ObjectStore;
use grail_ports::signer::Signer;
use grail_protocol::constants::{GROUPS_PER_VALIDATED_FILE_MAX, VALIDATED_FILE_BYTES_MAX};
use grail_protocol::ids::Hotkey;
use grail_protocol::keys;
use grail_protocol::validated::{ValidatedFile, ValidatedGroup};
use grail_protocol::verdict::{RaceEvidence, Standing, VERDICT_VERSION, VerdictRecord};
use tracing::warn;

use super::ValidationError;
use super::evidence::EvidenceSummary;
use super::examine::LostRace;
use super::pipeline::{Bench, Judgement};

/// Bytes of the file that are not groups, generously.
const FRAME_BYTES: u64 = 4096;
/// Bytes of a group and of a rollout that are not tokens, generously.
const GROUP_BYTES: u64 = 64;
const ROLLOUT_BYTES: u64 = 16;
/// Bytes of a token with its log-probability.
const TOKEN_BYTES: u64 = 8;

/// Returns the verdict on a miner, with what all its windows add up to where that is known.
pub fn verdict(
    bench: &Bench,
    validator: Hotkey,
    hotkey: Hotkey,
    judgement: &Judgement,
    standing: Option<EvidenceSummary>,
) -> VerdictRecord {
    let reason = judgement.rejection.as_ref();
    let race = |lost: LostRace| RaceEvidence {
        position: lost.position,
        claimed: lost.claimed,
        winner: lost.winner,
        margin: lost.margin,
    };
    let checks = judgement.checks.iter();
    VerdictRecord {
        version: VERDICT_VERSION,
        window: bench.window,
        hotkey,
        validator,
        groups: judgement.groups,
        rollouts: judgement.rollouts,
        checked: judgement.checked,
        accepted: judgement.accepted,
        rejected: reason
            .map(|found| (found.code().to_owned(), judgement.checked))
            .into_iter()
            .collect(),
        unverified: judgement.unverified,
        evidence: reason.map(ToString::to_string),
        race: judgement.lost.map(race),
        profile: judgement.profile.as_str().to_owned(),
        calibration: judgement.calibration,
        checks: checks.map(|(check, tally)| ((*check).to_owned(), *tally)).collect(),
        standing: standing.map(standing_of),
    }
}

fn standing_of(summary: EvidenceSummary) -> Standing {
    let EvidenceSummary { wealth_log10, bound_log10, ejected_until, life } = summary;
    Standing { wealth_log10, bound_log10, ejected_until, life }
}

/// Publishes a verdict, replacing the one of an earlier attempt.
pub async fn publish_verdict(
    bucket: &dyn ObjectStore,
    verdict: &VerdictRecord,
) -> Result<(), ValidationError> {
    let key = keys::verdict(verdict.window, verdict.hotkey);
    Ok(bucket.put(&key, Bytes::from(verdict.to_json())).await?)
}

/// Returns the signed bytes of the validated rollouts: groups in order, as many as a file holds.
pub fn seal_validated(
    bench: &Bench,
    mut groups: Vec<ValidatedGroup>,
    signer: &dyn Signer,
) -> Result<Vec<u8>, ValidationError> {
    groups.sort_by_key(|group| (group.hotkey, group.index));
    let fitting = fitting(&groups);
    if fitting < groups.len() {
        let left_out = groups.len() - fitting;
        warn!(left_out, "more validated groups than a file holds");
        groups.truncate(fitting);
    }
    let file = ValidatedFile {
        network: bench.network.clone(),
        netuid: bench.netuid,
        window: bench.window,
        validator: signer.hotkey(),
        checkpoint: bench.checkpoint.digest(),
        groups,
    };
    Ok(file.seal(&|message| signer.sign(message))?)
}

/// Returns how many of `groups`, from the first on, a file can hold.
fn fitting(groups: &[ValidatedGroup]) -> usize {
    let count_max = usize::try_from(GROUPS_PER_VALIDATED_FILE_MAX).unwrap_or(usize::MAX);
    let mut bytes = FRAME_BYTES;
    let fits = |group: &&ValidatedGroup| {
        bytes = bytes.saturating_add(size_of_group(group));
        bytes <= VALIDATED_FILE_BYTES_MAX
    };
    groups.iter().take(count_max).take_while(fits).count()
}

fn size_of_group(group: &ValidatedGroup) -> u64 {
    let tokens = |n: usize| u64::try_from(n).unwrap_or(u64::MAX).saturating_mul(TOKEN_BYTES);
    let rollouts = group.rollouts.iter();
    rollouts
        .map(|rollout| ROLLOUT_BYTES.saturating_add(tokens(rollout.tokens.len())))
        .fold(GROUP_BYTES.saturating_add(tokens(group.prompt.len())), u64::saturating_add)
}
