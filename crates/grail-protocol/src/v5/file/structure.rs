//! Whether a file is the miner's, of this window, and made of whole groups. Any fault bans the miner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Footer, Row, Scalar, WindowFile};

/// Rollouts of a group, in a file.
pub const ROLLOUTS_PER_GROUP: usize = 16;

/// What a file must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// SS58 address in the file's key.
    pub hotkey: &'a str,
    /// First block of the window.
    pub window_start: i64,
    /// Hash of that block as the chain client gives it, with `0x`.
    pub block_hash: &'a str,
}

/// Why the miner is banned. Rows are 0-based.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructureFault {
    /// The footer names another miner.
    #[error("the footer's wallet is {0:?}; it must be the hotkey in the file's key")]
    WalletMismatch(String),
    /// The footer names another window.
    #[error("the footer's window is {0}; it must be the window in the file's key")]
    WindowMismatch(i64),
    /// The file has no groups.
    #[error("row {0} has no rollout_group; every row must have one")]
    NullRolloutGroup(usize),
    /// A row of another window.
    #[error("row {0} has another window_start; it must be the file's window")]
    WindowStartMismatch(usize),
    /// A row with another hash.
    #[error("row {0} has another block_hash; it must be that of the window's first block")]
    BlockHashMismatch(usize),
    /// A nonce was there before.
    #[error("row {0} repeats a nonce; each row must have its own")]
    DuplicateNonce(usize),
    /// A group is not whole.
    #[error("group {group} has {rows} rows; every group must have 16")]
    InvalidGroupSize {
        /// Text of the `rollout_group`.
        group: String,
        /// Its rows in the file.
        rows: usize,
    },
}

impl StructureFault {
    /// Returns the reference's word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::WalletMismatch(_) => "wallet_mismatch",
            Self::WindowMismatch(_) => "window_mismatch",
            Self::NullRolloutGroup(_) => "null_rollout_group",
            Self::WindowStartMismatch(_) => "window_start_mismatch",
            Self::BlockHashMismatch(_) => "block_hash_mismatch",
            Self::DuplicateNonce(_) => "duplicate_nonce",
            Self::InvalidGroupSize { .. } => "invalid_group_size",
        }
    }
}

/// Checks a whole file. One without rows passes.
///
/// # Errors
/// The first fault in the reference's order.
pub fn check_structure(file: &WindowFile, expected: &Expected<'_>) -> Result<(), StructureFault> {
    let mut check = StructureCheck::new(&file.footer, expected)?;
    for row in &file.rows {
        check.row(row)?;
    }
    check.finish()
}

/// The same check on a file that is read row by row.
#[derive(Clone, Debug)]
pub struct StructureCheck<'a> {
    expected: Expected<'a>,
    n_rows: usize,
    nonces: BTreeSet<Nonce>,
    /// Groups by the text that Python makes of them, with their rows and the first of these.
    groups: BTreeMap<String, (usize, usize)>,
}

/// A nonce by Python's equality: `3`, `3.0` and, for 1, `True` are one. No NaN equals another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nonce {
    Null,
    Whole(i64),
    Float(u64),
    Text(Box<str>),
}

impl Nonce {
    fn new(cell: &Scalar) -> Option<Self> {
        Some(match cell {
            Scalar::Null => Self::Null,
            Scalar::Text(text) => Self::Text(text.clone()),
            Scalar::Float(float) if float.is_nan() => return None,
            Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Float(_) => match cell.whole() {
                Some(whole) => Self::Whole(whole),
                None => Self::Float(cell.as_float()?.to_bits()),
            },
        })
    }
}

impl<'a> StructureCheck<'a> {
    /// Starts with the footer.
    ///
    /// # Errors
    /// When the footer is another miner's or window's.
    pub fn new(footer: &Footer, expected: &Expected<'a>) -> Result<Self, StructureFault> {
        if footer.wallet != expected.hotkey {
            return Err(StructureFault::WalletMismatch(footer.wallet.clone()));
        }
        if footer.window_start != expected.window_start {
            return Err(StructureFault::WindowMismatch(footer.window_start));
        }
        let (nonces, groups) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { expected: *expected, n_rows: 0, nonces, groups })
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// Its first fault; then the rest need not be read.
    pub fn row(&mut self, row: &Row) -> Result<(), StructureFault> {
        let at = self.n_rows;
        self.n_rows += 1;
        if row.rollout_group.is_null() {
            return Err(StructureFault::NullRolloutGroup(at));
        }
        if !row.window_start.equals(self.expected.window_start) {
            return Err(StructureFault::WindowStartMismatch(at));
        }
        if row.block_hash.as_text() != Some(self.expected.block_hash) {
            return Err(StructureFault::BlockHashMismatch(at));
        }
        if let Some(nonce) = Nonce::new(&row.nonce)
            && !self.nonces.insert(nonce)
        {
            return Err(StructureFault::DuplicateNonce(at));
        }
        self.groups.entry(row.rollout_group.to_text()).or_insert((0, at)).0 += 1;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When a group has not 16 rows; the first such in the file.
    pub fn finish(self) -> Result<(), StructureFault> {
        let broken = self.groups.into_iter().filter(|(_, (rows, _))| *rows != ROLLOUTS_PER_GROUP);
        match broken.min_by_key(|(_, (_, first))| *first) {
            Some((group, (rows, _))) => Err(StructureFault::InvalidGroupSize { group, rows }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected<'_> =
        Expected { hotkey: "5Grw", window_start: 30, block_hash: "0xab" };

    fn file(rows: usize) -> WindowFile {
        let row = |at: usize| Row {
            window_start: 30.into(),
            block_hash: "0xab".into(),
            nonce: (at as i64).into(),
            rollout_group: (at as i64 / 16).into(),
            ..Row::default()
        };
        let footer = Footer { wallet: "5Grw".into(), window_start: 30, ..Footer::default() };
        WindowFile { footer, rows: (0..rows).map(row).collect() }
    }

    fn reason(file: &WindowFile) -> Option<&'static str> {
        check_structure(file, &EXPECTED).err().map(|fault| fault.reason())
    }

    fn spoilt(spoil: impl FnOnce(&mut WindowFile)) -> Option<&'static str> {
        let mut file = file(32);
        spoil(&mut file);
        reason(&file)
    }

    #[test]
    fn whole_groups_pass_in_any_order_and_so_does_an_empty_file() {
        for rows in [0, 16, 32] {
            assert_eq!(reason(&file(rows)), None);
        }
        assert_eq!(spoilt(|file| file.rows.reverse()), None);
    }

    #[test]
    fn the_first_fault_in_row_order_counts() {
        assert_eq!(reason(&file(31)), Some("invalid_group_size"));
        let earlier_row = spoilt(|file| {
            file.rows[3].nonce = 2.into();
            file.rows[4].rollout_group = Scalar::Null;
        });
        assert_eq!(earlier_row, Some("duplicate_nonce"));
        let earlier_check = spoilt(|file| {
            file.rows[3].block_hash = "0xAB".into();
            file.rows[3].window_start = 60.into();
        });
        assert_eq!(earlier_check, Some("window_start_mismatch"));
    }

    #[test]
    fn nonces_are_compared_as_python_compares() {
        let set = |first: Scalar, second: Scalar| {
            spoilt(move |file| {
                file.rows[20].nonce = first;
                file.rows[21].nonce = second;
            })
        };
        let repeated = Some("duplicate_nonce");
        assert_eq!(set(Scalar::Null, Scalar::Null), repeated);
        assert_eq!(set(0.0.into(), (-1).into()), repeated);
        assert_eq!(set(true.into(), (-1).into()), repeated);
        assert_eq!(set(0.5.into(), 0.5.into()), repeated);
        assert_eq!(set(f64::NAN.into(), f64::NAN.into()), None);
        assert_eq!(set("5".into(), (-1).into()), None);
    }

    #[test]
    fn groups_are_told_apart_by_their_text() {
        let halved = spoilt(|file| file.rows[0].rollout_group = 0.0.into());
        assert_eq!(halved, Some("invalid_group_size"));
        let floats = spoilt(|file| {
            for row in &mut file.rows {
                row.rollout_group = row.rollout_group.as_float().into();
            }
        });
        assert_eq!(floats, None);
    }
}
