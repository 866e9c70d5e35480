//! The contract of [`Model`], [`ModelProvider`] and [`Trainer`](grail_ports::model::Trainer).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use grail_ports::environment::{ChatMessage, ChatRole};
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelError, ModelProvider, OptimizerConfig, RaceCheck,
    Sampling, Score, ScoreRequest, StopFlag, TrainingSequence,
};
use grail_ports::reference::{PromptForm, Trace, TraceRequest, Warp};
use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::sketch::{Whitening, sketches_of};

const MAX_NEW_TOKENS: u32 = 12;
const TEMPERATURE: f32 = 0.9;

/// Checks a model with prompts of a few tokens and completions of at most a dozen.
///
/// # Panics
/// When the model breaks the contract.
pub fn model(model: &dyn Model) {
    facts(model);
    texts(model);
    groups(model);
    captures(model);
    traces(model);
    stopping(model);
    bad_requests(model);
}

fn prompt(model: &dyn Model, content: &str) -> Vec<u32> {
    let message = ChatMessage { role: ChatRole::User, content: content.to_owned() };
    model.render(&[message]).expect("a short message can be rendered")
}

fn keys(group: u32, n: u32) -> Vec<[u32; 4]> {
    (0..n).map(|rollout| [rollout, group, 0x5eed, 7]).collect()
}

fn request(model: &dyn Model, group: u32, sampling: Sampling) -> GenerateRequest {
    let contents = ["What is 3 + 4?", "b", "Name a colour, please."];
    let content = contents[usize::try_from(group).unwrap_or(0) % contents.len()];
    GenerateRequest {
        prompt: prompt(model, content),
        race_keys: keys(group, 4),
        sampling,
        max_new_tokens: MAX_NEW_TOKENS,
        whitening: None,
    }
}

fn generate(model: &dyn Model, requests: &[GenerateRequest]) -> Vec<Vec<Completion>> {
    let mut groups = vec![None; requests.len()];
    let mut keep = |index: usize, group| {
        assert!(groups[index].replace(group).is_none(), "each group is handed over once");
    };
    model.generate(requests, &StopFlag::default(), &mut keep).expect("good requests are served");
    groups.into_iter().map(|group| group.expect("every group is handed over")).collect()
}

fn score(model: &dyn Model, requests: &[ScoreRequest]) -> Vec<Score> {
    let scores = model.score(requests, &StopFlag::default()).expect("good requests are served");
    assert_eq!(scores.len(), requests.len(), "one score for each request");
    scores
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn facts(model: &dyn Model) {
    let info = model.info();
    assert!(!info.eos_token_ids.is_empty(), "a completion can end");
    assert!(info.eos_token_ids.is_sorted_by(|a, b| a < b), "end tokens are ascending");
    assert!(info.eos_token_ids.iter().all(|&token| token < info.vocab_size));
    assert!(info.hidden_size > 0 && info.parameters > 0 && !info.numerics.is_empty());
}

fn texts(model: &dyn Model) {
    let tokens = prompt(model, "What is 3 + 4?");
    assert!(!tokens.is_empty() && tokens.iter().all(|&token| token < model.info().vocab_size));
    assert_eq!(tokens, prompt(model, "What is 3 + 4?"), "same message, same tokens");
    assert_ne!(tokens, prompt(model, "What is 3 + 5?"));
    let text = "What is 3 + 4? -17.";
    let tokens = model.encode(text).expect("plain text can be encoded");
    assert_eq!(model.decode(&tokens).as_deref(), Ok(text), "plain text survives");
    let ended = [tokens.as_slice(), &model.info().eos_token_ids[..1]].concat();
    assert_eq!(model.decode(&ended).as_deref(), Ok(text), "the end token is no text");
}

/// Generation alone, in a batch, and scoring afterwards give the same bits.
fn groups(model: &dyn Model) {
    let race = Sampling::Race { temperature: TEMPERATURE };
    for sampling in
        [race, Sampling::Greedy, Sampling::TopP { temperature: TEMPERATURE, top_p: 0.9 }]
    {
        let requests: Vec<_> = (0..3).map(|group| request(model, group, sampling)).collect();
        let groups = generate(model, &requests);
        for (request, group) in requests.iter().zip(&groups) {
            let alone = generate(model, std::slice::from_ref(request));
            assert_eq!(alone[0], *group, "a batch changes nothing");
            assert_eq!(group.len(), request.race_keys.len(), "one completion for each key");
            for (completion, &key) in group.iter().zip(&request.race_keys) {
                check_completion(model, request, completion, key, sampling == race);
            }
            let mut reordered = request.clone();
            reordered.race_keys.reverse();
            let mut reversed = generate(model, &[reordered]).remove(0);
            reversed.reverse();
            assert_eq!(reversed, *group, "a completion depends on its own key alone");
        }
        if sampling == Sampling::Greedy {
            let all_equal = |group: &Vec<Completion>| group.iter().all(|one| *one == group[0]);
            assert!(groups.iter().all(all_equal), "greedy uses no key");
        }
    }
}

fn check_completion(
    model: &dyn Model,
    request: &GenerateRequest,
    completion: &Completion,
    key: [u32; 4],
    is_race: bool,
) {
    let Completion { tokens, logprobs, hidden_digest, .. } = completion;
    let ends = |token: &u32| model.info().eos_token_ids.contains(token);
    let (last, before) = tokens.split_last().expect("a completion has a token");
    assert!(!before.iter().any(ends), "the first end token ends");
    let n_tokens = u32::try_from(tokens.len()).expect("a completion is short");
    assert!(ends(last) || n_tokens == MAX_NEW_TOKENS, "nothing else ends a completion");
    assert!(logprobs.iter().all(|value| value.is_finite() && *value <= 0.0));

    let race = RaceCheck { key, temperature: TEMPERATURE };
    let request = |race| ScoreRequest {
        tokens: [request.prompt.as_slice(), tokens].concat(),
        prompt_len: request.prompt.len(),
        race,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let scores = score(model, &[request(Some(race)), request(None)]);
    for score in &scores {
        assert_eq!(bits(&score.logprobs), bits(logprobs), "generated and scored agree");
        assert_eq!(score.hidden_digest, *hidden_digest, "generated and scored agree");
    }
    assert!(scores[1].winners.is_empty() && scores[1].margins.is_empty(), "no race was asked for");
    let Score { winners, margins, .. } = &scores[0];
    assert_eq!((winners.len(), margins.len()), (tokens.len(), tokens.len()));
    for ((winner, margin), token) in winners.iter().zip(margins).zip(tokens) {
        assert!(*margin >= 0.0, "nobody beats the winner");
        assert!(winner != token || *margin == 0.0, "the winner's margin is 0");
    }
    let mut with_entropy = request(None);
    with_entropy.entropy = true;
    let mut scored = score(model, &[with_entropy]).remove(0);
    let most = (model.info().vocab_size as f32).ln() * 1.000_1;
    assert_eq!(scored.entropies.len(), tokens.len());
    assert!(scored.entropies.iter().all(|entropy| (-1e-3..=most).contains(entropy)));
    scored.entropies.clear();
    assert_eq!(scored, scores[1], "the entropy is only an addition");

    assert!(!is_race || winners == tokens, "whoever generated by the race has its winners");

    // A token in the middle that was not drawn loses its race, and the tokens before do not care.
    let mut forged = request(Some(race));
    let at = forged.prompt_len + tokens.len() / 2;
    forged.tokens[at] = (forged.tokens[at] + 1) % model.info().vocab_size;
    let forged_score = score(model, &[forged]).remove(0);
    assert_eq!(forged_score.winners[..=tokens.len() / 2], winners[..=tokens.len() / 2]);
    assert_ne!(forged_score.hidden_digest, *hidden_digest, "the digest sees the change");
}

/// What is captured on request: sketches while generating and scoring, and rows.
fn captures(model: &dyn Model) {
    let plain = request(model, 0, Sampling::Race { temperature: TEMPERATURE });
    let whitening = Some(whitening(model.info().hidden_size));
    let asked = GenerateRequest { whitening: whitening.clone(), ..plain.clone() };
    let group = generate(model, std::slice::from_ref(&asked)).remove(0);
    let unasked = generate(model, std::slice::from_ref(&plain)).remove(0);
    for ((completion, mut plain), &key) in group.iter().zip(unasked).zip(&asked.race_keys) {
        assert!(plain.sketches.is_empty(), "no sketch was asked for");
        plain.sketches.clone_from(&completion.sketches);
        assert_eq!(plain, *completion, "sketches are only an addition");
        let n_tokens = completion.tokens.len();
        assert_eq!(completion.sketches.len(), sketches_of(n_tokens));

        let scored = ScoreRequest {
            tokens: [asked.prompt.as_slice(), &completion.tokens].concat(),
            prompt_len: asked.prompt.len(),
            race: Some(RaceCheck { key, temperature: TEMPERATURE }),
            entropy: false,
            whitening: whitening.clone(),
            rows: true,
        };
        let without = ScoreRequest { whitening: None, rows: false, ..scored.clone() };
        let mut scores = score(model, &[scored, without]);
        assert!(scores[1].sketches.is_empty() && scores[1].rows.is_empty(), "nobody asked");
        let Score { sketches, rows, .. } = &mut scores[0];
        let (sketches, rows) = (std::mem::take(sketches), std::mem::take(rows));
        assert_eq!(sketches, completion.sketches, "generated and scored agree");
        assert_eq!(scores[0], scores[1], "sketches and rows are only an addition");
        let hidden = usize::try_from(model.info().hidden_size).expect("a width fits");
        assert_eq!(rows.len(), n_tokens * hidden, "a row for each token");
        let mut digest = HiddenStateDigest::new();
        for (row, logprob) in rows.chunks_exact(hidden).zip(&scores[0].logprobs) {
            digest.push(row, *logprob);
        }
        assert_eq!(digest.finish(), completion.hidden_digest, "the rows are those of the digest");
    }
    let keys: BTreeSet<u64> = group.iter().map(|completion| completion.sketches[0].0).collect();
    assert!(keys.len() > 1, "every rollout has projections of its own");
}

/// What the reference's profile sees of a sequence: every position, and probabilities as it wants
/// them.
fn traces(model: &dyn Model) {
    texts_of_the_reference(model);
    let plain = request(model, 0, Sampling::Race { temperature: TEMPERATURE });
    let group = generate(model, std::slice::from_ref(&plain)).remove(0);
    let flat = Warp { temperature: 1.0, repetition_penalty: 1.0 };
    let bent = Warp { temperature: 0.7, repetition_penalty: 1.3 };
    let of = |completion: &Completion, warp| TraceRequest {
        tokens: [plain.prompt.as_slice(), &completion.tokens].concat(),
        prompt_len: plain.prompt.len(),
        warp,
    };
    let requests: Vec<TraceRequest> = group
        .iter()
        .flat_map(|completion| [None, Some(flat), Some(bent)].map(|warp| of(completion, warp)))
        .collect();
    let traced = trace(model, &requests);
    let hidden = usize::try_from(model.info().hidden_size).expect("a width fits");
    for (completion, traces) in group.iter().zip(traced.chunks_exact(3)) {
        let alone = trace(model, &[of(completion, Some(bent))]);
        assert_eq!(alone[0], traces[2], "a batch changes nothing");
        let [unasked, flat, bent] = traces else { panic!("three traces of each") };
        check_trace(model, &plain, completion, unasked, hidden);
        assert!(unasked.probabilities.is_empty(), "no probability was asked for");
        assert_eq!((&unasked.rows, &unasked.logprobs), (&bent.rows, &bent.logprobs));
        for (probability, logprob) in flat.probabilities.iter().zip(&flat.logprobs) {
            let expected = logprob.exp();
            assert!((probability - expected).abs() <= 1e-5 + 1e-4 * expected, "{probability}");
        }
        assert_eq!(flat.probabilities.len(), completion.tokens.len());
        assert_eq!(bent.probabilities.len(), completion.tokens.len());
        assert!(bent.probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
        assert_ne!(flat.probabilities, bent.probabilities, "the warp is applied");
    }
    let stop = StopFlag::default();
    stop.stop();
    assert_eq!(model.trace(&requests[..1], &stop), Err(ModelError::Stopped));
    let good = &requests[1];
    let warp = |temperature, repetition_penalty| Some(Warp { temperature, repetition_penalty });
    for (name, bad) in [
        ("no prompt", TraceRequest { prompt_len: 0, ..good.clone() }),
        ("no completion", TraceRequest { prompt_len: good.tokens.len(), ..good.clone() }),
        ("a foreign token", TraceRequest { tokens: vec![0, u32::MAX], prompt_len: 1, warp: None }),
        ("no temperature", TraceRequest { warp: warp(0.0, 1.0), ..good.clone() }),
        ("no penalty", TraceRequest { warp: warp(1.0, f32::NAN), ..good.clone() }),
    ] {
        let answer = model.trace(&[good.clone(), bad], &StopFlag::default());
        assert!(matches!(answer, Err(ModelError::BadRequest(_))), "{name}: {answer:?}");
    }
}

fn trace(model: &dyn Model, requests: &[TraceRequest]) -> Vec<Trace> {
    let traces = model.trace(requests, &StopFlag::default()).expect("good requests are served");
    assert_eq!(traces.len(), requests.len(), "one trace for each request");
    traces
}

/// The rows between prompt and last token are those that the score gives, bit for bit.
fn check_trace(
    model: &dyn Model,
    request: &GenerateRequest,
    completion: &Completion,
    trace: &Trace,
    hidden: usize,
) {
    let (prompt_len, n_tokens) = (request.prompt.len(), completion.tokens.len());
    assert_eq!(bits(&trace.logprobs), bits(&completion.logprobs), "generated and traced agree");
    assert_eq!(trace.rows.len(), (prompt_len + n_tokens) * hidden, "a row for every position");
    let scored = ScoreRequest {
        tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
        prompt_len,
        race: None,
        entropy: false,
        whitening: None,
        rows: true,
    };
    let scored = score(model, &[scored]).remove(0);
    let predicting = (prompt_len - 1) * hidden..(prompt_len + n_tokens - 1) * hidden;
    assert_eq!(bits(&trace.rows[predicting]), bits(&scored.rows), "scored and traced agree");
    match model.end_token() {
        None => assert_eq!(trace.end_probability, 0.0, "there is no end token"),
        Some(end) if completion.tokens.last() == Some(&end) => {
            let expected = trace.logprobs[n_tokens - 1].exp();
            assert!((trace.end_probability - expected).abs() <= 1e-6, "{expected}");
        }
        Some(_) => assert!((0.0..=1.0).contains(&trace.end_probability)),
    }
}

fn texts_of_the_reference(model: &dyn Model) {
    let message = ChatMessage { role: ChatRole::User, content: "What is 3 + 4?".to_owned() };
    let render = |form| {
        let messages = std::slice::from_ref(&message);
        model.render_as(messages, form).expect("a short message can be rendered")
    };
    for form in [PromptForm::ChatMl, PromptForm::Thinking] {
        let tokens = render(form);
        assert!(!tokens.is_empty() && tokens.iter().all(|&it| it < model.info().vocab_size));
        let text = model.decode_with_special(&tokens).expect("a prompt can be decoded");
        assert!(text.contains(&message.content), "{text}");
    }
    let Some(end) = model.end_token() else { return };
    assert!(model.info().eos_token_ids.contains(&end), "the tokenizer's end token ends");
    let kept = model.decode_with_special(&[end]).expect("a special token can be decoded");
    assert!(!kept.is_empty(), "special tokens are kept");
}

/// Statistics that move and stretch `hidden_size` dimensions, each by something else.
fn whitening(hidden_size: u32) -> Arc<Whitening> {
    let steps = |dim: u32| (dim % 7) as f32 / 8.0;
    let mean = (0..hidden_size).map(|dim| steps(dim) - 0.25).collect();
    let scale = (0..hidden_size).map(|dim| 0.5 + steps(dim + 3)).collect();
    Arc::new(Whitening::new(mean, scale).expect("finite, and above 0"))
}

fn stopping(model: &dyn Model) {
    let race = Sampling::Race { temperature: TEMPERATURE };
    let requests: Vec<_> = (0..3).map(|group| request(model, group, race)).collect();
    let stop = StopFlag::default();
    stop.stop();
    let mut keep = |_, _| panic!("nothing is handed over after a stop");
    assert_eq!(model.generate(&requests, &stop, &mut keep), Err(ModelError::Stopped));
    let tokens = requests[0].prompt.clone();
    let request = ScoreRequest {
        prompt_len: 1,
        tokens,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    assert_eq!(model.score(&[request], &stop), Err(ModelError::Stopped));
}

fn bad_requests(model: &dyn Model) {
    let good = request(model, 0, Sampling::Race { temperature: TEMPERATURE });
    let vocab_size = model.info().vocab_size;
    let foreign = Some(whitening(model.info().hidden_size + 1));
    let mut keep = |_, _| panic!("a bad request gives nothing");
    for (name, bad) in [
        ("an empty prompt", GenerateRequest { prompt: vec![], ..good.clone() }),
        ("no tokens", GenerateRequest { max_new_tokens: 0, ..good.clone() }),
        ("a foreign token", GenerateRequest { prompt: vec![vocab_size], ..good.clone() }),
        ("too long", GenerateRequest { max_new_tokens: u32::MAX, ..good.clone() }),
        ("other whitening", GenerateRequest { whitening: foreign.clone(), ..good.clone() }),
    ] {
        let answer = model.generate(&[good.clone(), bad], &StopFlag::default(), &mut keep);
        assert!(matches!(answer, Err(ModelError::BadRequest(_))), "{name}: {answer:?}");
    }
    let tokens = good.prompt;
    let n_tokens = tokens.len();
    let good = ScoreRequest {
        tokens,
        prompt_len: 1,
        race: Some(RaceCheck { key: [1, 2, 3, 4], temperature: TEMPERATURE }),
        entropy: false,
        whitening: Some(whitening(model.info().hidden_size)),
        rows: false,
    };
    for (name, bad) in [
        ("no prompt", ScoreRequest { prompt_len: 0, ..good.clone() }),
        ("no completion", ScoreRequest { prompt_len: n_tokens, ..good.clone() }),
        ("no tokens", ScoreRequest { tokens: vec![], ..good.clone() }),
        ("a foreign token", ScoreRequest { tokens: vec![0, u32::MAX], ..good.clone() }),
        ("other whitening", ScoreRequest { whitening: foreign, ..good.clone() }),
        ("sketches without a key", ScoreRequest { race: None, ..good.clone() }),
    ] {
        let answer = model.score(&[good.clone(), bad], &StopFlag::default());
        assert!(matches!(answer, Err(ModelError::BadRequest(_))), "{name}: {answer:?}");
    }
}

const ADAM: OptimizerConfig = OptimizerConfig {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.01,
    grad_clip: 1.0,
};

/// Checks a provider on the model in `dir`; writes below the empty folder `scratch`.
///
/// # Panics
/// When the provider or its trainer breaks the contract.
pub fn trainer(provider: &dyn ModelProvider, dir: &Path, scratch: &Path) {
    let load = |dir: &Path| provider.load(dir).expect("the model can be loaded");
    let model = load(dir);
    assert!(Arc::ptr_eq(&model, &load(dir)), "equal checkpoints are shared");
    let missing = provider.load(&scratch.join("absent"));
    assert!(matches!(missing, Err(ModelError::Unloadable(_))), "an absent model is refused");

    let race = Sampling::Race { temperature: TEMPERATURE };
    let requests: Vec<_> = (0..2).map(|group| request(&*model, group, race)).collect();
    let groups = generate(&*model, &requests);
    let mut sequences = Vec::new();
    let mut logprobs = Vec::new();
    for (request, group) in requests.iter().zip(&groups) {
        for completion in group {
            let tokens = [request.prompt.as_slice(), &completion.tokens].concat();
            sequences.push(TrainingSequence { tokens, prompt_len: request.prompt.len() });
            logprobs.push(bits(&completion.logprobs));
        }
    }
    let train = |trainer: &mut dyn grail_ports::model::Trainer, is_first: bool| {
        let mut seen = Vec::new();
        let mut loss = |index: usize, values: &[f32]| {
            seen.push(index);
            if is_first {
                assert_eq!(bits(values), logprobs[index], "the trainer sees the miner's bits");
            }
            vec![-1.0; values.len()]
        };
        trainer.accumulate(&sequences, &mut loss, &StopFlag::default()).expect("it trains");
        seen.sort_unstable();
        assert_eq!(seen, (0..sequences.len()).collect::<Vec<_>>(), "each sequence once");
        let stats = trainer.step(&ADAM, &StopFlag::default()).expect("it steps");
        assert!(stats.applied && stats.grad_norm > 0.0, "{stats:?}");
    };
    let start = || provider.trainer(dir).expect("training can start");

    let mut untouched = start();
    let stop = StopFlag::default();
    stop.stop();
    let mut never = |_: usize, values: &[f32]| vec![0.0; values.len()];
    assert_eq!(untouched.accumulate(&sequences, &mut never, &stop), Err(ModelError::Stopped));
    assert_eq!(untouched.step(&ADAM, &stop), Err(ModelError::Stopped));

    // Two steps in one go, and two with a restart between, end in the same bytes.
    let mut one_go = start();
    train(&mut *one_go, true);
    one_go.save_state(&scratch.join("state")).expect("the state can be written");
    train(&mut *one_go, false);
    let digest = one_go.export(&scratch.join("one-go")).expect("the model can be written");
    let mut restarted = start();
    restarted.load_state(&scratch.join("state")).expect("the state can be read");
    train(&mut *restarted, false);
    let again = restarted.export(&scratch.join("restarted")).expect("the model can be written");
    assert_eq!(digest, again, "a restart changes nothing");
    assert!(restarted.load_state(&scratch.join("absent")).is_err(), "an absent state is refused");

    let trained = load(&scratch.join("one-go"));
    assert_eq!(trained.info().checkpoint_digest, digest, "the digest is that of the files");
    assert_ne!(digest, model.info().checkpoint_digest, "training changes the weights");
    assert_eq!(trained.info().tokenizer_digest, model.info().tokenizer_digest);
    let total = |model: &dyn Model| -> f64 {
        let requests: Vec<_> = sequences
            .iter()
            .map(|TrainingSequence { tokens, prompt_len }| ScoreRequest {
                tokens: tokens.clone(),
                prompt_len: *prompt_len,
                race: None,
                entropy: false,
                whitening: None,
                rows: false,
            })
            .collect();
        let scores = score(model, &requests);
        scores.iter().flat_map(|score| &score.logprobs).copied().map(f64::from).sum()
    };
    assert!(total(&*trained) > total(&*model), "the loss asked for likelier tokens");
}
