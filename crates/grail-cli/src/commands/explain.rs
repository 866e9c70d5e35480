//! `grail explain`: everything about one rollout, or a published verdict in words.

use std::path::Path;

use anyhow::{Context, Result, bail};
use grail_model::tokenizer::Tokenizer;
use grail_ports::model::StopFlag;
use grail_protocol::constants::{GROUPS_PER_FILE_MAX, VERDICT_BYTES_MAX};
use grail_protocol::verdict::VerdictRecord;
use grail_services::validation::examine::{examine_file, unchecked_group};

use super::verify::{Opened, Reading, open, outcome};
use crate::cli::{ExplainArgs, RolloutPlace};
use crate::config::Config;
use crate::exit::Outcome;
use crate::explain::file::FileAnswer;
use crate::explain::rollout::{RolloutAnswer, Subject};
use crate::explain::verdict::VerdictAnswer;
use crate::files::read_bounded;

/// Does what the options ask for.
pub fn run(args: &ExplainArgs, config: &Config) -> Result<Outcome> {
    if let Some(path) = &args.verdict {
        return verdict(path, args.json);
    }
    // The command line was refused otherwise.
    let (Some(file), Some(place), Some(checkpoint)) = (&args.file, args.rollout, &args.checkpoint)
    else {
        bail!("give FILE, --rollout and --checkpoint, or --verdict");
    };
    let answer = match explain(args, config, (file, checkpoint), place) {
        Ok(Told::Rollout(answer)) => *answer,
        Ok(Told::Malformed(answer)) => {
            answer.print(args.json)?;
            return Ok(outcome(answer.verdict));
        }
        // Whatever fails on our side is no verdict on the miner.
        Err(error) => {
            let RolloutPlace { group, rollout } = place;
            RolloutAnswer::undecided(file, group, rollout, crate::message(&error))
        }
    };
    answer.print(args.json)?;
    Ok(outcome(answer.verdict))
}

/// What can be told.
enum Told {
    Rollout(Box<RolloutAnswer>),
    /// There are no rollouts: the file is none.
    Malformed(Box<FileAnswer>),
}

fn explain(
    args: &ExplainArgs,
    config: &Config,
    (file, checkpoint): (&Path, &Path),
    place: RolloutPlace,
) -> Result<Told> {
    let opened = match open(file, checkpoint, &args.facts, config, GROUPS_PER_FILE_MAX)? {
        Reading::Opened(opened) => opened,
        Reading::Malformed(check, evidence) => {
            return Ok(Told::Malformed(Box::new(FileAnswer::malformed(file, check, evidence))));
        }
    };
    let Opened { bytes, bench, hotkey, taken } = *opened;
    let mut report = examine_file(&bench, hotkey, &bytes);
    let RolloutPlace { group, rollout } = place;
    report.examine_groups(&bench, &[group], &StopFlag::default())?;
    let content = match report.rejection {
        None => report.group(group).cloned(),
        // Nothing is recomputed of a void file; what it holds is shown all the same.
        Some(_) => unchecked_group(&bench, hotkey, &bytes, group),
    };
    if report.rejection.is_none() {
        let Some(content) = &content else {
            bail!("there is no group {group}: the file has {}", report.groups_in_file);
        };
        if usize::try_from(rollout).is_ok_and(|rollout| rollout >= content.rollouts.len()) {
            bail!("there is no rollout {rollout}: group {group} has {}", content.rollouts.len());
        }
    }
    let tokenizer = Tokenizer::load(checkpoint)
        .with_context(|| format!("while reading the tokenizer of {}", checkpoint.display()))?;
    let mut answer = RolloutAnswer::of(&Subject {
        path: file,
        report: &report,
        group,
        rollout,
        content: content.as_ref(),
        bench: &bench,
        tokenizer: &tokenizer,
        with_tokens: args.tokens,
    })?;
    answer.taken_from_file = taken;
    Ok(Told::Rollout(Box::new(answer)))
}

fn verdict(path: &Path, as_json: bool) -> Result<Outcome> {
    let bytes = read_bounded(path, VERDICT_BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let record = VerdictRecord::from_json(&bytes)
        .with_context(|| format!("{} cannot be explained", path.display()))?;
    let answer = VerdictAnswer::of(&record);
    answer.print(as_json)?;
    Ok(outcome(answer.verdict))
}
