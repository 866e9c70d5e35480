//! What v5 inherits from the language of its reference, CPython 3.12: random numbers and sums.

pub mod mersenne;
pub mod random;
pub mod sum;
