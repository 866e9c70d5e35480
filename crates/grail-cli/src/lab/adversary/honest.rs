//! Miners that follow the rules on engines that are set up in other ways.

use std::sync::Arc;

use anyhow::{Context, Result};
use grail_kernels::Isa;
use grail_ports::model::Model;

use super::{Maker, Submission, proved};
use crate::lab::rows::Honest;
use crate::lab::world::{EngineKind, load};

/// Sequences decoded at once by the miner with small batches.
const SMALL_BATCH: usize = 3;
/// Rollouts whose proofs the portable kernels make: they are about a hundred times slower.
const PORTABLE_ROLLOUTS: usize = 2;

pub fn make(maker: &mut Maker<'_>, how: Honest) -> Result<Submission> {
    let usual = maker.world.kind(maker.profile);
    let kind = match how {
        Honest::Decode => return maker.honest_work(),
        Honest::Prefill => return with_proofs_of(maker, usual, usize::MAX),
        Honest::Portable => {
            let kind = EngineKind { isa: Some(Isa::Portable), ..usual };
            return with_proofs_of(maker, kind, PORTABLE_ROLLOUTS);
        }
        Honest::BatchSize => EngineKind { running: SMALL_BATCH, ..usual },
        Honest::Threads => EngineKind { threads: if usual.threads == 1 { 2 } else { 1 }, ..usual },
        Honest::InstructionSet => EngineKind { isa: Some(other_isa()), ..usual },
    };
    let job = maker.world.own_job(maker.chunk, engine(maker, kind)?);
    let mined = maker.world.mine(&job, maker.groups)?;
    maker.submit(&job, &mined.tasks, mined.completions, mined.seconds)
}

/// The second fastest instruction set; the only one where there is no second.
fn other_isa() -> Isa {
    let available = Isa::available();
    let vector = available.iter().rev().filter(|isa| **isa != Isa::Portable).nth(1);
    vector.or(available.last()).copied().unwrap_or(Isa::Portable)
}

fn engine(maker: &mut Maker<'_>, kind: EngineKind) -> Result<Arc<dyn Model>> {
    if let Some(model) = &*maker.other {
        return Ok(model.clone());
    }
    Ok(maker.other.insert(load(kind, &maker.world.parts().base)?).clone())
}

/// Decodes as usual, and takes the proofs of the first `rollouts` rollouts from one pass of an
/// engine of `kind`; the others do not count.
fn with_proofs_of(maker: &mut Maker<'_>, kind: EngineKind, rollouts: usize) -> Result<Submission> {
    let mined = maker.world.mined(maker.profile, maker.chunk, maker.groups)?;
    let job = maker.world.own_job(maker.chunk, engine(maker, kind)?);
    let mut left = rollouts;
    let (mut completions, mut cheated) = (Vec::new(), Vec::new());
    for (task, answers) in mined.tasks.iter().zip(&mined.completions).take(maker.groups as usize) {
        let mut group = answers.clone();
        let n = left.min(group.len());
        let again = group.iter().take(n).map(|answer| answer.tokens.clone()).enumerate().collect();
        for (answer, proved) in group.iter_mut().zip(proved(maker, &job, task, again)?) {
            *answer = proved;
        }
        left -= n;
        cheated.push((0..group.len()).map(|idx| idx < n).collect());
        completions.push(group);
    }
    let n = maker.groups as usize;
    let tasks = mined.tasks.get(..n).context("as many tasks as groups were asked for")?;
    Ok(Submission { cheated, ..maker.submit(&job, tasks, completions, mined.seconds)? })
}
