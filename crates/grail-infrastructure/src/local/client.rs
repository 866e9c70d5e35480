//! The store over HTTP, for roles in other processes than the network's.
//!
//! Every call has a time limit, every answer a size limit, and every answer must name the network
//! that was meant. Retries are not here but in [`crate::retry`].

mod http;
mod store;

pub use self::http::{ClientError, Http};
pub use self::store::{HttpBuckets, create_bucket};
