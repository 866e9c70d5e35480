//! Walks Thrift's compact encoding without believing any length in it.
//!
//! Footers and page headers are untrusted: before the Parquet crate parses one and allocates what it
//! promises, this walk has shown that the promised elements are there and few.

/// Deepest nesting of structures that a Parquet file needs, and some.
const DEPTH_MAX: usize = 16;

/// Why a walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bytes end before the structure does.
    End,
    /// A type, a length or a depth that no Parquet writer gives.
    Invalid,
}

/// Types of the compact encoding that are looked at.
pub mod kind {
    /// True, as a field.
    pub const TRUE: u8 = 1;
    /// False, as a field.
    pub const FALSE: u8 = 2;
    /// 32-bit integer.
    pub const I32: u8 = 5;
    /// List.
    pub const LIST: u8 = 9;
    /// Structure.
    pub const STRUCT: u8 = 12;
}

/// A place in encoded bytes.
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// List elements that may still follow, in all.
    budget: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the front; lists may have `budget` elements together.
    pub fn new(bytes: &'a [u8], budget: usize) -> Self {
        Self { bytes, at: 0, budget }
    }

    /// Returns how many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(Stop::End)?;
        self.at += length;
        Ok(taken)
    }

    /// Takes the next bytes, fewer where they end.
    pub fn take_at_most(&mut self, length: usize) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let taken = &rest[..length.min(rest.len())];
        self.at += taken.len();
        taken
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    /// Reads an unsigned integer, seven bits a byte, as delta encodings have them too.
    pub fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Invalid)
    }

    fn zigzag(&mut self) -> Result<i64, Stop> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Reads an integer of 32 bits.
    pub fn int(&mut self) -> Result<i32, Stop> {
        i32::try_from(self.zigzag()?).map_err(|_| Stop::Invalid)
    }

    /// Reads the head of the next field: its number and type. `None` ends the structure.
    ///
    /// - `last`: the number before; 0 at the start.
    pub fn field(&mut self, last: &mut i16) -> Result<Option<u8>, Stop> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *last = match i16::from(head >> 4) {
            0 => i16::try_from(self.zigzag()?).map_err(|_| Stop::Invalid)?,
            step => last.checked_add(step).ok_or(Stop::Invalid)?,
        };
        Ok(Some(head & 0x0f))
    }

    /// Reads the head of a list: the type and number of its elements, which are known to be there.
    pub fn list(&mut self) -> Result<(u8, usize), Stop> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        let length = usize::try_from(length).map_err(|_| Stop::Invalid)?;
        // Every element takes a byte at least.
        if length > self.bytes.len() - self.at {
            return Err(Stop::End);
        }
        self.budget = self.budget.checked_sub(length).ok_or(Stop::Invalid)?;
        Ok((head & 0x0f, length))
    }

    /// Skips the value of a field.
    pub fn skip(&mut self, kind: u8) -> Result<(), Stop> {
        self.skip_at(kind, 0)
    }

    fn skip_at(&mut self, kind: u8, depth: usize) -> Result<(), Stop> {
        match kind {
            kind::TRUE | kind::FALSE => Ok(()),
            3 => self.take(1).map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.take(8).map(drop),
            8 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Stop::Invalid)?;
                self.take(length).map(drop)
            }
            _ if depth == DEPTH_MAX => Err(Stop::Invalid),
            kind::LIST | 10 => {
                let (element, length) = self.list()?;
                (0..length).try_for_each(|_| self.skip_element(element, depth + 1))
            }
            kind::STRUCT => {
                let mut last = 0;
                while let Some(kind) = self.field(&mut last)? {
                    self.skip_at(kind, depth + 1)?;
                }
                Ok(())
            }
            // Maps and the rest are nowhere in Parquet.
            _ => Err(Stop::Invalid),
        }
    }

    /// Booleans take no byte as a field, and one as an element.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Result<(), Stop> {
        match kind {
            kind::TRUE | kind::FALSE => self.take(1).map(drop),
            kind => self.skip_at(kind, depth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_held_to_the_bytes_that_follow() {
        // A list of 2^35 bytes.
        let long = [0xf3, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(Cursor::new(&long, usize::MAX).skip(kind::LIST), Err(Stop::End));
        // Three bytes, of which two may be.
        let short = [0x33, 1, 2, 3];
        assert_eq!(Cursor::new(&short, 2).skip(kind::LIST), Err(Stop::Invalid));
        assert_eq!(Cursor::new(&short, 3).skip(kind::LIST), Ok(()));
        // A text of which one byte is missing.
        assert_eq!(Cursor::new(&[3, b'a', b'b'], 0).skip(8), Err(Stop::End));
    }

    #[test]
    fn depth_is_bounded() {
        // Structures of one field that is a structure.
        let deep = vec![0x1c; 100_000];
        assert_eq!(Cursor::new(&deep, 0).skip(kind::STRUCT), Err(Stop::Invalid));
        let lists = vec![0x19; 100_000];
        assert_eq!(Cursor::new(&lists, usize::MAX).skip(kind::LIST), Err(Stop::Invalid));
    }
}
