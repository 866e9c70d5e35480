//! The life of a role: signals, window ticks, heartbeat, shutdown.
//!
//! A neuron starts, ticks and stops; what a tick does belongs to a service.

pub mod health;
pub mod lifecycle;
pub mod neuron;
pub mod roles;
pub mod signals;
