//! Tokens changed after sampling; the proof is computed for what came out.

use anyhow::Result;
use grail_ports::model::{Completion, Model, ScoreRequest};
use grail_protocol::ids::TokenId;
use grail_services::mining::pipeline::{GroupTask, MiningJob};

use super::{Maker, Submission, end_token, no_score, proved};
use crate::lab::rows::Edit;

/// What is inserted.
const SENTENCE: &str = " Let me check that once more.";

pub fn make(maker: &mut Maker<'_>, edit: Edit) -> Result<Submission> {
    let job = maker.job()?;
    let mined = maker.world.mined(maker.profile, maker.chunk, maker.groups)?;
    let digits = Digits::of(&*job.checkpoint.model)?;
    let (mut completions, mut cheated) = (Vec::new(), Vec::new());
    for (task, answers) in mined.tasks.iter().zip(&mined.completions).take(maker.groups as usize) {
        let editor = Editor { maker, job: &job, task, digits: &digits };
        let (mut group, mut edits) = (answers.clone(), Vec::new());
        for (rollout, answer) in answers.iter().enumerate() {
            let edited = match edit {
                Edit::Duplicate => answers.first().map(|first| first.tokens.clone()),
                _ => editor.apply(edit, answer)?,
            };
            let edited = edited.filter(|tokens| *tokens != answer.tokens);
            edits.extend(edited.map(|tokens| (rollout, tokens)));
        }
        let places: Vec<usize> = edits.iter().map(|(rollout, _)| *rollout).collect();
        for (rollout, proved) in places.iter().zip(proved(maker, &job, task, edits)?) {
            group[*rollout] = proved;
        }
        let changed = (0..group.len()).map(|rollout| places.contains(&rollout)).collect();
        completions.push(group);
        cheated.push(changed);
    }
    let tasks = &mined.tasks[..maker.groups as usize];
    Ok(Submission { cheated, ..maker.submit(&job, tasks, completions, mined.seconds)? })
}

/// The tokens of single digits.
struct Digits(Vec<TokenId>);

impl Digits {
    fn of(model: &dyn Model) -> Result<Self> {
        let mut tokens = Vec::with_capacity(10);
        for digit in 0..10 {
            if let [token] = model.encode(&digit.to_string())?[..] {
                tokens.push(token);
            }
        }
        Ok(Self(tokens))
    }

    fn contain(&self, token: TokenId) -> bool {
        self.0.contains(&token)
    }

    /// Returns the positions of digits in the last number of `tokens`, and of those before it.
    fn split(&self, tokens: &[TokenId]) -> (Vec<usize>, Vec<usize>) {
        let is_digit = |position: &usize| self.contain(tokens[*position]);
        let Some(last) = (0..tokens.len()).rev().find(is_digit) else {
            return (Vec::new(), Vec::new());
        };
        let start = (0..last).rev().find(|position| !is_digit(position)).map_or(0, |at| at + 1);
        ((start..=last).collect(), (0..start).filter(is_digit).collect())
    }
}

/// Edits the answers of one group.
struct Editor<'a> {
    maker: &'a Maker<'a>,
    job: &'a MiningJob,
    task: &'a GroupTask,
    digits: &'a Digits,
}

impl Editor<'_> {
    /// Returns the edited tokens, or nothing where this answer leaves nothing to edit.
    fn apply(&self, edit: Edit, answer: &Completion) -> Result<Option<Vec<TokenId>>> {
        let model = &*self.job.checkpoint.model;
        let tokens = &answer.tokens;
        let limit = usize::try_from(self.job.checkpoint.sampler.max_new_tokens)?;
        let ends = tokens.last().is_some_and(|last| model.info().eos_token_ids.contains(last));
        let end = end_token(model)?;
        Ok(match edit {
            Edit::AnswerToken => {
                let (answer, _) = self.digits.split(tokens);
                match answer.last() {
                    Some(position) => Some(self.other_digit(tokens, *position)?),
                    None => None,
                }
            }
            Edit::ArithmeticToken => {
                let (_, before) = self.digits.split(tokens);
                match before.get(before.len() / 2) {
                    Some(position) => Some(self.other_digit(tokens, *position)?),
                    None => None,
                }
            }
            Edit::Sentence => {
                let middle = tokens.len() / 2;
                let sentence = model.encode(SENTENCE)?;
                let mut edited = [&tokens[..middle], &sentence, &tokens[middle..]].concat();
                if edited.len() > limit {
                    edited.truncate(limit);
                }
                Some(edited)
            }
            Edit::Prefilled => match self.job.checkpoint.environment.solve(self.task.seed) {
                Some(text) => {
                    let mut edited = model.encode(&text)?;
                    edited.truncate(limit.saturating_sub(1));
                    edited.push(end);
                    Some(edited)
                }
                None => None,
            },
            Edit::EarlyEnd => (tokens.len() > 1).then(|| {
                let mut edited = tokens[..tokens.len() / 2].to_vec();
                edited.push(end);
                edited
            }),
            Edit::NoEnd if ends && tokens.len() <= limit => {
                let filler = model.encode(SENTENCE)?;
                let text = &tokens[..tokens.len() - 1];
                Some(text.iter().chain(filler.iter().cycle()).take(limit).copied().collect())
            }
            Edit::NoEnd | Edit::Duplicate => None,
        })
    }

    /// Puts the digit that the model finds likeliest, of all others, at `position`: the edit that is
    /// hardest to see.
    fn other_digit(&self, tokens: &[TokenId], position: usize) -> Result<Vec<TokenId>> {
        let others: Vec<TokenId> =
            self.digits.0.iter().copied().filter(|digit| *digit != tokens[position]).collect();
        let requests: Vec<ScoreRequest> = others
            .iter()
            .map(|digit| ScoreRequest {
                tokens: [&self.task.prompt, &tokens[..position], &[*digit]].concat(),
                prompt_len: self.task.prompt.len() + position,
                race: None,
                entropy: false,
                whitening: None,
                rows: false,
            })
            .collect();
        let scores = self.job.checkpoint.model.score(&requests, self.maker.world.stop())?;
        let likeliest = others
            .iter()
            .zip(&scores)
            .max_by(|(_, a), (_, b)| total(&a.logprobs).total_cmp(&total(&b.logprobs)));
        let (digit, _) = likeliest.ok_or_else(no_score)?;
        let mut edited = tokens.to_vec();
        edited[position] = *digit;
        Ok(edited)
    }
}

fn total(logprobs: &[f32]) -> f32 {
    logprobs.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_told_from_what_comes_before() {
        let digits = Digits(vec![0, 1, 2, 3]);
        for (tokens, answer, before) in [
            (&[1, 2, 9, 3, 9, 2, 1, 9][..], vec![5, 6], vec![0, 1, 3]),
            (&[1, 2], vec![0, 1], vec![]),
            (&[9, 8], vec![], vec![]),
            (&[], vec![], vec![]),
        ] {
            assert_eq!(digits.split(tokens), (answer, before), "{tokens:?}");
        }
    }
}
