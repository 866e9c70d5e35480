//! Honest tokens with a proof that no forward pass made.

use anyhow::Result;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::Digest;
use grail_protocol::rollout::{Group, Proof};
use grail_protocol::sketch::Sketch;

use super::{Maker, Submission};
use crate::lab::rows::ProofForgery;

pub fn make(maker: &mut Maker<'_>, forgery: ProofForgery) -> Result<Submission> {
    let mut work = maker.honest_work()?;
    let earlier = match forgery {
        // A chunk that no row of this size reaches is an earlier window as good as any.
        ProofForgery::Replayed => Some(replayed(maker)?),
        _ => None,
    };
    for (idx, group) in work.groups.iter_mut().enumerate() {
        let real: Vec<Proof> = group.rollouts.iter().map(|rollout| rollout.proof.clone()).collect();
        let forged = (0..real.len()).map(|rollout| match forgery {
            ProofForgery::Constant => filled(&real[rollout], 0),
            ProofForgery::OutOfRange => filled(&real[rollout], u8::MAX),
            ProofForgery::Random => random(&real[rollout], group.index, rollout),
            ProofForgery::Shuffled => shuffled(&real, rollout),
            ProofForgery::Replayed => {
                let old = earlier.as_ref().and_then(|groups| groups.get(idx));
                let old = old.and_then(|old| old.rollouts.get(rollout));
                fitted(&real[rollout], old.map(|old| &old.proof))
            }
        });
        let forged: Vec<Proof> = forged.collect();
        for (rollout, proof) in forged.into_iter().enumerate() {
            // A short answer that two rollouts share has one proof, whoever made it.
            work.cheated[idx][rollout] = proof != real[rollout];
            group.rollouts[rollout].proof = proof;
        }
    }
    Ok(work)
}

/// The window before the lab's first.
fn replayed(maker: &mut Maker<'_>) -> Result<Vec<Group>> {
    const EARLIER: u32 = 1_000_000;
    let mut other = None;
    let earlier = Maker { chunk: EARLIER, other: &mut other, ..*maker };
    Ok(earlier.honest_work()?.groups)
}

fn filled(real: &Proof, byte: u8) -> Proof {
    match real {
        Proof::Exact(_) => Proof::Exact(Digest([byte; 32])),
        Proof::Tolerant(sketches) => {
            Proof::Tolerant(vec![Sketch(u64::from_le_bytes([byte; 8])); sketches.len()])
        }
    }
}

fn random(real: &Proof, group: u32, rollout: usize) -> Proof {
    let draw = |position: usize| {
        let hash = DomainHash::new("lab-random-proof").u32(group);
        hash.u64(rollout as u64).u64(position as u64).finish()
    };
    match real {
        Proof::Exact(_) => Proof::Exact(draw(0)),
        Proof::Tolerant(sketches) => {
            Proof::Tolerant((0..sketches.len()).map(|position| word(draw(position))).collect())
        }
    }
}

fn word(digest: Digest) -> Sketch {
    let (head, _) = digest.0.split_first_chunk().expect("a digest has 32 bytes");
    Sketch(u64::from_le_bytes(*head))
}

/// Digests move to the next rollout; sketches to the next position.
fn shuffled(real: &[Proof], rollout: usize) -> Proof {
    match &real[rollout] {
        Proof::Exact(_) => real[(rollout + 1) % real.len()].clone(),
        Proof::Tolerant(sketches) => {
            let mut moved = sketches.clone();
            let by = moved.len().min(1);
            moved.rotate_left(by);
            Proof::Tolerant(moved)
        }
    }
}

/// The old proof, repeated or cut to the length that this rollout needs.
fn fitted(real: &Proof, old: Option<&Proof>) -> Proof {
    match (real, old) {
        (Proof::Tolerant(real), Some(Proof::Tolerant(old))) if !old.is_empty() => {
            Proof::Tolerant(old.iter().cycle().take(real.len()).copied().collect())
        }
        (_, Some(old)) => old.clone(),
        (real, None) => real.clone(),
    }
}

/// Returns forged v5 sketches for honest ones of a rollout.
pub fn v5_forgery(forgery: ProofForgery, real: &[i64], earlier: &[i64]) -> Vec<i64> {
    /// Spread of real sketches of small models, see the measurements of proof v5.
    const SPREAD: u64 = 1_000;
    match forgery {
        ProofForgery::Constant => vec![0; real.len()],
        ProofForgery::OutOfRange => vec![1_000_000_000_000_000_000; real.len()],
        ProofForgery::Random => (0..real.len())
            .map(|position| {
                let hash = DomainHash::new("lab-random-v5").u64(position as u64).finish();
                let draw = word(hash).0 % (2 * SPREAD);
                i64::try_from(draw).unwrap_or(0) - i64::try_from(SPREAD).unwrap_or(0)
            })
            .collect(),
        ProofForgery::Shuffled => {
            let mut moved = real.to_vec();
            moved.rotate_left(1.min(real.len()));
            moved
        }
        ProofForgery::Replayed => earlier.iter().cycle().take(real.len()).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_proofs_have_the_form_of_real_ones() {
        let tolerant = Proof::Tolerant((0..5).map(Sketch).collect());
        let exact = Proof::Exact(Digest([7; 32]));
        for real in [&tolerant, &exact] {
            let group = [real.clone(), filled(real, 9)];
            for forged in [
                filled(real, 0),
                random(real, 3, 1),
                shuffled(&group, 0),
                fitted(real, Some(&filled(real, 5))),
            ] {
                assert_ne!(&forged, real);
                match (&forged, real) {
                    (Proof::Tolerant(forged), Proof::Tolerant(real)) => {
                        assert_eq!(forged.len(), real.len());
                    }
                    (Proof::Exact(_), Proof::Exact(_)) => {}
                    _ => panic!("another kind of proof"),
                }
            }
        }
        assert_ne!(random(&exact, 0, 0), random(&exact, 0, 1));
    }

    #[test]
    fn forged_v5_sketches_are_as_many() {
        let real = [5, -7, 11];
        for forgery in [
            ProofForgery::Constant,
            ProofForgery::OutOfRange,
            ProofForgery::Random,
            ProofForgery::Shuffled,
            ProofForgery::Replayed,
        ] {
            let forged = v5_forgery(forgery, &real, &[1]);
            assert_eq!(forged.len(), 3);
            assert_ne!(forged, real);
        }
    }
}
