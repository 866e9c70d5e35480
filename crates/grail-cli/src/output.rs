//! Standard output: the results a person or a script asked for. Logs and progress go to standard error.

use std::io::{self, ErrorKind, Write};

/// Writes `text` and a line end to standard output.
///
/// A reader that has gone away (`grail model show | head -1`) is no error: nobody wants the rest.
pub fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes `text` and a line end to standard error.
pub fn error_line(text: &str) {
    // If standard error is closed there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
