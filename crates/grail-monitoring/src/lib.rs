//! Turns events into metrics and sets up logs; the only place that knows the name of a metric.
//!
//! Services emit [`Event`](grail_ports::events::Event)s. A [`Fanout`] hands them to [`Metrics`]
//! (numbers for Prometheus) and to a [`Recorder`] (the events themselves, for a report).

mod context;
pub mod dashboard;
mod histogram;
pub mod logs;
mod metrics;
mod names;
mod prometheus;
mod sinks;

pub use context::{RoleContext, window_span};
pub use histogram::{BOUNDS_S, Histogram};
pub use metrics::{Distribution, Label, Metrics, Point, Snapshot};
pub use names::{Kind, Metric};
pub use sinks::{Fanout, Recorded, Recorder};
