//! What each role does: mining, validation, training.

pub mod blocking;
pub mod checkpoint;
pub mod context;
pub mod math;
pub mod mining;
pub mod peers;
pub mod state;
pub mod training;
pub mod v5;
pub mod validation;
