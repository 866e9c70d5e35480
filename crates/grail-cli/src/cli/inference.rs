//! The options of the commands that generate text.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, value_parser};

use crate::human_duration::HumanDuration;

/// Options of `grail generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --prompt and --chat the prompt is read from standard input. The same seed gives the same \
text on any machine and with any number of threads. docs/serve.md describes the JSON.

  grail generate --chat 'What is 12 + 7?' --temperature 0
  echo 'Once upon a time' | grail generate --model SmolLM2-135M/ --max-tokens 64 --seed 1")]
pub struct GenerateArgs {
    /// Model folder or GGUF file; `default` is the embedded model.
    #[arg(long, value_name = "DIR|GGUF|default", default_value = "default")]
    pub model: PathBuf,
    /// Text to go on from.
    #[arg(long, value_name = "TEXT", conflicts_with = "chat")]
    pub prompt: Option<String>,
    /// Message to answer, in the model's chat template.
    #[arg(long, value_name = "TEXT")]
    pub chat: Option<String>,
    /// System message of the chat.
    #[arg(long, value_name = "TEXT", requires = "chat", conflicts_with = "prompt")]
    pub system: Option<String>,
    /// Most tokens to generate; less where the model's context ends.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: u32,
    /// Divides the logits; 0 takes the most likely token each time.
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Leaves out tokens beyond the most likely ones with this share of the probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f64,
    /// Seed of the choice of tokens; default: a random one, which the summary and the JSON tell.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Choices to generate, each with randomness of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub n: u32,
    /// Text that ends a choice and is not shown; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Tell each token with its log-probability (nats): one a line, or in the JSON.
    #[arg(long)]
    pub logprobs: bool,
    /// Answer as one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// Options of `grail serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
POST /v1/completions, /v1/chat/completions (OpenAI's API) and /generate (token ids in and out); \
GET /v1/models, /health, /metrics. docs/serve.md has the details and all limits.

  grail serve --model SmolLM2-135M/ --port 8000
  curl -s localhost:8000/v1/completions -H 'content-type: application/json' \\
    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 32, \"seed\": 1}'")]
pub struct ServeArgs {
    /// Model folder or GGUF file; `default` is the embedded model.
    #[arg(long, value_name = "DIR|GGUF|default", default_value = "default")]
    pub model: PathBuf,
    /// Name that requests give the model; default: that of its folder or file.
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Address to listen at.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub host: IpAddr,
    /// Port to listen at; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Most sequences generated at once; more use the processor better and are slower each.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    pub max_running: Option<u32>,
    /// Most sequences that wait beside them; what comes beyond is answered with 429.
    #[arg(long, value_name = "N", default_value_t = 256,
        value_parser = value_parser!(u32).range(0..=65536))]
    pub queue: u32,
    /// Most tokens of prompt and completion together; default: what the model takes.
    #[arg(long, value_name = "N")]
    pub max_context: Option<usize>,
    /// File with the API keys that open the server, one a line; without it everybody may ask.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Longest time from a request to its last byte.
    #[arg(long, value_name = "TIME", default_value_t = HumanDuration::from_millis(600_000))]
    pub request_timeout: HumanDuration,
    /// Time that requests under way get when the server is stopped.
    #[arg(long, value_name = "TIME", default_value_t = HumanDuration::from_millis(30_000))]
    pub drain_timeout: HumanDuration,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}
