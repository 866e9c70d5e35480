//! Assembles the text of a sequence: tokens in, whole characters out, nothing from a stop on.

use std::collections::VecDeque;
use std::sync::Arc;

use grail_model::tokenizer::{StreamDecoder, Tokenizer, TokenizerError};
use grail_protocol::ids::TokenId;

use super::stop::StopMatcher;

/// A token that was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Log-probability under the raw logits, nats.
    pub logprob: f32,
    /// The most likely tokens with their log-probabilities, best first.
    pub top: Vec<(TokenId, f32)>,
    /// Where its text begins, in characters from the beginning of the completion.
    pub text_offset: usize,
    /// Whether any of its text is shown: not so for an end token and for one behind a stop string.
    pub is_shown: bool,
}

/// Text, and the tokens whose text it completes. Either may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Whole characters.
    pub text: String,
    /// In the order in which they were generated.
    pub tokens: Vec<Token>,
    /// The stop string that was found: the text is at its end.
    pub stop: Option<String>,
}

/// How the text of a sequence is read off its tokens.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The last tokens of the prompt if the text goes on from there; empty if it stands alone.
    pub context: Vec<TokenId>,
    /// Texts that end the completion and are not shown.
    pub stops: Vec<String>,
    /// Tokens that end the completion and are not shown.
    pub end_tokens: Vec<TokenId>,
}

/// The state of one text.
#[derive(Debug)]
pub struct Assembler {
    decoder: StreamDecoder<Arc<Tokenizer>>,
    stops: StopMatcher,
    end_tokens: Vec<TokenId>,
    /// Tokens that wait for their text to be shown.
    waiting: VecDeque<Waiting>,
    /// Bytes and characters that the decoder gave so far.
    decoded_bytes: usize,
    decoded_chars: usize,
    /// Bytes that were let out so far.
    shown_bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    /// Bytes of text before it, and with it; the latter is not known within a character.
    start: usize,
    end: Option<usize>,
}

impl Assembler {
    /// Starts a text.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the context.
    pub fn new(tokenizer: Arc<Tokenizer>, reading: &Reading) -> Result<Self, TokenizerError> {
        Ok(Self {
            decoder: StreamDecoder::after(tokenizer, true, &reading.context)?,
            stops: StopMatcher::new(&reading.stops),
            end_tokens: reading.end_tokens.clone(),
            waiting: VecDeque::new(),
            decoded_bytes: 0,
            decoded_chars: 0,
            shown_bytes: 0,
        })
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// When the tokenizer cannot decode it.
    pub fn push(
        &mut self,
        id: TokenId,
        logprob: f32,
        top: Vec<(TokenId, f32)>,
    ) -> Result<Piece, TokenizerError> {
        let is_end = self.end_tokens.contains(&id);
        let token = Token { id, logprob, top, text_offset: self.decoded_chars, is_shown: !is_end };
        self.waiting.push_back(Waiting { token, start: self.decoded_bytes, end: None });
        if is_end {
            // It is the last one: its piece comes with the end.
            return Ok(Piece::default());
        }
        let text = self.decoder.push(id)?;
        let is_whole = self.decoder.is_whole();
        Ok(self.take(&text, is_whole))
    }

    /// Returns what is left once nothing more comes.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the last tokens.
    pub fn finish(mut self) -> Result<Piece, TokenizerError> {
        let text = self.decoder.finish()?;
        let mut piece = self.take(&text, true);
        if piece.stop.is_none() {
            piece.text += &self.stops.finish();
            piece.tokens.extend(self.waiting.into_iter().map(|waiting| waiting.token));
        }
        Ok(piece)
    }

    /// Lets out what is certain to be before any stop string.
    fn take(&mut self, text: &str, is_whole: bool) -> Piece {
        self.decoded_bytes += text.len();
        self.decoded_chars += text.chars().count();
        if is_whole {
            let open = self.waiting.iter_mut().filter(|waiting| waiting.end.is_none());
            open.for_each(|waiting| waiting.end = Some(self.decoded_bytes));
        }
        let matched = self.stops.push(text);
        self.shown_bytes += matched.text.len();
        let mut piece = Piece { text: matched.text, tokens: Vec::new(), stop: matched.stop };
        let ended = piece.stop.is_some();
        while let Some(front) = self.waiting.front_mut() {
            if ended {
                front.token.is_shown &= front.start < self.shown_bytes;
            } else if front.end.is_none_or(|end| end > self.shown_bytes) {
                break;
            }
            piece.tokens.extend(self.waiting.pop_front().map(|waiting| waiting.token));
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::fake::model;

    const END: TokenId = 2;

    fn assembler(stops: &[&str]) -> Assembler {
        let reading = Reading {
            context: Vec::new(),
            stops: stops.iter().map(|&stop| stop.to_owned()).collect(),
            end_tokens: vec![END],
        };
        Assembler::new(model().tokenizer().clone(), &reading).unwrap()
    }

    /// The embedded model's tokenizer has a token for each byte and none for more.
    fn ids(text: &str) -> Vec<TokenId> {
        model().tokenizer().encode(text, false).unwrap()
    }

    /// Pushes tokens until a stop; returns the pieces, the last of them that of the end.
    fn run(mut assembler: Assembler, ids: &[TokenId]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for &id in ids {
            let piece = assembler.push(id, -1.0, Vec::new()).unwrap();
            let ended = piece.stop.is_some();
            pieces.push(piece);
            if ended {
                return pieces;
            }
        }
        pieces.push(assembler.finish().unwrap());
        pieces
    }

    fn text(pieces: &[Piece]) -> String {
        pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn a_character_comes_whole_with_all_its_tokens() {
        let pieces = run(assembler(&[]), &ids("a€b"));
        let shown: Vec<(&str, usize)> =
            pieces.iter().map(|piece| (piece.text.as_str(), piece.tokens.len())).collect();
        assert_eq!(shown, [("a", 1), ("", 0), ("", 0), ("€", 3), ("b", 1), ("", 0)]);
        let offsets: Vec<usize> =
            pieces.iter().flat_map(|piece| &piece.tokens).map(|token| token.text_offset).collect();
        assert_eq!(offsets, [0, 1, 1, 1, 2]);
    }

    #[test]
    fn nothing_from_a_stop_string_on_is_shown() {
        let pieces = run(assembler(&["\n\n", "€!"]), &ids("a\nb€!tail"));
        assert_eq!(text(&pieces), "a\nb");
        assert_eq!(pieces.last().unwrap().stop.as_deref(), Some("€!"));
        let tokens: Vec<_> = pieces.iter().flat_map(|piece| &piece.tokens).collect();
        let shown = tokens.iter().filter(|token| token.is_shown).count();
        assert_eq!((tokens.len(), shown), (7, 3), "what was generated, and what was shown");
    }

    #[test]
    fn the_end_token_is_told_and_not_shown() {
        let pieces = run(assembler(&["zz"]), &[ids("az"), vec![END]].concat());
        assert_eq!(text(&pieces), "az");
        let last = pieces.last().unwrap();
        assert_eq!(last.text, "z", "it might have been the beginning of a stop string");
        let tokens: Vec<(TokenId, bool)> =
            last.tokens.iter().map(|token| (token.id, token.is_shown)).collect();
        assert_eq!(tokens, [(ids("z")[0], true), (END, false)]);
    }

    #[test]
    fn a_text_that_ends_within_a_character_says_so() {
        let cut = &ids("a€")[..3];
        assert_eq!(text(&run(assembler(&[]), cut)), "a\u{fffd}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_token_and_every_character_comes_once(
            ids in prop::collection::vec(3u32..384, 0..60),
            stop in "[a-c]{1,2}",
        ) {
            let whole = model().tokenizer().decode(&ids, true).unwrap();
            let pieces = run(assembler(&[&stop]), &ids);
            let tokens: Vec<_> = pieces.iter().flat_map(|piece| &piece.tokens).collect();
            prop_assert!(tokens.iter().map(|token| token.id).eq(ids.iter().copied().take(tokens.len())));
            match whole.split_once(&stop) {
                Some((before, _)) => prop_assert_eq!(text(&pieces), before),
                None => {
                    prop_assert_eq!(text(&pieces), whole);
                    prop_assert_eq!(tokens.len(), ids.len());
                }
            }
        }
    }
}
