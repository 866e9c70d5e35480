//! Hands bytes to each decoder of outside data, and panics unless the decoder keeps its promises.
//!
//! A decoder may refuse or accept. It may not panic, nor hold more memory than the input's length
//! justifies, whatever the input claims. What it accepts it must write back: to the same bytes where
//! a value has one encoding, else to bytes that read as the same value.

mod commits;
mod delta;
mod reference_file;
pub mod rollouts;
pub mod sealed;
mod text;
mod validated;

use grail_ports::signer::Signer;
use grail_protocol::ids::Hotkey;
use grail_testkit::FakeSigner;
use peak_alloc::PeakAlloc;
use std::sync::LazyLock;

/// A decoder under test.
pub struct Target {
    /// Name, also of the fuzzer's binary.
    pub name: &'static str,
    /// Hands bytes to the decoder; returns whether it accepted them.
    pub drive: fn(&[u8]) -> bool,
    /// Heap that decoding may hold at once: bytes for each byte of the input …
    pub heap_per_byte: usize,
    /// … and bytes beside.
    pub heap_beside: usize,
}

/// Rollout files, as a verifier reads them.
pub const ROLLOUTS: Target = Target {
    name: "rollouts",
    drive: rollouts::drive,
    // A rollout without tokens has 41 bytes in a file and 80 in memory, some copied by the driver.
    heap_per_byte: 10,
    heap_beside: 8 << 10,
};

/// Ciphertexts, and rollout files sealed around strange content.
pub const SEALED: Target =
    Target { name: "sealed", drive: sealed::drive, heap_per_byte: 16, heap_beside: 64 << 10 };

/// Files of validated rollouts, as a trainer opens them.
pub const VALIDATED: Target =
    Target { name: "validated", drive: validated::drive, heap_per_byte: 6, heap_beside: 8 << 10 };

/// `metadata.json` and `manifest.sig` of a checkpoint.
pub const MANIFEST: Target =
    Target { name: "manifest", drive: text::manifest, heap_per_byte: 120, heap_beside: 32 << 10 };

/// `metadata.json` and `manifest.sig` of a checkpoint of the reference, and what it says of a delta.
pub const REFERENCE_MANIFEST: Target = Target {
    name: "reference_manifest",
    drive: text::reference_manifest,
    heap_per_byte: 200,
    heap_beside: 32 << 10,
};

/// Calibrations of the tolerant profile.
pub const CALIBRATION: Target = Target {
    name: "calibration",
    drive: text::calibration,
    heap_per_byte: 60,
    heap_beside: 16 << 10,
};

/// Published verdicts.
pub const VERDICT: Target =
    Target { name: "verdict", drive: text::verdict, heap_per_byte: 60, heap_beside: 8 << 10 };

/// Addresses, credentials, signatures, digests and object keys.
pub const NAMES: Target =
    Target { name: "names", drive: text::names, heap_per_byte: 16, heap_beside: 4 << 10 };

/// Deltas of checkpoints.
pub const DELTA: Target = Target {
    name: "delta",
    drive: delta::drive,
    heap_per_byte: 40,
    // A frame may hold much more than its own bytes.
    heap_beside: 4 << 20,
};

/// Native deltas of checkpoints, and headers of the files that they are for.
pub const NATIVE_DELTA: Target = Target {
    name: "native_delta",
    drive: delta::drive_native,
    heap_per_byte: 60,
    // Tables of every context, spread out.
    heap_beside: 4 << 20,
};

/// Commits, payloads and rows of proof v5.
pub const COMMITS: Target =
    Target { name: "commits", drive: commits::drive, heap_per_byte: 60, heap_beside: 8 << 10 };

/// Parquet files of the reference.
pub const REFERENCE_FILE: Target = Target {
    name: "reference_file",
    drive: reference_file::file,
    heap_per_byte: 100,
    // What the limits of the driver allow: pages, decoded rows, and both again for the comparison.
    heap_beside: 24 << 20,
};

/// The commitments of such a file.
pub const COMMITMENTS: Target = Target {
    name: "commitments",
    drive: reference_file::json,
    heap_per_byte: 80,
    heap_beside: 16 << 10,
};

impl Target {
    /// Hands `data` to the decoder. `heap` must be the global allocator, and no other thread may
    /// allocate much meanwhile. Returns whether the decoder accepted.
    pub fn run(&self, heap: &PeakAlloc, data: &[u8]) -> bool {
        heap.reset_peak_usage();
        let before = heap.current_usage();
        let accepted = (self.drive)(data);
        let held = heap.peak_usage().saturating_sub(before);
        let most = self.heap_per_byte * data.len() + self.heap_beside;
        assert!(
            held <= most,
            "{} bytes made {} hold {held}, more than {most}",
            data.len(),
            self.name
        );
        accepted
    }
}

/// The key that signs where a signature would stop a mutation from getting further.
static SIGNER: LazyLock<FakeSigner> = LazyLock::new(|| FakeSigner::new(1));

/// The address of that key.
pub fn hotkey() -> Hotkey {
    SIGNER.hotkey()
}
