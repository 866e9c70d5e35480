//! `grail serve`: an OpenAI-compatible server on the exact engine.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use grail_model::{EngineService, ServiceConfig};
use grail_neurons::signals::cancel_on_signal;
use grail_ports::model::Model;
use tokio_util::sync::CancellationToken;

use crate::base_model::BaseModel;
use crate::cli::ServeArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::output;
use crate::serve::{App, Keys, Limits, Server};

/// Shortest context that makes sense: a token of prompt and one of completion.
const CONTEXT_MIN: usize = 2;
/// Longest wait for blocking work after everything was stopped.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);

/// Does what the options ask for.
pub fn run(args: &ServeArgs, config: &Config) -> Result<Outcome> {
    let keys = match &args.api_key_file {
        Some(path) => Keys::read(path)?,
        None => Keys::default(),
    };
    if keys.is_open() && !args.host.is_loopback() {
        output::error_line(&format!(
            "warning: anybody who reaches {} may use this server; set --api-key-file, or bind \
             127.0.0.1",
            args.host
        ));
    }
    if Duration::from(args.request_timeout).is_zero() {
        bail!("--request-timeout is 0; no request could be answered");
    }
    let mut bounds = config.engine;
    if let Some(running) = args.max_running {
        bounds.max_running_sequences = running as usize;
    }
    let runtime = tokio::runtime::Runtime::new().context("while starting the async runtime")?;
    let stop = CancellationToken::new();
    // From here on a signal must not end the process by itself: a temporary folder would stay.
    let signals = runtime
        .block_on(async { cancel_on_signal(stop.clone()) })
        .context("while installing signal handlers")?;
    // Held until the end: an unpacked or imported model lies in a temporary folder.
    let base = BaseModel::of_argument(&args.model)?;
    let provider = engine::provider(bounds)?;
    let model = provider.load_model(base.dir())?;
    let context_max = context_max(args.max_context, model.engine().positions_max())?;
    let limits = Limits {
        context_max,
        running_max: bounds.max_running_sequences,
        queue_max: args.queue as usize,
        request_time: args.request_timeout.into(),
    };
    let service = ServiceConfig { queue_max: limits.queue_max };
    let service = EngineService::start(model.engine().clone(), service)?;
    let name = args.model_name.clone().unwrap_or_else(|| model_name(&args.model));
    let app = Arc::new(App::new(name, model, Arc::new(service), limits, keys));

    let address = SocketAddr::new(args.host, args.port);
    let outcome = runtime.block_on(serve(app, address, stop, args.drain_timeout.into()));
    signals.abort();
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}

async fn serve(
    app: Arc<App>,
    address: SocketAddr,
    stop: CancellationToken,
    drain: Duration,
) -> Result<Outcome> {
    let served = format!("{} ({} parameters)", app.name, app.model.info().parameters);
    let server = Server::start(app, address)
        .await
        .with_context(|| format!("while binding {address}; is another server there?"))?;
    let shown = server.address();
    output::line(&format!("serving {served} at http://{shown}/v1; ctrl-C stops"))?;
    stop.cancelled().await;
    output::error_line(&format!("stopping: requests under way get {} s", drain.as_secs()));
    server.drain(drain).await;
    Ok(Outcome::Done)
}

fn context_max(wanted: Option<usize>, positions_max: usize) -> Result<usize> {
    let context_max = wanted.unwrap_or(positions_max);
    if !(CONTEXT_MIN..=positions_max).contains(&context_max) {
        bail!(
            "--max-context is {context_max}; this model takes {CONTEXT_MIN} to {positions_max} \
             tokens"
        );
    }
    Ok(context_max)
}

/// Returns what a model is called that was given no name: its folder's or file's.
fn model_name(model: &Path) -> String {
    let resolved = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let name = match resolved.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => resolved.file_stem(),
        _ => resolved.file_name(),
    };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_its_folder_or_file() {
        for (path, name) in [
            ("default", "default"),
            ("/models/SmolLM2-135M/", "SmolLM2-135M"),
            ("/models/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
            ("tiny.Q4_1.GGUF", "tiny.Q4_1"),
        ] {
            assert_eq!(model_name(Path::new(path)), name);
        }
    }

    #[test]
    fn a_context_must_fit_the_model() {
        assert_eq!(context_max(None, 512).unwrap(), 512);
        assert_eq!(context_max(Some(16), 512).unwrap(), 16);
        assert!(context_max(Some(513), 512).is_err());
        assert!(context_max(Some(1), 512).is_err());
    }
}
