//! How much of a file is read before it counts as absent. Honest files are far below.

/// Bounds on what a file may make a reader do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of a file.
    pub rows: usize,
    /// Tokens of one row, and log-probabilities.
    pub tokens_per_row: usize,
    /// Tokens of all rows together, and log-probabilities.
    pub tokens: usize,
    /// Bytes of pages that are held at a time: the largest of each column.
    pub page_bytes: usize,
    /// Bytes of all pages together, inflated.
    pub inflated_bytes: u64,
    /// Bytes of all decoded rows together.
    pub decoded_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A miner can be paid for 60,000 rollouts in twelve windows.
            rows: 100_000,
            // Eight times the longest sequence that validators take by default.
            tokens_per_row: 131_072,
            tokens: 1 << 25,
            // Writers flush a page after 1,024 values: 180 KB each for the longest commitments.
            page_bytes: 512 << 20,
            inflated_bytes: 2 << 30,
            decoded_bytes: 2 << 30,
        }
    }
}

/// Most bytes of a footer. One with a thousand row groups has 5 MB.
pub const FOOTER_BYTES_MAX: u64 = 16 << 20;

/// Most elements of all lists of a footer together.
pub const FOOTER_ELEMENTS_MAX: usize = 1 << 19;

/// Most elements of a schema; the reference's has 34.
pub const SCHEMA_ELEMENTS_MAX: usize = 1 << 10;

/// Deepest nesting of a schema; the reference's has 5.
pub const SCHEMA_DEPTH_MAX: usize = 16;

/// Most bytes of a page header, which may hold two values for statistics.
pub const PAGE_HEADER_BYTES_MAX: usize = 64 << 10;

/// Most pages that the known columns have together, those counted twice to which two chunks point.
/// Full files have a few thousand, or 50,000 in a thousand row groups.
pub const PAGES_MAX: usize = 1 << 18;

/// Most bytes of a text that is no JSON: an address, a signature, the name of a model.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// Rows that are decoded at a time.
pub const BATCH_ROWS: usize = 32;
