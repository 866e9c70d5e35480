//! Forged files: whatever a miner can do to the bytes around its tokens.

use anyhow::Result;
use grail_ports::signer::Signer;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::randomness::WindowRandomness;
use grail_protocol::rollout::encoding::encode_groups;
use grail_protocol::rollout::{
    Body, FileHeader, Group, Proof, Rollout, RolloutFile, SealedBody, commitment,
};
use grail_protocol::sketch::{Sketch, sketches_of};
use grail_protocol::timelock::{self, SealTo};
use grail_services::mining::pipeline::{self, MiningJob};

use super::{Maker, end_token};
use crate::lab::rows::FileForgery;
use crate::lab::world::World;

/// Chunk whose problems a cheater would rather answer.
const OTHER_PROBLEMS: u32 = 2_000_000;
/// A reward whose bytes are found and replaced, since no encoder writes NaN.
const MARKER: f32 = 12_345.678;

/// The bytes of a forged file, and where they are found.
pub struct ForgedFile {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Owner of the bucket.
    pub owner: Hotkey,
    /// Window that the file is found in.
    pub window: Window,
    /// Completion tokens of each rollout in the file, as its maker meant them.
    pub tokens: Vec<u32>,
}

/// Makes the file of a row.
pub fn forge_file(maker: &mut Maker<'_>, forgery: FileForgery) -> Result<ForgedFile> {
    let world = maker.world;
    let (own, rival) = world.wallets();
    let job = maker.job()?;
    let mut header = job.header.clone();
    let mut groups = match forgery {
        FileForgery::WrongPrompt => elsewhere(maker, &world.window_job(&job, OTHER_PROBLEMS))?,
        FileForgery::Beacon => elsewhere(maker, &with_own_randomness(&job))?,
        FileForgery::CopiedGroups | FileForgery::CopiedSeal => {
            elsewhere(maker, &rival_job(world, &job))?
        }
        _ => maker.honest_work()?.groups,
    };
    change(&mut groups, &mut header, forgery, maker, &job)?;
    let tokens = groups.iter().flat_map(|group| &group.rollouts).map(tokens_of).collect();
    let bytes = match forgery {
        FileForgery::Hotkey => {
            header.hotkey = rival.hotkey();
            pipeline::seal(header, groups, job.seal, &**rival)?
        }
        FileForgery::Signature => pipeline::seal(header, groups, job.seal, &**rival)?,
        FileForgery::WrongRound => {
            let later = SealTo { round: job.seal.round + 1, ..job.seal };
            pipeline::seal(header, groups, later, &**own)?
        }
        FileForgery::OpenBody => {
            let root = commitment::root(&header, &groups);
            let signature = own.sign(&commitment::signed_message(&root));
            RolloutFile { root, signature, header, body: Body::Open(groups) }.encode()?
        }
        FileForgery::CopiedSeal => copied_seal(world, &job, groups)?,
        FileForgery::ChangedAfterSigning => {
            let signed = commitment::root(&header, &groups);
            for rollout in all(&mut groups) {
                rollout.reward += 1.0;
            }
            let content = encode_groups(&header.numerics, &groups)?;
            assemble(world, &job, header, signed, content)?
        }
        FileForgery::RewardNotFinite => {
            let mut content = encode_groups(&header.numerics, &groups)?;
            replace(&mut content, MARKER, f32::NAN);
            let root = commitment::root(&header, &groups);
            assemble(world, &job, header, root, content)?
        }
        _ => pipeline::seal(header, groups, job.seal, &**own)?,
    };
    let bytes = damaged(bytes, forgery);
    Ok(ForgedFile { bytes, owner: own.hotkey(), window: World::window(maker.chunk), tokens })
}

/// Mines honestly for another job than the file will say.
fn elsewhere(maker: &Maker<'_>, job: &MiningJob) -> Result<Vec<Group>> {
    let mined = maker.world.mine(job, maker.groups)?;
    maker.world.claim(job, &mined.tasks, mined.completions)
}

fn with_own_randomness(job: &MiningJob) -> MiningJob {
    let own = DomainHash::new("lab-own-beacon").digest(&job.randomness.0).finish();
    MiningJob { randomness: WindowRandomness(own), ..job.clone() }
}

fn rival_job(world: &World, job: &MiningJob) -> MiningJob {
    world.job(job.window, world.wallets().1.hotkey(), job.checkpoint.model.clone())
}

/// Seals any content behind a root that the miner signs.
fn assemble(
    world: &World,
    job: &MiningJob,
    header: FileHeader,
    root: grail_protocol::ids::Digest,
    content: Vec<u8>,
) -> Result<Vec<u8>> {
    let signature = world.wallets().0.sign(&commitment::signed_message(&root));
    let entropy = DomainHash::new("lab-seal").digest(&root).finish();
    let ciphertext = timelock::seal(job.seal, content, &entropy.0)?;
    let body = Body::Sealed(SealedBody { round: job.seal.round, ciphertext });
    Ok(RolloutFile { root, signature, header, body }.encode()?)
}

/// Takes root and sealed body of a rival's file, which it cannot read, and signs the root itself.
fn copied_seal(world: &World, job: &MiningJob, groups: Vec<Group>) -> Result<Vec<u8>> {
    let (own, rival) = world.wallets();
    let theirs = rival_job(world, job).header;
    let file = RolloutFile::decode(&pipeline::seal(theirs, groups, job.seal, &**rival)?)?;
    let signature = own.sign(&commitment::signed_message(&file.root));
    Ok(RolloutFile { signature, header: job.header.clone(), ..file }.encode()?)
}

/// Changes groups and header before they are signed.
fn change(
    groups: &mut Vec<Group>,
    header: &mut FileHeader,
    forgery: FileForgery,
    maker: &Maker<'_>,
    job: &MiningJob,
) -> Result<()> {
    let limit = usize::try_from(header.sampler.max_new_tokens)?;
    let end = end_token(&*job.checkpoint.model)?;
    let is_end = |token: &u32| job.checkpoint.model.info().eos_token_ids.contains(token);
    match forgery {
        FileForgery::Truncated => {
            for rollout in all(groups) {
                let kept = (rollout.tokens.len() / 2).max(1);
                resize(rollout, kept, end);
                // A single end token is a whole completion: another token takes its place.
                let first = u32::from(is_end(&0));
                rollout.tokens.iter_mut().filter(|token| is_end(token)).for_each(|it| *it = first);
            }
        }
        FileForgery::Padded => {
            for rollout in all(groups) {
                let ends = rollout.tokens.last().is_some_and(is_end);
                let padded = if ends && rollout.tokens.len() < limit { limit } else { limit + 1 };
                resize(rollout, padded, end);
            }
        }
        FileForgery::SkippedGroup => {
            if groups.len() > 1 {
                groups.remove(0);
            } else {
                groups.iter_mut().for_each(|group| group.index += 1);
            }
        }
        FileForgery::SkippedRollout => {
            for group in groups {
                group.rollouts.pop();
            }
        }
        FileForgery::Reward => claim_everything(groups, maker, job)?,
        FileForgery::Success => all(groups).for_each(|rollout| rollout.success = !rollout.success),
        FileForgery::RewardNotFinite => all(groups).for_each(|rollout| rollout.reward = MARKER),
        FileForgery::Window => header.window = header.window.next(),
        _ => {}
    }
    Ok(())
}

/// Claims the full reward for everything; what earned it honestly asks for more.
fn claim_everything(groups: &mut [Group], maker: &Maker<'_>, job: &MiningJob) -> Result<()> {
    let environment = &job.checkpoint.environment;
    for (group, task) in groups.iter_mut().zip(maker.world.plans(job, maker.groups)?) {
        let full = match environment.solve(task.seed) {
            Some(answer) => environment.evaluate(task.seed, &answer)?.reward,
            None => 1.0,
        };
        for rollout in &mut group.rollouts {
            rollout.reward = if rollout.reward >= full { full + 1.0 } else { full };
        }
    }
    Ok(())
}

/// Changes bytes after everything was signed and sealed.
fn damaged(mut bytes: Vec<u8>, forgery: FileForgery) -> Vec<u8> {
    match forgery {
        FileForgery::Garbage => bytes.truncate(bytes.len() / 2),
        FileForgery::BrokenSeal => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
    bytes
}

/// Puts the bytes of `with` wherever those of `what` are.
fn replace(content: &mut [u8], what: f32, with: f32) {
    let (what, with) = (what.to_le_bytes(), with.to_le_bytes());
    let places: Vec<usize> = content
        .windows(what.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == what)
        .map(|(place, _)| place)
        .collect();
    for place in places {
        content[place..place + with.len()].copy_from_slice(&with);
    }
}

fn all(groups: &mut [Group]) -> impl Iterator<Item = &mut Rollout> {
    groups.iter_mut().flat_map(|group| &mut group.rollouts)
}

/// Cuts or extends a completion and keeps its proof in form.
fn resize(rollout: &mut Rollout, tokens: usize, filler: u32) {
    rollout.tokens.resize(tokens, filler);
    if let Proof::Tolerant(sketches) = &mut rollout.proof {
        sketches.resize(sketches_of(tokens), Sketch(0));
    }
}

fn tokens_of(rollout: &Rollout) -> u32 {
    u32::try_from(rollout.tokens.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_replaced_wherever_they_are() {
        let mut content =
            [&[1][..], &MARKER.to_le_bytes(), &[2, 3], &MARKER.to_le_bytes()].concat();
        replace(&mut content, MARKER, 0.0);
        assert_eq!(content, [1, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0]);
    }
}
