//! The bytes behind a token: vocabularies spell bytes as characters, in one of a few ways.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::{DecoderWrapper, Tokenizer};

/// How a vocabulary spells bytes.
#[derive(Debug)]
pub(super) struct Spelling {
    kind: Kind,
    /// Added tokens: they are spelled as they read.
    added: BTreeSet<u32>,
}

#[derive(Debug)]
enum Kind {
    /// Each byte is one character of GPT-2's table.
    ByteLevel(BTreeMap<char, u8>),
    /// SentencePiece: `▁` is a space, and `<0x0A>` the byte 10.
    Pieces,
    /// As it reads.
    Plain,
}

impl Spelling {
    /// Reads the spelling off the tokenizer's decoder.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let kind = match tokenizer.get_decoder() {
            Some(decoder) if any(decoder, is_byte_level) => Kind::ByteLevel(byte_characters()),
            Some(decoder) if any(decoder, is_pieces) => Kind::Pieces,
            _ => Kind::Plain,
        };
        let added = tokenizer.get_added_tokens_decoder().into_iter().map(|(id, _)| id).collect();
        Self { kind, added }
    }

    /// Returns the bytes of token `id`.
    pub(super) fn bytes(&self, tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
        let Some(token) = tokenizer.id_to_token(id) else { return Vec::new() };
        if self.added.contains(&id) {
            return token.into_bytes();
        }
        match &self.kind {
            Kind::Plain => token.into_bytes(),
            Kind::ByteLevel(table) => {
                let bytes: Option<Vec<u8>> =
                    token.chars().map(|c| table.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Kind::Pieces => match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

fn any(decoder: &DecoderWrapper, test: fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().any(|part| any(part, test))
        }
        other => test(other),
    }
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    matches!(decoder, DecoderWrapper::ByteLevel(_))
}

fn is_pieces(decoder: &DecoderWrapper) -> bool {
    matches!(decoder, DecoderWrapper::ByteFallback(_) | DecoderWrapper::Metaspace(_))
}

/// Returns the byte that a token such as `<0x0A>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Returns GPT-2's table: printable bytes of Latin-1 are themselves, the others follow from U+0100.
fn byte_characters() -> BTreeMap<char, u8> {
    let mut next = 0x100;
    let spelled = (0..=u8::MAX).map(|byte| {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        if printable {
            return (char::from(byte), byte);
        }
        let spelled = char::from_u32(next).expect("U+0100 to U+0143 are characters");
        next += 1;
        (spelled, byte)
    });
    spelled.collect()
}
