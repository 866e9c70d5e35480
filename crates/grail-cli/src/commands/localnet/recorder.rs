//! Takes every event of every role: journal first, then the report and what the screen shows.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grail_ports::events::{Event, EventSink};
use grail_protocol::ids::BlockNumber;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::roster::LocalRoster;
use super::status;
use crate::report::{Entry, Journal, Report, RoleTag};

/// The one place that all roles of a process report to.
pub struct Recorder {
    state: Mutex<State>,
    changed: Notify,
    roster: LocalRoster,
}

struct State {
    report: Report,
    journal: Journal,
    head: BlockNumber,
    status: BTreeMap<String, String>,
    /// The first failure of the journal; the network ends when there is one.
    trouble: Option<io::Error>,
}

impl Recorder {
    /// Starts from `report` with the journal's `entries` folded in.
    pub fn new(
        mut report: Report,
        journal: Journal,
        entries: &[Entry],
        roster: LocalRoster,
    ) -> Arc<Self> {
        report.list_miners(&roster);
        for entry in entries {
            report.apply(entry, &roster);
        }
        let state =
            State { report, journal, head: BlockNumber(0), status: BTreeMap::new(), trouble: None };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), roster })
    }

    /// Returns where the role `tag` reports to.
    pub fn sink(self: &Arc<Self>, tag: RoleTag) -> Arc<dyn EventSink> {
        Arc::new(RoleSink { recorder: self.clone(), tag })
    }

    /// Waits until something has happened since the last wait.
    ///
    /// # Cancel safety
    /// Nothing is lost when the wait is dropped.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns a copy of the report.
    pub fn report(&self) -> Report {
        self.lock().report.clone()
    }

    /// Returns the newest block that a role saw, and what each role does.
    pub fn progress(&self) -> (BlockNumber, BTreeMap<String, String>) {
        let state = self.lock();
        (state.head, state.status.clone())
    }

    /// Returns the failure of the journal, once.
    pub fn take_trouble(&self) -> Option<io::Error> {
        self.lock().trouble.take()
    }

    /// Takes an event that was told, or one that was found on the disk.
    pub fn record(&self, tag: &RoleTag, event: Event) {
        let mut state = self.lock();
        if let Event::BlockSeen { block } = event {
            state.head = state.head.max(block);
        }
        let lasting = is_lasting(&event);
        if let Some(text) = status::describe(&event) {
            if lasting {
                info!(by = tag.name, "{text}");
            } else {
                debug!(by = tag.name, "{text}");
            }
            state.status.insert(tag.name.clone(), text);
        }
        if lasting {
            let entry = Entry { role: tag.clone(), event };
            match state.journal.append(&entry) {
                Ok(()) => {}
                // The report shows it as unknown; a resumed run will not know of it at all.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    warn!(by = tag.name, %error, "left an event out of the journal");
                }
                Err(error) => {
                    error!(%error, "cannot write the journal");
                    state.trouble.get_or_insert(error);
                }
            }
            state.report.apply(&entry, &self.roster);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves a whole state, whatever became of the thread that made it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the event belongs into the report, and so into the journal.
fn is_lasting(event: &Event) -> bool {
    !matches!(
        event,
        Event::BlockSeen { .. }
            | Event::CheckpointLoaded { .. }
            | Event::GroupMined { .. }
            | Event::MinerEvidence { .. }
    )
}

struct RoleSink {
    recorder: Arc<Recorder>,
    tag: RoleTag,
}

impl EventSink for RoleSink {
    fn emit(&self, event: Event) {
        self.recorder.record(&self.tag, event);
    }
}
