//! The grail command.

fn main() {}
