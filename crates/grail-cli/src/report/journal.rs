//! The journal of a network: each event as one line of JSON, appended before anything else happens.
//!
//! The report is a fold over the journal. After `kill -9` the journal is read again; a line that
//! was cut short is dropped, and an event that is told twice counts once because the fold is keyed
//! by window and miner.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Uid};
use serde::{Deserialize, Serialize};

/// Most bytes of a journal that are read back; a window writes about 2 KiB.
pub const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Who tells an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleTag {
    /// Name of the role, which is also the name of its wallet, such as `miner-1`.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
    /// Its hotkey.
    pub hotkey: Hotkey,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Who tells it.
    pub role: RoleTag,
    /// What happened.
    pub event: Event,
}

/// An append-only file of [`Entry`] lines.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens or creates the journal at `path` and returns it with the entries that it holds.
    ///
    /// # Errors
    /// When the file cannot be read or written, is larger than [`JOURNAL_BYTES_MAX`], or holds a
    /// line in its middle that is no entry.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let size = file.metadata()?.len();
        if size > JOURNAL_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{} has {size} bytes, more than the {JOURNAL_BYTES_MAX} allowed; start a new folder",
                path.display()
            )));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // Everything after the last line end was being written when the process died.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let entries = text[..whole]
            .split(|byte| *byte == b'\n')
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
            .map(|(idx, line)| parse(line, idx + 1, path))
            .collect::<io::Result<Vec<_>>>()?;
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        Ok((Self { file }, entries))
    }

    /// Appends `entry` with one write, so that a kill leaves a whole line or a cut last one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for an entry that could not be read back, since JSON has no
    /// word for a number that is not finite; nothing is written then.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        if serde_json::from_slice::<Entry>(&line).is_err() {
            let reason = "the event holds a number that is not finite";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

fn parse(line: &[u8], number: usize, path: &Path) -> io::Result<Entry> {
    serde_json::from_slice(line).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "line {number} of {} is damaged ({error}); remove the file to start a new report",
                path.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::BlockNumber;

    use super::*;

    fn entry(block: u64) -> Entry {
        Entry {
            role: RoleTag { name: "validator".to_owned(), uid: Uid(1), hotkey: Hotkey([7; 32]) },
            event: Event::BlockSeen { block: BlockNumber(block) },
        }
    }

    #[test]
    fn a_journal_gives_back_what_was_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut journal, entries) = Journal::open(&path).unwrap();
        assert!(entries.is_empty());
        journal.append(&entry(1)).unwrap();
        journal.append(&entry(2)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, [entry(1), entry(2)]);
    }

    #[test]
    fn a_line_cut_short_by_a_kill_is_dropped_and_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.append(&entry(2)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first_line..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, entries) = Journal::open(&path).unwrap();
            assert_eq!(entries, [entry(1)], "cut at {cut}");
            journal.append(&entry(3)).unwrap();
            drop(journal);
            assert_eq!(Journal::open(&path).unwrap().1, [entry(1), entry(3)], "cut at {cut}");
        }
    }

    #[test]
    fn an_event_that_could_not_be_read_back_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let window = grail_protocol::ids::Window::from_start(30).unwrap();
        let event =
            Event::Evaluated { checkpoint: window, problems: 1, pass_at_1: f64::NAN, seconds: 0.0 };
        let error = journal.append(&Entry { event, ..entry(1) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        journal.append(&entry(2)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, [entry(2)]);
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
