//! The pure rules that every role of a GRAIL subnet must agree on, byte for byte.
