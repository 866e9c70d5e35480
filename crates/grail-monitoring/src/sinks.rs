//! Hands events on and keeps them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use grail_ports::events::{Event, EventSink};

use crate::RoleContext;

/// Gives every event to each of its sinks, in order.
pub struct Fanout(
    /// Where events go.
    pub Vec<Arc<dyn EventSink>>,
);

impl EventSink for Fanout {
    fn emit(&self, event: Event) {
        let Some((last, others)) = self.0.split_last() else { return };
        for sink in others {
            sink.emit(event.clone());
        }
        last.emit(event);
    }
}

/// An event and who told it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Who told it.
    pub context: Arc<RoleContext>,
    /// What happened.
    pub event: Event,
}

/// Keeps the newest events of all roles of a process; clones share them.
#[derive(Clone)]
pub struct Recorder {
    capacity: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Recorded>,
    n_forgotten: u64,
}

impl Recorder {
    /// Makes a recorder that forgets the oldest event beyond `capacity`.
    ///
    /// # Panics
    /// When the capacity is 0.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a recorder keeps at least one event");
        Self { capacity, kept: Arc::default() }
    }

    /// Returns the sink for the events of one role.
    pub fn sink(&self, context: RoleContext) -> Arc<dyn EventSink> {
        Arc::new(RecorderSink { recorder: self.clone(), context: Arc::new(context) })
    }

    /// Returns the kept events, oldest first.
    pub fn events(&self) -> Vec<Recorded> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.events.iter().cloned().collect()
    }

    /// Returns how many events were forgotten.
    pub fn n_forgotten(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).n_forgotten
    }
}

struct RecorderSink {
    recorder: Recorder,
    context: Arc<RoleContext>,
}

impl EventSink for RecorderSink {
    fn emit(&self, event: Event) {
        let mut kept = self.recorder.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.events.len() == self.recorder.capacity {
            kept.events.pop_front();
            kept.n_forgotten += 1;
        }
        kept.events.push_back(Recorded { context: self.context.clone(), event });
    }
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::{BlockNumber, Netuid, Uid};

    use super::*;
    use crate::{Metric, Metrics};

    fn context(uid: u16) -> RoleContext {
        let (role, network) = ("miner".to_owned(), "local".to_owned());
        RoleContext { role, network, netuid: Netuid(81), uid: Some(Uid(uid)) }
    }

    fn block(number: u64) -> Event {
        Event::BlockSeen { block: BlockNumber(number) }
    }

    #[test]
    fn a_fanout_reaches_every_sink() {
        let (recorder, metrics) = (Recorder::new(8), Metrics::default());
        let fanout = Fanout(vec![
            recorder.sink(context(1)),
            metrics.sink(context(1)),
            recorder.sink(context(2)),
        ]);
        fanout.emit(block(60));
        let events = recorder.events();
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|recorded| recorded.event == block(60)));
        assert_eq!((events[0].context.uid, events[1].context.uid), (Some(Uid(1)), Some(Uid(2))));
        let points = metrics.snapshot().points;
        assert!(points.iter().any(|point| point.metric == Metric::ChainBlock));
        Fanout(vec![]).emit(block(1));
    }

    #[test]
    fn a_full_recorder_forgets_the_oldest() {
        let recorder = Recorder::new(3);
        let sink = recorder.sink(context(1));
        (0..10).for_each(|number| sink.emit(block(number)));
        let kept: Vec<Event> = recorder.events().into_iter().map(|kept| kept.event).collect();
        assert_eq!(kept, [block(7), block(8), block(9)]);
        assert_eq!(recorder.n_forgotten(), 7);
    }
}
