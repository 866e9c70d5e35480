//! Downloads an object into a file piece by piece: a model may be larger than the memory, and a
//! download that was interrupted goes on where it was.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use grail_ports::object_store::{ObjectInfo, ObjectStore, StoreError};
use grail_protocol::ids::{Digest, Window};
use tracing::{debug, info};

use super::CheckpointError;
use super::cache::file_digest;
use crate::blocking::blocking;
use crate::context::Heartbeat;
use crate::state::{self, disk};

/// Bytes that are asked for at a time.
pub(crate) const PIECE_BYTES: u64 = 16 << 20;

/// Ending of a file that is not whole yet.
const PART: &str = "part";

/// A file of a checkpoint that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The checkpoint.
    pub checkpoint: Window,
    /// Name of the file in it.
    pub name: &'a str,
    /// Key of the object.
    pub key: String,
    /// SHA-256 that the trainer signed.
    pub digest: Digest,
    /// Most bytes of such a file.
    pub bytes_max: u64,
    /// Where it goes.
    pub path: PathBuf,
}

/// Makes sure that the file at [`Wanted::path`] is the object with the digest. What came before an
/// interruption, also one by a crash, stays beside it and is not asked for again.
///
/// # Errors
/// When the object is missing, is not the one that was signed, or store or disk fail. The file is
/// then as it was.
pub async fn obtain(
    bucket: &dyn ObjectStore,
    wanted: &Wanted<'_>,
    heartbeat: &Heartbeat,
) -> Result<(), CheckpointError> {
    by_pieces(bucket, wanted, heartbeat, PIECE_BYTES).await
}

async fn by_pieces(
    bucket: &dyn ObjectStore,
    wanted: &Wanted<'_>,
    heartbeat: &Heartbeat,
    piece_bytes: u64,
) -> Result<(), CheckpointError> {
    let (path, digest) = (wanted.path.clone(), wanted.digest);
    if blocking(move || file_digest(&path).is_ok_and(|found| found == digest)).await {
        return Ok(());
    }
    let object = bucket.head(&wanted.key).await?.ok_or_else(|| wanted.missing())?;
    if object.size > wanted.bytes_max {
        let (size, limit) = (object.size, wanted.bytes_max);
        return Err(StoreError::TooLarge { key: wanted.key.clone(), size, limit }.into());
    }
    let part = part_of(&wanted.path);
    let mut had = kept(&part, object.size).await?;
    loop {
        continue_to(bucket, &object, &part, had, piece_bytes, heartbeat).await?;
        let whole = part.clone();
        let found = blocking(move || file_digest(&whole)).await?;
        heartbeat.beat();
        if found == wanted.digest {
            let to = wanted.path.clone();
            return Ok(blocking(move || state::move_file(&part, &to)).await?);
        }
        let damaged = part.clone();
        blocking(move || state::remove_file(&damaged)).await?;
        if had == 0 {
            let Wanted { checkpoint, name, digest: expected, .. } = *wanted;
            return Err(CheckpointError::Damaged {
                checkpoint,
                file: name.to_owned(),
                expected,
                found,
            });
        }
        // What was kept may be of an object that was replaced since.
        debug!(
            key = wanted.key,
            "what was kept of a file does not fit the rest; all is read again"
        );
        had = 0;
    }
}

/// Reads the object from byte `at` on to the end of the file `part`, which has that many.
async fn continue_to(
    bucket: &dyn ObjectStore,
    object: &ObjectInfo,
    part: &Path,
    mut at: u64,
    piece_bytes: u64,
    heartbeat: &Heartbeat,
) -> Result<(), CheckpointError> {
    if at > 0 {
        info!(key = object.key, at, size = object.size, "a download goes on where it was");
    }
    while at < object.size {
        let end = object.size.min(at + piece_bytes);
        let piece = bucket.get_range(&object.key, at..end, Some(&object.etag)).await?;
        let piece = piece.ok_or_else(|| StoreError::Changed(object.key.clone()))?;
        if piece.len() as u64 != end - at {
            let found = piece.len();
            let reason = format!("bytes {at} to {end} of {} came as {found} bytes", object.key);
            return Err(StoreError::Malformed(reason).into());
        }
        let file = part.to_owned();
        blocking(move || append(&file, &piece)).await?;
        heartbeat.beat();
        at = end;
    }
    let file = part.to_owned();
    // An empty object has no piece that would make the file.
    Ok(blocking(move || append(&file, &Bytes::new())).await?)
}

/// Returns the bytes that an earlier attempt left, none if they cannot be of an object of `size`.
async fn kept(part: &Path, size: u64) -> Result<u64, state::StateError> {
    let part = part.to_owned();
    blocking(move || {
        let had = std::fs::metadata(&part).map_or(0, |file| file.len());
        if had <= size {
            return Ok(had);
        }
        state::remove_file(&part)?;
        Ok(0)
    })
    .await
}

fn append(path: &Path, bytes: &[u8]) -> Result<(), state::StateError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(disk("make", folder))?;
    }
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let mut file: File = opened.map_err(disk("write", path))?;
    file.write_all(bytes).map_err(disk("write", path))
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(PART);
    path.with_file_name(name)
}

impl Wanted<'_> {
    fn missing(&self) -> CheckpointError {
        CheckpointError::Missing { checkpoint: self.checkpoint, file: self.name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grail_ports::object_store::Buckets as _;
    use grail_protocol::ids::Hotkey;
    use grail_testkit::MemoryStorage;
    use grail_testkit::{FaultRates, Faults};
    use tempfile::TempDir;

    use super::*;

    const PIECE: u64 = 100;
    const KEY: &str = "checkpoints/model.safetensors";

    struct World {
        storage: MemoryStorage,
        folder: TempDir,
    }

    impl World {
        fn new() -> Self {
            let storage = MemoryStorage::new(Arc::new(|| 0));
            Self { storage, folder: tempfile::tempdir().unwrap() }
        }

        fn put(&self, bytes: &[u8]) {
            self.storage.tamper(Hotkey([1; 32]), KEY, bytes.to_vec());
        }

        fn wanted(&self, bytes: &[u8]) -> Wanted<'static> {
            Wanted {
                checkpoint: Window::from_start(30).unwrap(),
                name: "model.safetensors",
                key: KEY.to_owned(),
                digest: Digest::of(bytes),
                bytes_max: 10_000,
                path: self.folder.path().join("stage/model.safetensors"),
            }
        }

        async fn obtain(&self, wanted: &Wanted<'_>) -> (Result<(), CheckpointError>, u64) {
            let bucket = self.storage.buckets(Hotkey([1; 32])).own();
            let heartbeat = Heartbeat::default();
            let done = by_pieces(&*bucket, wanted, &heartbeat, PIECE).await;
            (done, heartbeat.count())
        }

        /// Leaves what an interrupted attempt would.
        fn leave(&self, wanted: &Wanted<'_>, bytes: &[u8]) {
            append(&part_of(&wanted.path), bytes).unwrap();
        }
    }

    fn object(salt: u8) -> Vec<u8> {
        (0..1_050u32).map(|at| (at % 251) as u8 ^ salt).collect()
    }

    #[tokio::test]
    async fn an_object_of_any_length_comes_whole() {
        for length in [0, 1, 99, 100, 101, 1_050] {
            let (world, bytes) = (World::new(), &object(0)[..length]);
            world.put(bytes);
            let wanted = world.wanted(bytes);
            world.obtain(&wanted).await.0.unwrap();
            assert_eq!(std::fs::read(&wanted.path).unwrap(), bytes);
            assert!(!part_of(&wanted.path).exists());
        }
    }

    #[tokio::test]
    async fn only_what_is_missing_is_read() {
        let (world, bytes) = (World::new(), object(0));
        world.put(&bytes);
        let wanted = world.wanted(&bytes);
        world.leave(&wanted, &bytes[..730]);
        let (done, beats) = world.obtain(&wanted).await;
        done.unwrap();
        assert_eq!(std::fs::read(&wanted.path).unwrap(), bytes);
        // Bytes 730 to 1,050 in four pieces, and the digest.
        assert_eq!(beats, 5);
        // What is there is not read again.
        assert_eq!(world.obtain(&wanted).await, (Ok(()), 0));
    }

    #[tokio::test]
    async fn a_store_that_often_fails_is_asked_for_each_piece_until_it_gives_it() {
        let (world, bytes) = (World::new(), object(0));
        world.put(&bytes);
        let seed = 7;
        println!("seed {seed}");
        let rates = FaultRates { unavailable: 400, lost_answer: 100, ..FaultRates::default() };
        let faults = Faults::new(seed, rates);
        let bucket = faults.store("trainer", world.storage.buckets(Hotkey([1; 32])).own());
        let (wanted, heartbeat) = (world.wanted(&bytes), Heartbeat::default());
        let mut failures = 0;
        while by_pieces(&*bucket, &wanted, &heartbeat, PIECE).await.is_err() {
            failures += 1;
            assert!(failures < 200, "{:?}", faults.drawn());
        }
        assert_eq!(std::fs::read(&wanted.path).unwrap(), bytes);
        assert!(failures > 3, "{failures}");
        // Each of the eleven pieces came once.
        assert_eq!(heartbeat.count(), 12);
    }

    #[tokio::test]
    async fn what_was_kept_of_another_object_costs_one_more_download() {
        let (world, bytes) = (World::new(), object(0));
        world.put(&bytes);
        for left in [object(9)[..300].to_vec(), object(9), [object(9), object(9)].concat()] {
            let wanted = world.wanted(&bytes);
            world.leave(&wanted, &left);
            world.obtain(&wanted).await.0.unwrap();
            assert_eq!(std::fs::read(&wanted.path).unwrap(), bytes);
            std::fs::remove_file(&wanted.path).unwrap();
        }
    }

    #[tokio::test]
    async fn the_wrong_object_leaves_everything_as_it_was() {
        let world = World::new();
        let wanted = world.wanted(&object(0));
        assert!(matches!(world.obtain(&wanted).await.0, Err(CheckpointError::Missing { .. })));
        state::write_file(&wanted.path, b"older").unwrap();
        world.put(&object(3));
        let (done, _) = world.obtain(&wanted).await;
        let found = Digest::of(&object(3));
        assert!(matches!(done, Err(CheckpointError::Damaged { found: it, .. }) if it == found));
        world.put(&[object(0), vec![0; 10_000]].concat());
        let (done, _) = world.obtain(&wanted).await;
        assert!(matches!(done, Err(CheckpointError::Store(StoreError::TooLarge { .. }))));
        assert_eq!(std::fs::read(&wanted.path).unwrap(), b"older");
        assert!(!part_of(&wanted.path).exists());
    }
}
