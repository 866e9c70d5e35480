//! Events, metric names and log set-up.
