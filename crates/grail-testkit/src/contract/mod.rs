//! What every implementation of a port must do, as functions that panic when one does not.
//!
//! An adapter's tests call them on the real thing, the fakes' tests on the fakes, so that a
//! service that works with a fake works with an adapter.

mod beacon;
mod chain;
mod environment;
mod model;
mod store;

pub use beacon::beacon;
pub use chain::{Advance, ChainUnderTest, chain};
pub use environment::environment;
pub use model::{model, trainer};
pub use store::{buckets, files, large_file, large_object, many_objects, object_store};
