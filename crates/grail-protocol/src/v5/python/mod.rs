//! What v5 inherits from the language of its reference, CPython 3.12: random numbers, JSON, sums.

pub mod digits;
pub mod json;
pub mod mersenne;
pub mod print;
pub mod random;
pub mod sum;
