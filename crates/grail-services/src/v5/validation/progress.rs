//! What is settled of a window that is not finished, and one file's way to a verdict.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::v5::copycat::Submission;
use grail_protocol::v5::file::Expected;

use crate::context::Heartbeat;
use crate::v5::examine::{Bench, ExamineError, Examined, Fault, examine};
use crate::v5::opened::{Opened, open};
use crate::validation::discovery::Candidate;

/// A judged file.
pub struct Judged {
    /// The verdict.
    pub examined: Examined,
    /// What the copycat check takes, if the file passed.
    pub submission: Option<Submission>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What came of one miner's file.
pub enum Settled {
    /// It was judged.
    Judged(Box<Judged>),
    /// It does not count after all: late, gone, too small or too large.
    Gone,
    /// It is there, but nobody can read it: no ban and no score.
    Unread,
    /// Our own failure; the reason is for a person.
    Unknown(String),
}

/// What is settled of a window.
pub struct Progress {
    /// The window.
    pub window: Window,
    /// Tries so far.
    pub attempts: u32,
    /// Whether a miner's file was there in time; those we could not see have no entry.
    pub in_time: BTreeMap<Hotkey, bool>,
    /// Miners whose file cannot be read.
    pub unread: BTreeSet<Hotkey>,
    /// Judged files.
    pub judged: BTreeMap<Hotkey, Judged>,
}

impl Progress {
    /// Starts a window.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            attempts: 0,
            in_time: BTreeMap::new(),
            unread: BTreeSet::new(),
            judged: BTreeMap::new(),
        }
    }

    /// Returns whether a miner has a file in time.
    pub fn is_active(&self, hotkey: Hotkey) -> bool {
        self.in_time.get(&hotkey) == Some(&true)
    }

    /// Returns how many miners we owe an answer.
    pub fn unsettled(&self, candidates: &[Candidate], selected: &[Candidate]) -> usize {
        let unseen = candidates.iter().filter(|it| !self.in_time.contains_key(&it.hotkey));
        let unjudged = selected.iter().filter(|it| {
            self.is_active(it.hotkey)
                && !self.judged.contains_key(&it.hotkey)
                && !self.unread.contains(&it.hotkey)
        });
        unseen.count() + unjudged.count()
    }

    /// Returns the files that take part in the copycat check.
    pub fn submissions(&self) -> BTreeMap<String, Submission> {
        let passed = |(hotkey, judged): (&Hotkey, &Judged)| {
            Some((hotkey.to_ss58(), judged.submission.clone()?))
        };
        self.judged.iter().filter_map(passed).collect()
    }
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
) -> Result<Settled, ModelError> {
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
            return Ok(Settled::Judged(Box::new(Judged {
                examined,
                submission: None,
                seconds: 0.0,
            })));
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
            Ok(Settled::Judged(Box::new(Judged { examined, submission, seconds: 0.0 })))
        }
        Err(ExamineError::Model(ModelError::Stopped)) => Err(ModelError::Stopped),
        Err(error) => Ok(Settled::Unknown(error.to_string())),
    }
}
