//! Bit-exact CPU kernels: the numeric contract exact-1.
