//! One file's way to a verdict.

use bytes::Bytes;
use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::ids::Window;
use grail_protocol::v5::copycat::Submission;
use grail_protocol::v5::file::Expected;

use crate::context::Heartbeat;
use crate::v5::examine::{Bench, ExamineError, Examined, Fault, examine};
use crate::v5::opened::{Opened, open};
use crate::validation::progress::Settled;

/// A judged file.
pub struct Judged {
    /// The verdict.
    pub examined: Examined,
    /// What the copycat check takes, if the file passed.
    pub submission: Option<Submission>,
}

/// Judges the bytes of a file of `window`. Blocks.
///
/// # Errors
/// Only when we were asked to stop.
pub fn judge_bytes(
    bench: &Bench,
    window: Window,
    bytes: &Bytes,
    uploaded: f64,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<Settled<Judged>, ModelError> {
    let hotkey = bench.owner.to_ss58();
    let expected = Expected {
        hotkey: &hotkey,
        window_start: i64::try_from(window.start().0).unwrap_or(i64::MAX),
        block_hash: &bench.window_hash,
    };
    let file = match open(bytes, &expected, &bench.randomness) {
        Ok(Opened::Rows(file)) => file,
        Ok(Opened::Banned(reason)) => {
            let examined = Examined::failed(Fault::File(reason), 0, 0);
            return Ok(Settled::Judged(Box::new(Judged { examined, submission: None })));
        }
        Ok(Opened::Absent(reason)) => {
            tracing::warn!(hotkey, reason, "a file that counts as absent");
            return Ok(Settled::Unread);
        }
        Err(reason) => return Ok(Settled::Unknown(reason)),
    };
    let distinct = file.digests.len() as u64;
    match examine(bench, &file.rows, file.total, distinct, stop, heartbeat) {
        Ok(examined) => {
            let submission = examined.fault.is_none().then(|| file.submission(uploaded));
            Ok(Settled::Judged(Box::new(Judged { examined, submission })))
        }
        Err(ExamineError::Model(ModelError::Stopped)) => Err(ModelError::Stopped),
        Err(error) => Ok(Settled::Unknown(error.to_string())),
    }
}
