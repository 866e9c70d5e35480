//! The reference's rollout file: Parquet in and out, with bounded memory.
