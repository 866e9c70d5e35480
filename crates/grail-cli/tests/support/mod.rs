//! Runs the command and watches its lines, with a bound on every wait.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a line or an exit. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Returns the command, free of settings from the environment of whoever runs the tests.
pub fn grail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grail"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let counts = ["GRAIL_", "BT_", "R2_", "NETUID"].iter().any(|start| text.starts_with(start));
        if counts {
            command.env_remove(name);
        }
    }
    // Little work in each window, so that a window can be short.
    command.env("GRAIL_TRAINING_EVALUATION_PROBLEMS", "16");
    command.stdin(Stdio::null());
    command
}

/// Returns a command for a small and quick network in `dir`.
pub fn localnet(dir: &Path) -> Command {
    let mut command = grail();
    command.arg("localnet").arg("--dir").arg(dir);
    command.args(["--block-time", "100ms", "--groups-per-window", "2", "--threads", "2"]);
    command
}

/// A running command whose lines are read as they come.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Everything seen so far, for the message of a failure.
    seen: Vec<String>,
}

impl Running {
    /// Starts the command.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let (sender, lines) = channel();
        forward(child.stdout.take().expect("standard output is piped"), sender.clone());
        forward(child.stderr.take().expect("standard error is piped"), sender);
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that contains all of `parts` and returns it.
    pub fn wait_for(&mut self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = parts.iter().all(|part| line.contains(part));
                    self.seen.push(line.clone());
                    if found {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no line with {parts:?}")),
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail(&format!("ended without a line with {parts:?}"));
                }
            }
        }
    }

    /// Kills the process the hard way and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("a running process can be killed");
        self.child.wait().expect("a killed process ends");
    }

    /// Sends SIGINT.
    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end; returns the exit status and everything that was written.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        // Both pipes close when the process ends.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail("did not end"),
            }
        }
        let status = self.child.wait().expect("an ended process has a status");
        (status, self.seen.join("\n"))
    }

    fn fail(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        panic!("the command {why}; it wrote:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails must not leave a network behind; one that ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

/// Reads a report.
pub fn report(path: &Path) -> Value {
    let bytes = std::fs::read(path).expect("the report is there");
    serde_json::from_slice(&bytes).expect("a report is always whole JSON")
}

/// Returns the rows of the windows that the validator finished.
pub fn validated(report: &Value) -> Vec<&Value> {
    let rows = report["windows"].as_array().expect("a report lists windows").iter();
    rows.filter(|row| row["validated"] == true).collect()
}

/// Asserts that the validated windows follow each other: none lost, none told twice; and that each
/// miner was judged once in each of them.
pub fn assert_no_window_lost_or_doubled(report: &Value, miners: usize) {
    let rows = validated(report);
    let starts: Vec<u64> = rows.iter().filter_map(|row| row["window"].as_u64()).collect();
    for pair in starts.windows(2) {
        assert_eq!(pair[1], pair[0] + 30, "windows {starts:?}");
    }
    for row in &rows {
        let judged = row["miners"].as_array().expect("a row lists miners").iter();
        let uids: Vec<u64> = judged
            .filter(|miner| miner["judged"] == true)
            .filter_map(|miner| miner["uid"].as_u64())
            .collect();
        let distinct: BTreeSet<u64> = uids.iter().copied().collect();
        assert_eq!((uids.len(), distinct.len()), (miners, miners), "window {}", row["window"]);
    }
}

/// Returns every file below `dir`.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Returns every file below `dir`, none if it is not there.
pub fn files_below_if_there(dir: &Path) -> Vec<PathBuf> {
    if dir.is_dir() { files_below(dir) } else { Vec::new() }
}

/// Returns the files of the store that peers see: everything but its hidden working files.
pub fn objects(dir: &Path) -> Vec<PathBuf> {
    let store = dir.join("store");
    let hidden = |path: &Path| {
        path.strip_prefix(&store)
            .expect("it was found below the store")
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with('.'))
    };
    files_below(&store).into_iter().filter(|path| !hidden(path)).collect()
}
