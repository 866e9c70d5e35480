//! Every schedule gives the same tokens, and no schedule breaks a bound.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use grail_kernels::{Kernels, RaceKey};
use grail_ports::model::Sampling;
use grail_protocol::ids::{Digest, TokenId};
use proptest::prelude::*;

use super::*;
use crate::engine::EngineConfig;

/// Enough end tokens that completions differ in length.
const EOS: [TokenId; 5] = [2, 17, 29, 43, 88];

fn engine(eos: &[TokenId], config: EngineConfig) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden/llama");
    Engine::load(&dir, eos.to_vec(), Kernels::new(1).unwrap(), config).unwrap()
}

/// `len` tokens; those of one family begin alike.
fn prompt(family: u32, len: usize) -> Arc<[TokenId]> {
    (0..u32::try_from(len).unwrap())
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(family * 97) >> 7) % 90 + 4)
        .collect()
}

fn spec(max_new_tokens: u32) -> Spec {
    Spec {
        sampling: Sampling::Race { temperature: 1.0 },
        race_key: RaceKey([1, 2, 3, 4]),
        max_new_tokens,
        top_logprobs: 0,
        capture_digest: true,
        whitening: None,
        ignore_eos: true,
    }
}

/// What an [`Ear`] has heard.
#[derive(Default)]
struct Heard {
    tokens: Vec<TokenId>,
    ended: Option<Ended>,
}

#[derive(Clone, Default)]
struct Ear {
    heard: Arc<Mutex<Heard>>,
    is_cancelled: Arc<AtomicBool>,
    is_streaming: bool,
}

impl Ear {
    fn job(&self, prompt: &Arc<[TokenId]>, spec: Spec) -> Job {
        Job { prompt: Arc::clone(prompt), spec, listener: Box::new(self.clone()) }
    }

    fn has_ended(&self) -> bool {
        self.heard.lock().unwrap().ended.is_some()
    }

    fn n_tokens(&self) -> usize {
        self.heard.lock().unwrap().tokens.len()
    }
}

impl Listener for Ear {
    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    fn is_streaming(&self) -> bool {
        self.is_streaming
    }

    fn token(&mut self, token: TokenId, _: f32, _: Vec<(TokenId, f32)>) {
        self.heard.lock().unwrap().tokens.push(token);
    }

    fn finished(&mut self, ended: Ended) {
        let before = self.heard.lock().unwrap().ended.replace(ended);
        assert!(before.is_none(), "two ends of one sequence");
    }
}

/// A scheduler whose bounds are checked after every step.
struct Checked<'a> {
    engine: &'a Engine,
    scheduler: Scheduler,
}

impl<'a> Checked<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self { engine, scheduler: Scheduler::new(engine, Arc::default()) }
    }

    /// Hands in the jobs of one asker.
    fn enqueue(&mut self, jobs: impl IntoIterator<Item = Job>) {
        let jobs: VecDeque<Job> = jobs.into_iter().collect();
        self.scheduler.counters.queued(jobs.len());
        self.scheduler.enqueue(jobs);
    }

    fn step(&mut self) {
        let config = &self.engine.config;
        let streams =
            |sequence: &Sequence| sequence.listener.is_streaming() && !sequence.tokens.is_empty();
        let budget = if self.scheduler.running.iter().any(streams) {
            config.prefill_rows_max.min(config.prefill_rows_while_streaming_max)
        } else {
            config.prefill_rows_max
        };
        let computed = |scheduler: &Scheduler| {
            scheduler.counters.prompt_tokens_computed.load(Ordering::Relaxed)
        };
        let before = computed(&self.scheduler);
        self.scheduler.step(self.engine, &StopFlag::default()).unwrap();
        let rows = computed(&self.scheduler) - before;
        assert!(rows <= budget as u64, "{rows} prompt rows in a step, {budget} are allowed");
        self.check();
    }

    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.scheduler.is_idle() {
                return;
            }
            self.step();
        }
        panic!("the scheduler does not come to an end");
    }

    fn check(&self) {
        let Scheduler { pool, prompts, running, counters, .. } = &self.scheduler;
        let capacity = self.engine.kv_blocks_max();
        assert!(running.len() <= self.engine.config.max_running_sequences);
        assert_eq!(running.len(), counters.running.load(Ordering::Relaxed));
        assert!(pool.used() + pool.idle() <= capacity);
        // Each held block is in a table of a prompt or a sequence, and each of those is held.
        let mut held = BTreeSet::new();
        for sequence in running {
            held.extend(&sequence.blocks);
            held.extend(&prompts.get(sequence.prompt).blocks);
        }
        assert!(held.iter().all(|&&id| (id as usize) < capacity));
        assert!(held.len() <= pool.used());
        if self.scheduler.is_idle() {
            assert_eq!((pool.used(), pool.available()), (0, capacity), "something is held");
        }
    }
}

/// One sequence of a property case.
#[derive(Clone, Debug)]
struct Plan {
    family: u32,
    prompt_len: usize,
    max_new_tokens: u32,
    sampling: Sampling,
    key: u32,
    is_streaming: bool,
    ignore_eos: bool,
    /// Step before which it is handed in.
    arrives_at: usize,
    /// Step before which it is cancelled.
    cancelled_at: Option<usize>,
    /// Sequences of one asker that arrive together wait together.
    asker: usize,
}

impl Plan {
    fn spec(&self) -> Spec {
        Spec {
            sampling: self.sampling,
            race_key: RaceKey([self.key, 5, 6, 7]),
            ignore_eos: self.ignore_eos,
            ..spec(self.max_new_tokens)
        }
    }

    fn job(&self, ear: &Ear) -> Job {
        ear.job(&prompt(self.family, self.prompt_len), self.spec())
    }

    /// Runs it alone, without a prompt cache.
    fn alone(&self) -> (Vec<TokenId>, Vec<u32>, Option<Digest>) {
        let config = EngineConfig { prompt_cache_bytes_max: 0, ..EngineConfig::default() };
        let engine = engine(&EOS, config);
        let mut scheduler = Checked::new(&engine);
        let ear = Ear::default();
        scheduler.enqueue([self.job(&ear)]);
        scheduler.run();
        let ended = ear.heard.lock().unwrap().ended.take().unwrap();
        outcome(&ended)
    }
}

fn outcome(ended: &Ended) -> (Vec<TokenId>, Vec<u32>, Option<Digest>) {
    let bits = ended.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
    (ended.tokens.clone(), bits, ended.hidden_digest)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let sampling = prop_oneof![
        Just(Sampling::Greedy),
        Just(Sampling::Race { temperature: 1.0 }),
        Just(Sampling::Race { temperature: 0.7 }),
        Just(Sampling::TopP { temperature: 1.0, top_p: 0.8 }),
    ];
    let when = (0usize..30, prop_oneof![2 => Just(None), 1 => (0usize..60).prop_map(Some)]);
    let plan =
        (0u32..2, 1usize..70, 1u32..30, sampling, 0u32..3, any::<[bool; 2]>(), when, 0usize..3)
            .prop_map(|(family, prompt_len, max_new_tokens, sampling, key, flags, when, asker)| {
                Plan {
                    family,
                    prompt_len,
                    max_new_tokens,
                    sampling,
                    key,
                    is_streaming: flags[0],
                    ignore_eos: flags[1],
                    arrives_at: when.0,
                    cancelled_at: when.1,
                    asker,
                }
            });
    prop::collection::vec(plan, 1..14)
}

fn configs() -> impl Strategy<Value = EngineConfig> {
    let block_bytes = engine(&EOS, EngineConfig::default()).kv_block_bytes();
    // The largest plan needs 5 blocks for its prompt and 3 of its own.
    (1usize..7, 8usize..40, 0usize..40, 1usize..80, 1usize..40, 1usize..40).prop_map(
        move |(running, blocks, idle, prefill, streaming, layer)| EngineConfig {
            max_running_sequences: running,
            kv_bytes_max: blocks * block_bytes,
            prompt_cache_bytes_max: idle * block_bytes,
            prefill_rows_max: prefill,
            prefill_rows_while_streaming_max: streaming,
            layer_rows_max: layer,
            ..EngineConfig::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn no_schedule_changes_a_bit_or_breaks_a_bound(config in configs(), plans in plans()) {
        let engine = engine(&EOS, config);
        let mut checked = Checked::new(&engine);
        let ears: Vec<Ear> = plans
            .iter()
            .map(|plan| Ear { is_streaming: plan.is_streaming, ..Ear::default() })
            .collect();
        for step in 0..60 {
            let arriving = || plans.iter().zip(&ears).filter(|(plan, _)| plan.arrives_at == step);
            for asker in 0..3 {
                let of_asker = arriving().filter(|(plan, _)| plan.asker == asker);
                checked.enqueue(of_asker.map(|(plan, ear)| plan.job(ear)));
            }
            for (plan, ear) in plans.iter().zip(&ears) {
                if plan.cancelled_at == Some(step) {
                    ear.is_cancelled.store(true, Ordering::SeqCst);
                    checked.scheduler.sweep();
                    checked.check();
                }
            }
            checked.step();
        }
        checked.run();
        for (plan, ear) in plans.iter().zip(&ears) {
            let heard = ear.heard.lock().unwrap();
            let ended = heard.ended.as_ref().unwrap();
            prop_assert_eq!(&heard.tokens, &ended.tokens);
            let (tokens, bits, digest) = outcome(ended);
            let (expected_tokens, expected_bits, expected_digest) = plan.alone();
            if ended.reason == FinishReason::Cancelled {
                prop_assert!(plan.cancelled_at.is_some());
                prop_assert!(expected_tokens.starts_with(&tokens));
                prop_assert!(expected_bits.starts_with(&bits));
            } else {
                prop_assert_eq!(tokens, expected_tokens);
                prop_assert_eq!(bits, expected_bits);
                prop_assert_eq!(digest, expected_digest);
            }
        }
        // Once more with whatever is in the prompt cache now.
        for plan in &plans {
            let ear = Ear::default();
            checked.enqueue([plan.job(&ear)]);
            checked.run();
            let heard = ear.heard.lock().unwrap();
            prop_assert_eq!(outcome(heard.ended.as_ref().unwrap()), plan.alone());
        }
    }
}

#[test]
fn prompts_that_begin_alike_are_computed_once() {
    let engine = engine(&EOS, EngineConfig { prefill_rows_max: 40, ..EngineConfig::default() });
    let mut checked = Checked::new(&engine);
    let ears = [(); 5].map(|()| Ear::default());
    // 64 tokens in common; then two go on alike, one ends, and two differ in a later token.
    let mut other: Vec<TokenId> = prompt(0, 90).to_vec();
    other[70] ^= 1;
    let prompts = [prompt(0, 90), prompt(0, 90), prompt(0, 65), prompt(0, 85), other.into()];
    checked.enqueue(ears.iter().zip(&prompts).map(|(ear, prompt)| ear.job(prompt, spec(2))));
    checked.run();
    assert!(ears.iter().all(Ear::has_ended));
    let computed = checked.scheduler.counters.prompt_tokens_computed.load(Ordering::Relaxed);
    // The first; the tails of the third and the fourth after 64 and 80; the fifth after 64.
    assert_eq!(computed, 90 + 1 + 5 + 26);
    let cached = checked.scheduler.counters.prompt_tokens_cached.load(Ordering::Relaxed);
    assert_eq!(cached, 90 + 64 + 80 + 64);
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let engine = engine(&EOS, EngineConfig { prefill_rows_max: 32, ..EngineConfig::default() });
    let mut checked = Checked::new(&engine);
    let (long, short) = (Ear::default(), Ear::default());
    checked.enqueue([long.job(&prompt(0, 110), spec(1))]);
    checked.step();
    checked.enqueue([short.job(&prompt(1, 16), spec(1))]);
    checked.step();
    assert!(short.has_ended() && !long.has_ended());
    checked.step();
    checked.step();
    assert!(long.has_ended(), "32, 16, 32 and 32 rows, then the rest");
}

#[test]
fn a_long_prompt_holds_a_stream_up_by_bounded_steps() {
    let config = EngineConfig { prefill_rows_while_streaming_max: 4, ..EngineConfig::default() };
    let engine = engine(&EOS, config);
    let mut checked = Checked::new(&engine);
    let stream = Ear { is_streaming: true, ..Ear::default() };
    let long = Ear::default();
    checked.enqueue([stream.job(&prompt(0, 10), spec(100))]);
    checked.step();
    checked.enqueue([long.job(&prompt(1, 100), spec(1))]);
    let n_steps = (0..)
        .take_while(|_| {
            checked.step();
            !long.has_ended()
        })
        .count()
        + 1;
    assert_eq!(n_steps, 25, "100 prompt tokens, 4 a step, which the checks confirm");
    assert_eq!(stream.n_tokens(), 26, "a token in each step");
    // A group that nobody streams does not need short steps.
    let mut checked = Checked::new(&engine);
    let (group, long) = (Ear::default(), Ear::default());
    checked.enqueue([group.job(&prompt(0, 10), spec(100))]);
    checked.step();
    checked.enqueue([long.job(&prompt(1, 100), spec(1))]);
    checked.step();
    assert!(long.has_ended());
}

#[test]
fn askers_take_turns() {
    let config = EngineConfig { max_running_sequences: 1, ..EngineConfig::default() };
    let engine = engine(&EOS, config);
    let mut checked = Checked::new(&engine);
    let many = [(); 9].map(|()| Ear::default());
    let one = Ear::default();
    checked.enqueue(many.iter().map(|ear| ear.job(&prompt(0, 20), spec(1))));
    checked.enqueue([one.job(&prompt(1, 20), spec(1))]);
    checked.step();
    checked.step();
    assert!(one.has_ended(), "after one of the nine");
    checked.run();
    assert!(many.iter().all(Ear::has_ended));
}

#[test]
fn a_large_job_is_not_overtaken_for_ever() {
    let block_bytes = engine(&EOS, EngineConfig::default()).kv_block_bytes();
    let config = EngineConfig { kv_bytes_max: 8 * block_bytes, ..EngineConfig::default() };
    let engine = engine(&EOS, config);
    let mut checked = Checked::new(&engine);
    let small = [(); 30].map(|()| Ear::default());
    let large = Ear::default();
    let of_small = |ear: &Ear| ear.job(&prompt(0, 5), spec(20));
    checked.enqueue(small[..3].iter().map(of_small));
    checked.enqueue([large.job(&prompt(1, 70), spec(40))]);
    checked.enqueue(small[3..].iter().map(of_small));
    for _ in 0..60 {
        checked.step();
    }
    assert!(large.n_tokens() > 0);
    checked.run();
    assert!(large.has_ended() && small.iter().all(Ear::has_ended));
}

#[test]
fn a_stopped_step_can_be_taken_again() {
    let engine = engine(&EOS, EngineConfig { prefill_rows_max: 7, ..EngineConfig::default() });
    let plan = Plan {
        family: 0,
        prompt_len: 40,
        max_new_tokens: 20,
        sampling: Sampling::Race { temperature: 1.0 },
        key: 1,
        is_streaming: true,
        ignore_eos: true,
        arrives_at: 0,
        cancelled_at: None,
        asker: 0,
    };
    let mut checked = Checked::new(&engine);
    let ear = Ear { is_streaming: true, ..Ear::default() };
    checked.enqueue([plan.job(&ear)]);
    let stopped = StopFlag::default();
    stopped.stop();
    while !ear.has_ended() {
        for _ in 0..3 {
            assert_eq!(checked.scheduler.step(&engine, &stopped).err(), Some(ModelError::Stopped));
            checked.check();
        }
        checked.step();
    }
    let heard = ear.heard.lock().unwrap();
    assert_eq!(outcome(heard.ended.as_ref().unwrap()), plan.alone());
}
