//! Sets up logs: lines for a person or JSON for a machine, to the console and to a file.
//!
//! Nothing is read from the environment; the caller passes level and filter. A secret cannot leak
//! here that was not logged: secrets are types without a plain `Debug`.

mod human;
mod rotating;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use human::Human;
use rotating::RotatingFile;
use writer::Lines;

/// Takes one finished record, line break included. It is called by the thread that logs, so it must
/// be quick. With progress bars on the screen it is the place to move them out of the way.
pub type LineSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What to log, how, and where to.
#[derive(Clone)]
pub struct LogConfig {
    /// Number of `-v`: 0 shows what an operator wants, 1 adds details of each rollout, 2 all.
    pub verbosity: u8,
    /// Directives such as `info,grail_services=debug`; they replace what `verbosity` says.
    pub filter: Option<String>,
    /// One JSON object a line instead of lines for a person.
    pub json: bool,
    /// Colours on the console; lines for a person only.
    pub color: bool,
    /// A file that gets the same records; it is rotated.
    pub file: Option<PathBuf>,
    /// Where console records go.
    pub console: LineSink,
}

impl LogConfig {
    /// Returns the set-up for an operator at a console: standard error, no file.
    pub fn console() -> Self {
        Self {
            verbosity: 0,
            filter: None,
            json: false,
            color: false,
            file: None,
            console: Arc::new(writer::to_stderr),
        }
    }

    fn directives(&self) -> String {
        match (&self.filter, self.verbosity) {
            (Some(filter), _) => filter.clone(),
            (None, 0) => "warn,grail=info".to_owned(),
            (None, 1) => "info,grail=debug".to_owned(),
            (None, _) => "debug,grail=trace".to_owned(),
        }
    }
}

impl fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verbosity, filter, json, color, file, console: _ } = self;
        f.debug_struct("LogConfig")
            .field("verbosity", verbosity)
            .field("filter", filter)
            .field("json", json)
            .field("color", color)
            .field("file", file)
            .finish_non_exhaustive()
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("log filter `{filter}` cannot be read: {reason}; write for example `info,grail=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be written.
    #[error("cannot write the log file {}: {source}; choose another", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// Logs are set up once a process.
    #[error("logs are already set up in this process; set them up once, at the start")]
    AlreadySetUp,
}

/// Sets up the logs of the process.
///
/// # Errors
/// When the filter or the file cannot be used, or when logs are set up already.
pub fn init_logging(config: &LogConfig) -> Result<(), LogError> {
    tracing::subscriber::set_global_default(subscriber(config)?).map_err(|_| LogError::AlreadySetUp)
}

/// Sets up the logs of this thread until the guard is dropped: for tests.
///
/// # Errors
/// When the filter or the file cannot be used.
pub fn init_thread_logging(config: &LogConfig) -> Result<DefaultGuard, LogError> {
    Ok(tracing::subscriber::set_default(subscriber(config)?))
}

fn subscriber(config: &LogConfig) -> Result<impl Subscriber + Send + Sync + use<>, LogError> {
    let directives = config.directives();
    let filter = EnvFilter::try_new(&directives).map_err(|error| LogError::Filter {
        filter: directives.clone(),
        reason: error.to_string(),
    })?;
    let file = match &config.file {
        None => None,
        Some(path) => {
            let file = RotatingFile::open(path)
                .map_err(|source| LogError::File { path: path.clone(), source })?;
            let sink: LineSink = Arc::new(move |record| file.append(record));
            Some(layer(config.json, false, sink))
        }
    };
    let console = layer(config.json, config.color, config.console.clone());
    Ok(Registry::default().with(filter).with(console).with(file))
}

fn layer<S>(json: bool, color: bool, sink: LineSink) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(sink));
    if json {
        return layer.json().flatten_event(true).with_current_span(false).boxed();
    }
    layer.event_format(Human { color, clock: human::system_time_ms }).boxed()
}

#[cfg(test)]
mod tests;
