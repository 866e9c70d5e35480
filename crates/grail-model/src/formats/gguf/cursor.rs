//! Walks over the bytes of a header that cannot be trusted.

use super::{MetaArray, MetaValue};

const KIND_TEXT: u32 = 8;
pub(super) const KIND_ARRAY: u32 = 9;

/// Returns the fewest bytes a value of `kind` takes, or `None` for an unknown kind.
fn least_bytes(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        KIND_TEXT | 10..=12 => Some(8),
        KIND_ARRAY => Some(12),
        _ => None,
    }
}

/// The bytes not yet read.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(n)
            .ok_or_else(|| format!("it ends within {what}, it is truncated or corrupted"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, String> {
        let len = self.u64(what)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
    }

    /// Reads a value of `kind`. `depth` counts the lists around it.
    pub(super) fn value(&mut self, kind: u32, depth: u32) -> Result<MetaValue<'a>, String> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => MetaValue::Unsigned(u8::from_le_bytes(self.array(WHAT)?).into()),
            1 => MetaValue::Signed(i8::from_le_bytes(self.array(WHAT)?).into()),
            2 => MetaValue::Unsigned(u16::from_le_bytes(self.array(WHAT)?).into()),
            3 => MetaValue::Signed(i16::from_le_bytes(self.array(WHAT)?).into()),
            4 => MetaValue::Unsigned(self.u32(WHAT)?.into()),
            5 => MetaValue::Signed(i32::from_le_bytes(self.array(WHAT)?).into()),
            6 => MetaValue::F32(f32::from_le_bytes(self.array(WHAT)?)),
            7 => match self.array(WHAT)? {
                [0] => MetaValue::Bool(false),
                [1] => MetaValue::Bool(true),
                [other] => return Err(format!("a flag has the value {other}")),
            },
            KIND_TEXT => MetaValue::Text(self.text("a text value")?),
            KIND_ARRAY => MetaValue::Array(self.list(depth)?),
            10 => MetaValue::Unsigned(self.u64(WHAT)?),
            11 => MetaValue::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => MetaValue::F64(f64::from_le_bytes(self.array(WHAT)?)),
            other => return Err(format!("a value has the unknown type {other}")),
        })
    }

    /// Reads a list, walking over its elements so that its extent is known to be sound.
    fn list(&mut self, depth: u32) -> Result<MetaArray<'a>, String> {
        if depth >= 3 {
            return Err("its lists are nested too deeply".into());
        }
        let kind = self.u32("a list's type")?;
        let len = self.u64("a list's length")?;
        let least =
            least_bytes(kind).ok_or_else(|| format!("a list has the unknown type {kind}"))?;
        // Before any loop over it: a length that cannot be true would spin for ages.
        let len = match usize::try_from(len) {
            Ok(len) if len.checked_mul(least).is_some_and(|n| n <= self.bytes.len()) => len,
            _ => return Err(format!("a list claims {len} elements, more than the file holds")),
        };
        let before = self.bytes;
        for _ in 0..len {
            self.value(kind, depth + 1)?;
        }
        Ok(MetaArray { kind, len, bytes: &before[..before.len() - self.bytes.len()] })
    }
}
