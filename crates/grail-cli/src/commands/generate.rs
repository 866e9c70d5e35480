//! `grail generate`: text from a model, as it comes.

mod print;
mod record;

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use grail_model::chat::ChatMessage;
use grail_model::{EngineService, LocalModel, ServiceConfig};
use grail_neurons::signals::cancel_on_signal;
use grail_ports::model::Sampling;
use grail_protocol::ids::TokenId;
use tokio_util::sync::CancellationToken;

use self::print::Printer;
use self::record::Record;
use crate::base_model::BaseModel;
use crate::cli::GenerateArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::inference::assembler::Reading;
use crate::inference::engine::{SequenceEngine, SequenceRequest};
use crate::inference::seed;
use crate::inference::sequence::{self, Ask, Sequence, steps};
use crate::output;
use crate::serve::params;

/// Most bytes of a prompt from standard input.
const PROMPT_BYTES_MAX: u64 = 4 << 20;
/// Last prompt tokens that a text may need to go on from.
const CONTEXT_TOKENS: usize = 8;
/// Most choices.
const CHOICES_MAX: u32 = 128;

/// Does what the options ask for.
pub fn run(args: &GenerateArgs, config: &Config) -> Result<Outcome> {
    let sampling = check(args)?;
    let prompt = Prompt::of(args)?;
    // Its one thread watches for signals while this one loads the model.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("while starting the async runtime")?;
    let stop = CancellationToken::new();
    // From here on a signal must not end the process by itself: a temporary folder would stay.
    let signals = runtime
        .block_on(async { cancel_on_signal(stop.clone()) })
        .context("while installing signal handlers")?;
    // Held until the end: an unpacked or imported model lies in a temporary folder.
    let base = BaseModel::of_argument(&args.model)?;
    let model = engine::provider(config.engine)?.load_model(base.dir())?;
    let seed = args.seed.map_or_else(seed::random, Ok)?;
    let job =
        Job { prompt: prompt.encode(&model)?, goes_on: prompt.goes_on(), sampling, seed, args };

    let outcome = runtime.block_on(job.run(&model, &stop));
    signals.abort();
    outcome
}

/// Refuses options that make no sense, and returns what two of them mean.
fn check(args: &GenerateArgs) -> Result<Sampling> {
    let sampling = params::of_numbers(args.temperature, args.top_p)
        .map_err(|(name, message)| anyhow!("--{}: {message}", name.replace('_', "-")))?;
    if !(1..=CHOICES_MAX).contains(&args.n) {
        bail!("--n is {}; it must be 1 to {CHOICES_MAX}", args.n);
    }
    if args.max_tokens == 0 {
        bail!("--max-tokens is 0; ask for at least one");
    }
    if args.stop.iter().any(String::is_empty) {
        bail!("--stop is empty; leave it out, or give the text to stop at");
    }
    Ok(sampling)
}

/// What the model is given.
enum Prompt {
    Text(String),
    Chat(Vec<ChatMessage>),
}

impl Prompt {
    fn of(args: &GenerateArgs) -> Result<Self> {
        if let Some(message) = &args.chat {
            let system = args.system.iter().map(|text| ChatMessage::new("system", text));
            let user = std::iter::once(ChatMessage::new("user", message));
            return Ok(Self::Chat(system.chain(user).collect()));
        }
        match &args.prompt {
            Some(text) => Ok(Self::Text(text.clone())),
            None => Ok(Self::Text(read_prompt()?)),
        }
    }

    fn goes_on(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn encode(&self, model: &LocalModel) -> Result<Vec<TokenId>> {
        let tokenizer = model.tokenizer();
        let ids = match self {
            Self::Text(text) => tokenizer.encode(text, true)?,
            // The template writes the special tokens itself.
            Self::Chat(messages) => {
                tokenizer.encode(&model.template().render(messages, true)?, false)?
            }
        };
        let positions = model.engine().positions_max();
        if ids.is_empty() {
            bail!("the prompt is empty; give one with --prompt, --chat or on standard input");
        }
        if ids.len() >= positions {
            bail!(
                "the prompt has {} tokens; the model takes {positions} of prompt and completion \
                 together; shorten it",
                ids.len()
            );
        }
        Ok(ids)
    }
}

fn read_prompt() -> Result<String> {
    if io::stdin().is_terminal() {
        output::error_line("reading the prompt from standard input; ctrl-D ends it");
    }
    let mut bytes = Vec::new();
    io::stdin()
        .take(PROMPT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .context("while reading the prompt")?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        bail!("the prompt has more than {PROMPT_BYTES_MAX} bytes; shorten it");
    }
    let mut text = String::from_utf8(bytes).context("the prompt is not UTF-8")?;
    // A shell's `echo` ends with a line break that nobody means.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// What to do, all of it known.
struct Job<'a> {
    prompt: Vec<TokenId>,
    goes_on: bool,
    sampling: Sampling,
    seed: u64,
    args: &'a GenerateArgs,
}

impl Job<'_> {
    async fn run(&self, model: &Arc<LocalModel>, stop: &CancellationToken) -> Result<Outcome> {
        let n = self.args.n as usize;
        let service = EngineService::start(model.engine().clone(), ServiceConfig { queue_max: n })?;
        let started = Instant::now();
        let sequences: Vec<Sequence> = (0..self.args.n)
            .map(|choice| self.start(&service, model, choice))
            .collect::<Result<_>>()?;

        let mut record = Record::new(n);
        let mut printer = Printer::new(self.args, model.tokenizer());
        let mut steps = steps(sequences);
        while let Some((choice, step)) = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            step = steps.next() => step,
        } {
            let step = step?;
            record.take(choice, &step);
            if !printer.take(choice, step)? {
                // Nobody reads any more.
                break;
            }
        }
        drop(steps);
        let took = started.elapsed();
        SequenceEngine::drain(&service, Duration::ZERO);
        self.tell(model, &record, printer, took)?;
        let interrupted = stop.is_cancelled();
        Ok(if interrupted { Outcome::Interrupted } else { Outcome::Done })
    }

    fn start(
        &self,
        engine: &dyn SequenceEngine,
        model: &LocalModel,
        choice: u32,
    ) -> Result<Sequence> {
        let room = model.engine().positions_max() - self.prompt.len();
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let context = if self.goes_on { &self.prompt[..] } else { &[] };
        let context = context[context.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
        let ask = Ask {
            request: SequenceRequest {
                prompt: self.prompt.clone(),
                sampling: self.sampling,
                race_key: seed::race_key(self.seed, choice),
                max_new_tokens: self.args.max_tokens.min(room),
                top_logprobs: 0,
                capture_digest: false,
                whitening: None,
                ignore_eos: false,
            },
            reading: Reading {
                context,
                stops: self.args.stop.clone(),
                end_tokens: model.tokenizer().eos_token_ids().to_vec(),
            },
            deadline: None,
        };
        Ok(sequence::start(engine, model.tokenizer().clone(), ask, |_| {})?)
    }

    fn tell(
        &self,
        model: &LocalModel,
        record: &Record,
        printer: Printer<'_>,
        took: Duration,
    ) -> Result<()> {
        if self.args.json {
            return Ok(output::line(&record.to_json(self, model, took)?)?);
        }
        printer.end()?;
        if io::stderr().is_terminal() {
            let (tokens, seconds) = (record.n_tokens(), took.as_secs_f64());
            output::error_line(&format!(
                "{} prompt tokens, {tokens} tokens in {seconds:.2} s ({:.1} tokens/s), seed {}",
                self.prompt.len(),
                f64::from(tokens) / seconds.max(f64::MIN_POSITIVE),
                self.seed
            ));
        }
        Ok(())
    }
}
