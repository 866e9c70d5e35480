//! Writes choices to standard output as they come, the first one live and the others in turn.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};

use grail_model::tokenizer::Tokenizer;

use crate::cli::GenerateArgs;
use crate::inference::assembler::Piece;
use crate::inference::sequence::Step;

/// What was written, and what waits for its turn.
pub struct Printer<'a> {
    tokenizer: &'a Tokenizer,
    args: &'a GenerateArgs,
    /// The choice that is being written.
    current: usize,
    /// Steps of the choices from the current one on; those of the current one are written at once.
    waiting: Vec<VecDeque<Step>>,
    /// Whether the line that is being written has something in it.
    is_open: bool,
}

impl<'a> Printer<'a> {
    /// Prints what `args` ask for.
    pub fn new(args: &'a GenerateArgs, tokenizer: &'a Tokenizer) -> Self {
        let waiting = (0..args.n).map(|_| VecDeque::new()).collect();
        Self { tokenizer, args, current: 0, waiting, is_open: false }
    }

    /// Takes a step; returns whether anybody still reads.
    ///
    /// # Errors
    /// When standard output fails otherwise than by being closed.
    pub fn take(&mut self, choice: usize, step: Step) -> io::Result<bool> {
        if self.args.json {
            return Ok(true);
        }
        self.waiting[choice].push_back(step);
        let mut stdout = io::stdout().lock();
        let written = self.write_turn(&mut stdout).and_then(|()| stdout.flush());
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the line that is being written.
    ///
    /// # Errors
    /// As [`Printer::take`].
    pub fn end(self) -> io::Result<()> {
        if !self.is_open {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match writeln!(stdout).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes what the current choice has, and goes on to the next one at its end.
    fn write_turn(&mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(step) = self.waiting.get_mut(self.current).and_then(VecDeque::pop_front) {
            match step {
                Step::Piece(piece) if self.args.logprobs => self.write_tokens(out, &piece)?,
                Step::Piece(piece) => {
                    self.write_heading(out)?;
                    out.write_all(piece.text.as_bytes())?;
                    self.is_open = true;
                }
                Step::Done(_) => {
                    if self.is_open {
                        writeln!(out)?;
                    }
                    self.is_open = false;
                    self.current += 1;
                }
            }
        }
        Ok(())
    }

    /// Says which choice begins, if there are several.
    fn write_heading(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.args.n > 1 && !self.is_open {
            writeln!(out, "--- {} of {} ---", self.current + 1, self.args.n)?;
        }
        Ok(())
    }

    fn write_tokens(&mut self, out: &mut impl Write, piece: &Piece) -> io::Result<()> {
        for token in piece.tokens.iter().filter(|token| token.is_shown) {
            let bytes = self.tokenizer.token_bytes(token.id);
            writeln!(
                out,
                "{}\t{}\t{}\t{:?}",
                self.current,
                token.id,
                token.logprob,
                String::from_utf8_lossy(&bytes)
            )?;
        }
        Ok(())
    }
}
