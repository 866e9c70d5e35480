//! The reference's rollout file: Parquet in and out, with bounded memory.
//!
//! [`read`] and [`RowReader`] judge every file as the reference does, see [`ReadError`], and refuse
//! hostile ones before they cost anything: footer and page headers are walked first, with every length
//! held to the bytes that are there and to [`Limits`]. The Parquet crate then parses the footer and
//! decodes levels and values; pages are inflated here, to their stated size and not further.
//! [`write`] gives what the reference's reader accepts. Source: spec `rollout-file.md`.

mod codec;
mod column;
mod columns;
mod error;
mod footer;
mod gzip;
mod limits;
mod pages;
mod pieces;
mod reader;
mod schema;
mod source;
mod threads;
mod thrift;
mod values;
mod write;

pub use error::{ReadError, WriteError};
pub use gzip::gunzip;
pub use limits::Limits;
pub use parquet::file::reader::ChunkReader;
pub use reader::{RowReader, read};
pub use source::FileSource;
pub use threads::on_all_threads;
pub use write::write;
