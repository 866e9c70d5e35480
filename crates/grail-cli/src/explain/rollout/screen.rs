//! A rollout's explanation for a person: the conclusion first, then everything that it rests on.

use anyhow::Result;

use super::{RaceAnswer, RewardAnswer, RolloutAnswer, TextAnswer, TokenAnswer};
use crate::explain::checks;
use crate::explain::text::{end_of_line, lines, one_line, print};
use crate::report::table::{self, Align};

/// Longest text on a screen, characters.
const TEXT_CHARS_MAX: usize = 4000;
/// Longest text of a reason, characters.
const EVIDENCE_CHARS_MAX: usize = 1000;
/// Longest text beside a lost race, characters.
const CONTEXT_CHARS_MAX: usize = 120;
/// Longest text of a token, characters.
const TOKEN_CHARS_MAX: usize = 60;

impl RolloutAnswer {
    /// Prints the answer.
    pub fn print(&self, as_json: bool) -> Result<()> {
        print(self, as_json, || self.screen())
    }

    fn screen(&self) -> String {
        let mut sections = vec![self.summary()];
        if !self.checks.is_empty() {
            sections.push(checks::table(&self.checks));
        }
        let texts = [("prompt", &self.prompt), ("completion", &self.completion)];
        sections
            .extend(texts.iter().filter_map(|(name, text)| Some(passage(name, text.as_ref()?))));
        sections.extend(self.race.as_ref().map(race));
        if let Some(states) = &self.hidden_states {
            let recomputed = states.recomputed.map(|digest| digest.to_string());
            sections.push(format!(
                "hidden states (SHA-256)\n  claimed     {}\n  recomputed  {}",
                states.claimed,
                recomputed.as_deref().unwrap_or("could not be told")
            ));
        }
        if let Some(sketches) = &self.sketches {
            sections.push(format!(
                "sketches: {} of {} tokens each; {:.3} of 64 signs differ on average, at most {} \
                 (from token {} on)",
                sketches.distances.len(),
                sketches.tokens_each,
                sketches.mean,
                sketches.largest,
                sketches.largest_at
            ));
        }
        sections.extend(self.reward.as_ref().map(reward));
        sections.extend(self.tokens.as_deref().map(tokens));
        sections.join("\n\n")
    }

    fn summary(&self) -> String {
        let place = format!("group {}, rollout {} of {}", self.group, self.rollout, self.file);
        let mut told = vec![match self.verdict {
            "accepted" => format!("accepted: {place}"),
            "rejected" => {
                format!("rejected ({}): {place}", self.reason.as_deref().unwrap_or_default())
            }
            _ => format!("could not verify {place}"),
        }];
        if let Some(evidence) = &self.evidence {
            told.push(format!("found: {}", one_line(evidence, EVIDENCE_CHARS_MAX)));
        }
        told.push(format!("in words: {}", self.conclusion));
        told.push(format!("what to do: {}", self.next_step));
        if let (Some(window), Some(hotkey)) = (self.window, self.hotkey) {
            told.push(format!("window {window}, hotkey {hotkey}"));
        }
        if let Some(profile) = self.profile {
            let engine = self.numerics.as_deref().unwrap_or_default();
            told.push(format!("judged by the {profile} profile (engine {engine})"));
        }
        if !self.taken_from_file.is_empty() {
            let taken = self.taken_from_file.join(", ");
            told.push(format!("taken from the file itself, not checked: {taken}"));
        }
        told.join("\n  ")
    }
}

fn passage(name: &str, passage: &TextAnswer) -> String {
    let title = format!("{name} ({} tokens)", passage.tokens);
    let Some(text) = &passage.text else {
        return format!("{title}\n  the tokenizer does not know all of its tokens");
    };
    let cut = if passage.is_cut { "\n  | …" } else { "" };
    let drawn: Vec<String> =
        lines(text, TEXT_CHARS_MAX).iter().map(|line| format!("\n  | {line}")).collect();
    format!("{title}{}{cut}", drawn.concat())
}

fn race(race: &RaceAnswer) -> String {
    let rows = [("claimed", &race.claimed), ("winner", &race.winner)].map(|(name, runner)| {
        vec![
            name.to_owned(),
            runner.token.to_string(),
            format!("\"{}\"", one_line(&runner.text, TOKEN_CHARS_MAX)),
            format!("{:.4}", runner.logprob),
            format!("{:.4} %", runner.probability * 100.0),
            format!("{:.4}", runner.noise),
            format!("{:.4}", runner.score),
        ]
    });
    let columns = [
        ("", Align::Left),
        ("token", Align::Right),
        ("text", Align::Left),
        ("log-probability", Align::Right),
        ("probability", Align::Right),
        ("noise", Align::Right),
        ("score", Align::Right),
    ];
    let table = table::render(&columns, &rows).replace('\n', "\n  ");
    let before = end_of_line(&race.before, CONTEXT_CHARS_MAX);
    let after = one_line(&race.after, CONTEXT_CHARS_MAX);
    format!(
        "race at position {} of the completion: the claimed token is {} nats worse\n  before: \
         \"{before}\"\n  after:  \"{after}\"\n  {table}\n  score = log-probability / {} + noise; the \
         highest score is the one legal token",
        race.position, race.margin, race.temperature
    )
}

fn reward(reward: &RewardAnswer) -> String {
    let recomputed = match (reward.recomputed, reward.recomputed_success) {
        (Some(value), Some(success)) => format!("{value} (success {success})"),
        _ => "could not be told".to_owned(),
    };
    format!(
        "reward\n  claimed     {} (success {})\n  recomputed  {recomputed}",
        reward.claimed, reward.claimed_success
    )
}

fn tokens(tokens: &[TokenAnswer]) -> String {
    let columns = [
        ("position", Align::Right),
        ("token", Align::Right),
        ("margin", Align::Right),
        ("log-probability", Align::Right),
        ("text", Align::Left),
    ];
    let number = |value: Option<f32>| value.map_or_else(String::new, |it| format!("{it:.4}"));
    let row = |token: &TokenAnswer| {
        vec![
            token.position.to_string(),
            token.token.to_string(),
            number(token.margin),
            number(token.logprob),
            format!("\"{}\"", one_line(&token.text, TOKEN_CHARS_MAX)),
        ]
    };
    table::render(&columns, &tokens.iter().map(row).collect::<Vec<_>>())
}
