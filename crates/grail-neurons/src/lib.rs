//! The life of a role: signals, window ticks, heartbeat, shutdown.
