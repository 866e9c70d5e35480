//! Measures a model on problems that no miner ever gets.

use std::sync::Arc;

use grail_ports::environment::Environment;
use grail_ports::model::{GenerateRequest, Model, ModelError, Sampling, StopFlag};
use grail_ports::reference::PromptForm;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::TokenId;
use grail_protocol::sampler::SamplerParams;

use crate::context::Heartbeat;

/// Gives the seed of a held-out problem by its number, 0-based.
pub type HeldOutSeeds = Arc<dyn Fn(u32) -> u64 + Send + Sync>;

/// What is measured on.
#[derive(Clone)]
pub struct HeldOut {
    /// Number of problems.
    pub problems: u32,
    /// Seeds of the problems: the same for every checkpoint, so that curves can be compared.
    pub seeds: HeldOutSeeds,
    /// Problems that the model answers at the same time, at least 1.
    pub at_once: u32,
}

/// Answers to held-out problems.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvaluationResult {
    /// Problems answered and judged.
    pub problems: u32,
    /// Those answered rightly.
    pub solved: u32,
    /// Sum of the rewards.
    pub reward_sum: f64,
}

impl EvaluationResult {
    /// Returns the share of problems solved by one sampled answer, 0 without problems.
    pub fn pass_at_1(&self) -> f64 {
        f64::from(self.solved) / f64::from(self.problems.max(1))
    }

    /// Returns the mean reward, 0 without problems.
    pub fn reward_mean(&self) -> f64 {
        self.reward_sum / f64::from(self.problems.max(1))
    }
}

/// Samples one answer to each held-out problem and judges it. Blocks.
///
/// Prompts are written in `form`, that of the miners' prompts; `None` is the model's own template.
/// Race keys depend on the number of the problem alone, so equal weights give equal results. A
/// problem that the environment cannot judge is left out.
pub fn evaluate(
    model: &dyn Model,
    environment: &dyn Environment,
    sampler: SamplerParams,
    held_out: &HeldOut,
    form: Option<PromptForm>,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<EvaluationResult, ModelError> {
    let mut result = EvaluationResult::default();
    let mut first = 0;
    while first < held_out.problems {
        let last = first.saturating_add(held_out.at_once.max(1)).min(held_out.problems);
        let seeds: Vec<u64> = (first..last).map(|number| (held_out.seeds)(number)).collect();
        let requests = (first..last)
            .zip(&seeds)
            .map(|(number, seed)| {
                let messages = environment.prompt(*seed);
                let prompt = match form {
                    Some(form) => model.render_as(&messages, form),
                    None => model.render(&messages),
                };
                Ok(request(prompt?, sampler, number))
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        let mut answers = vec![Vec::new(); requests.len()];
        model.generate(&requests, stop, &mut |idx, completions| {
            if let Some(slot) = answers.get_mut(idx) {
                *slot = completions;
            }
        })?;
        for (seed, completions) in seeds.iter().zip(&answers) {
            for completion in completions {
                let text = model.decode(&completion.tokens)?;
                if let Ok(worth) = environment.evaluate(*seed, &text) {
                    result.problems += 1;
                    result.solved += u32::from(worth.success);
                    result.reward_sum += f64::from(worth.reward);
                }
            }
        }
        heartbeat.beat();
        first = last;
    }
    Ok(result)
}

fn request(prompt: Vec<TokenId>, sampler: SamplerParams, number: u32) -> GenerateRequest {
    GenerateRequest {
        prompt,
        race_keys: vec![race_key(number)],
        sampling: Sampling::Race { temperature: sampler.temperature },
        max_new_tokens: sampler.max_new_tokens,
        whitening: None,
    }
}

fn race_key(number: u32) -> [u32; 4] {
    let hash = DomainHash::new("evaluation").u32(number).finish();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}
