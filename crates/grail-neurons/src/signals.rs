//! Turns signals of the operating system into the one stop token.

use std::io;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit status of a process that is ended by a second signal: 128 plus the number of SIGINT.
const SECOND_SIGNAL_STATUS: i32 = 130;

/// Cancels `token` on SIGINT or SIGTERM; a second signal ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn cancel_on_signal(token: CancellationToken) -> io::Result<JoinHandle<()>> {
    let mut signals = Signals::install()?;
    Ok(tokio::spawn(async move {
        signals.next().await;
        info!("stopping; a second signal stops at once");
        token.cancel();
        signals.next().await;
        warn!("stopped by a second signal");
        std::process::exit(SECOND_SIGNAL_STATUS);
    }))
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
