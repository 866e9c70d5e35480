//! The traits and plain types between the services and the outside world.
