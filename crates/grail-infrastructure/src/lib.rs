//! Adapters to the outside world, and the embedded chain, beacon and store.
