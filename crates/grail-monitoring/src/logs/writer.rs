//! Hands whole records to a sink, so that lines of two threads never mix.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::LineSink;

/// Writes to standard error.
pub(super) fn to_stderr(record: &[u8]) {
    // If standard error is closed there is nobody left to tell.
    let _ = io::stderr().lock().write_all(record);
}

/// Makes a writer for each record.
pub(super) struct Lines(pub(super) LineSink);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Record<'a>;

    fn make_writer(&'a self) -> Record<'a> {
        Record { bytes: Vec::new(), sink: &self.0 }
    }
}

/// Collects one record and hands it over when it is complete.
pub(super) struct Record<'a> {
    bytes: Vec<u8>,
    sink: &'a LineSink,
}

impl Write for Record<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            (self.sink)(&self.bytes);
        }
    }
}
