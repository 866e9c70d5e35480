//! Turns tokens into text one by one, in whole characters.

use std::borrow::Borrow;

use super::{Tokenizer, TokenizerError};

/// Tokens that are decoded anew at each step, and what they are cut down to.
const WINDOW_TOKENS_MAX: usize = 32;
const WINDOW_TOKENS_KEPT: usize = 8;
/// Beyond this the window is cut even within a character: the text is no UTF-8 anyway.
const WINDOW_TOKENS_FORCED: usize = 128;
/// Most U+FFFD that the beginning of one character may decode to: one for each byte but its last.
const PARTIAL_MAX: usize = 3;
/// Tokens whose text may be withheld at most.
const WITHHELD_TOKENS_MAX: usize = 8;

/// Turns tokens into text one by one: for a terminal, or for a client that reads a stream.
///
/// The pieces together are the text that [`Tokenizer::decode`] gives for all tokens. One exception:
/// a tokenizer with byte fallback gives up a whole run of byte tokens when its end is no UTF-8,
/// characters before included; those were given out by then, and stay.
#[derive(Debug)]
pub struct StreamDecoder<T> {
    tokenizer: T,
    skip_special_tokens: bool,
    /// The last tokens. A decoder may treat the first token of a text differently (leading space),
    /// so new text is what a token adds after the tokens before it.
    window: Vec<u32>,
    /// The part of the window's text that was given out.
    shown: String,
    /// Tokens at the front of the window whose text was given out, all of it.
    n_shown: usize,
}

impl<T: Borrow<Tokenizer>> StreamDecoder<T> {
    /// Starts a text of its own.
    pub fn new(tokenizer: T, skip_special_tokens: bool) -> Self {
        Self {
            tokenizer,
            skip_special_tokens,
            window: Vec::new(),
            shown: String::new(),
            n_shown: 0,
        }
    }

    /// Starts a text that goes on after `context`, of which nothing is given out: a decoder that
    /// drops the leading space of a text then keeps that of the first token.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`].
    pub fn after(
        tokenizer: T,
        skip_special_tokens: bool,
        context: &[u32],
    ) -> Result<Self, TokenizerError> {
        let mut stream = Self::new(tokenizer, skip_special_tokens);
        let mut tail = &context[context.len().saturating_sub(WINDOW_TOKENS_KEPT)..];
        let mut text = stream.decode(tail)?;
        // A tail that begins within a character would spoil a run of byte tokens.
        while text.starts_with(char::REPLACEMENT_CHARACTER) && tail.len() > 1 {
            tail = &tail[1..];
            text = stream.decode(tail)?;
        }
        let whole = without_partial(&text).len();
        text.truncate(whole);
        stream.n_shown = tail.len();
        stream.window = tail.to_vec();
        stream.shown = text;
        Ok(stream)
    }

    /// Takes the next token and returns the text it completes; empty while a character is partial.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let text = self.decode(&self.window)?;
        let whole = without_partial(&text);
        let is_partial = whole.len() < text.len();
        let Some(new) = whole.strip_prefix(self.shown.as_str()) else {
            // The end of a run of byte tokens took the run's earlier characters back. It may bring
            // them again when its last character is complete.
            if is_partial && self.window.len() - self.n_shown < WITHHELD_TOKENS_MAX {
                return Ok(String::new());
            }
            return self.restart();
        };
        let new = new.to_owned();
        whole.clone_into(&mut self.shown);
        if !is_partial {
            self.n_shown = self.window.len();
        }
        self.shorten()?;
        Ok(new)
    }

    /// Returns whether the text of every token so far was given out.
    pub fn is_whole(&self) -> bool {
        self.n_shown == self.window.len()
    }

    /// Ends the text: returns what is still held back, with U+FFFD for what is no character.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`].
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.decode(&self.window)?;
        let rest = match text.strip_prefix(self.shown.as_str()) {
            Some(new) => new.to_owned(),
            None => self.decode(&self.window[self.n_shown..])?,
        };
        self.window.clear();
        self.shown.clear();
        self.n_shown = 0;
        Ok(rest)
    }

    /// Forgets the tokens that were given out, and gives out what the others are by themselves.
    fn restart(&mut self) -> Result<String, TokenizerError> {
        self.window.drain(..self.n_shown);
        let text = self.decode(&self.window)?;
        let whole = without_partial(&text);
        self.n_shown = if whole.len() == text.len() { self.window.len() } else { 0 };
        whole.clone_into(&mut self.shown);
        Ok(self.shown.clone())
    }

    /// Cuts a long window down to tokens that decode to the same text by themselves.
    fn shorten(&mut self) -> Result<(), TokenizerError> {
        if self.window.len() <= WINDOW_TOKENS_MAX {
            return Ok(());
        }
        let longest = self.window.len() - 2 * WINDOW_TOKENS_KEPT;
        let shortest = self.window.len() - WINDOW_TOKENS_KEPT;
        if self.n_shown == self.window.len() {
            for start in (longest..=shortest).rev() {
                let tail = self.decode(&self.window[start..])?;
                if self.shown.ends_with(&tail) && !tail.starts_with(char::REPLACEMENT_CHARACTER) {
                    self.cut(start, tail);
                    return Ok(());
                }
            }
        }
        if self.window.len() > WINDOW_TOKENS_FORCED {
            let mut tail = self.decode(&self.window[shortest..])?;
            let whole = without_partial(&tail).len();
            tail.truncate(whole);
            self.cut(shortest, tail);
        }
        Ok(())
    }

    fn cut(&mut self, start: usize, shown: String) {
        self.window.drain(..start);
        self.n_shown = self.n_shown.saturating_sub(start);
        self.shown = shown;
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.tokenizer.borrow().decode(ids, self.skip_special_tokens)
    }
}

/// Returns `text` without the last few U+FFFD: they stand for the beginning of a character, or for
/// true U+FFFD, which then come a few tokens later.
fn without_partial(text: &str) -> &str {
    let mut whole = text;
    for _ in 0..PARTIAL_MAX {
        match whole.strip_suffix(char::REPLACEMENT_CHARACTER) {
            Some(rest) => whole = rest,
            None => break,
        }
    }
    whole
}
