//! Keeps every event for a test to look at.

use std::sync::Mutex;

use grail_ports::events::{Event, EventSink};

use crate::lock;

/// An event sink that remembers.
#[derive(Default)]
pub struct RecordingEvents {
    events: Mutex<Vec<Event>>,
}

impl RecordingEvents {
    /// Returns the events so far, in the order in which they came.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// Returns the events so far and forgets them.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.events))
    }
}

impl EventSink for RecordingEvents {
    fn emit(&self, event: Event) {
        lock(&self.events).push(event);
    }
}
