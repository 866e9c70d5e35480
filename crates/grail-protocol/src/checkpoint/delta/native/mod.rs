//! A smaller delta: which words changed and by how much, entropy-coded against the base.
//!
//! A training step moves a bf16 weight only where its rounding tips, and then mostly to the next
//! value. How likely that is depends on the weight's exponent: the same step is large for a small
//! weight. So the words of a tensor are put in classes by the exponent of their *base*, which the
//! reader has too. Coded are, in the order of the words, the distance to the next change of the
//! same class and the difference of the value in the order of the numbers, both by
//! [rANS](rans) with tables for the rate at which a class changes.
//!
//! ```text
//! file   = magic:8 header_digest:32 (length:u32 block)*      one block for each BLOCK_WORDS words
//! block  = tables n_bit_bytes:u32 bits words:u16*
//! piece  = level{classes} then, for each class with a level, the first distance
//! change = value distance                                    distance 0 ends the class
//! ```
//!
//! The result depends on the base, so whoever applies a delta compares the digest of what comes out.

mod bits;
mod block;
mod rans;
mod tables;
mod words;

pub use block::{decode_block, encode_block};
pub use words::Word;

use super::DeltaError;
use crate::checkpoint::tensors::TensorIndex;
use crate::ids::Digest;

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"GRAILD1\0";

/// Words that are coded together: their symbols are held in memory.
const BLOCK_WORDS: u64 = 1 << 22;

/// Words that share the rates of their classes.
const PIECE_WORDS: u64 = 1 << 18;

/// Bytes in front of the first block.
const HEAD_BYTES: usize = MAGIC.len() + 32;

/// Words of one type that follow one another in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Their type.
    pub word: Word,
    /// How many there are.
    pub words: usize,
}

/// What is coded together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its words.
    pub pieces: Vec<Piece>,
}

impl Block {
    /// Returns the bytes that the words take in a file.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.words * piece.word.size()).sum()
    }
}

/// Cuts the tensors of a file, in the order of their bytes, into blocks.
pub fn blocks(index: &TensorIndex) -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut block, mut room) = (Block::default(), BLOCK_WORDS);
    for tensor in &index.tensors {
        let word = Word::of_dtype(&tensor.dtype);
        let mut left = (tensor.range.end - tensor.range.start) / word.size() as u64;
        while left > 0 {
            let words = left.min(room).min(PIECE_WORDS);
            left -= words;
            room -= words;
            let words = usize::try_from(words).expect("at most PIECE_WORDS");
            block.pieces.push(Piece { word, words });
            if room == 0 {
                blocks.push(std::mem::take(&mut block));
                room = BLOCK_WORDS;
            }
        }
    }
    if !block.pieces.is_empty() {
        blocks.push(block);
    }
    blocks
}

/// Writes the file of a delta, block by block.
pub struct DeltaWriter(Vec<u8>);

impl DeltaWriter {
    /// Starts the delta between two files with the same header.
    pub fn new(header: &[u8]) -> Self {
        Self([&MAGIC[..], &Digest::of(header).0].concat())
    }

    /// Adds what [`encode_block`] made of the next block. Blocks do not depend on one another, so
    /// several may be coded at a time.
    ///
    /// # Panics
    /// When it was not made of a block.
    pub fn push(&mut self, coded: &[u8]) {
        let length = u32::try_from(coded.len()).expect("a block has at most 4 million words");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(coded);
    }

    /// Returns the file.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Returns the coded blocks of a delta, in order.
///
/// # Errors
/// When it is no delta, one for a file with another header, or has another number of blocks.
pub fn read_blocks<'a>(
    delta: &'a [u8],
    header: &[u8],
    n_blocks: usize,
) -> Result<Vec<&'a [u8]>, DeltaError> {
    let bad = |reason: &str| DeltaError::BadHeader(reason.to_owned());
    let Some((head, mut rest)) = delta.split_at_checked(HEAD_BYTES) else {
        let left = delta.len() as u64;
        return Err(DeltaError::Truncated { what: "head", needed: HEAD_BYTES as u64, left });
    };
    let (magic, digest) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(bad("its first bytes are not those of a delta"));
    }
    if digest != Digest::of(header).0 {
        return Err(bad("it is for a file with other tensors"));
    }
    let mut coded = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length);
        let split = usize::try_from(length).ok().and_then(|length| behind.split_at_checked(length));
        let Some((block, behind)) = split else {
            let (needed, left) = (u64::from(length), behind.len() as u64);
            return Err(DeltaError::Truncated { what: "block", needed, left });
        };
        if coded.len() == n_blocks {
            return Err(bad("it has more blocks than the file"));
        }
        coded.push(block);
        rest = behind;
    }
    match rest.is_empty() && coded.len() == n_blocks {
        true => Ok(coded),
        false => Err(bad("it has fewer blocks than the file")),
    }
}
