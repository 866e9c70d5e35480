//! Tests of the log set-up, as a process would use it.

use std::sync::Mutex;

use grail_protocol::ids::{BlockNumber, Netuid, Uid, Window};
use tracing::{debug, error, info, trace, warn};

use super::*;
use crate::{RoleContext, window_span};

/// Runs `work` with logs set up by `change`, and returns the records.
fn records(change: impl FnOnce(&mut LogConfig), work: impl FnOnce()) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let console: LineSink = {
        let seen = seen.clone();
        Arc::new(move |record| {
            seen.lock().unwrap().push(String::from_utf8(record.to_vec()).unwrap());
        })
    };
    let mut config = LogConfig { console, ..LogConfig::console() };
    change(&mut config);
    let guard = init_thread_logging(&config).unwrap();
    work();
    drop(guard);
    seen.lock().unwrap().clone()
}

fn context() -> RoleContext {
    let (role, network) = ("miner".to_owned(), "local".to_owned());
    RoleContext { role, network, netuid: Netuid(81), uid: Some(Uid(2)) }
}

fn levels(change: impl FnOnce(&mut LogConfig)) -> String {
    let lines = records(change, || {
        error!(target: "grail_services::mining", "E");
        warn!(target: "grail_services::mining", "W");
        info!(target: "grail_services::mining", "I");
        debug!(target: "grail_services::mining", "D");
        trace!(target: "grail_services::mining", "T");
        error!(target: "hyper", "e");
        warn!(target: "hyper", "w");
        info!(target: "hyper", "i");
        debug!(target: "hyper", "d");
        trace!(target: "hyper", "t");
    });
    lines.iter().filter_map(|line| line.trim_end().chars().last()).collect()
}

#[test]
fn verbosity_chooses_levels_and_a_filter_replaces_it() {
    assert_eq!(levels(|_| ()), "EWIew");
    assert_eq!(levels(|config| config.verbosity = 1), "EWIDewi");
    assert_eq!(levels(|config| config.verbosity = 2), "EWIDTewid");
    assert_eq!(levels(|config| config.verbosity = 200), "EWIDTewid");
    assert_eq!(levels(|config| config.filter = Some("error".to_owned())), "Ee");
    let directives = "off,grail_services::mining=debug";
    assert_eq!(levels(|config| config.filter = Some(directives.to_owned())), "EWID");
}

#[test]
fn a_line_tells_time_level_role_window_and_fields() {
    let lines = records(
        |_| (),
        || {
            let _role = context().span().entered();
            let window = Window::containing(BlockNumber(61));
            let _window = window_span(window).entered();
            info!(n_rollouts = 64, name = %"a b", "uploaded rollouts");
        },
    );
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let (time, rest) = line.split_at("2026-03-06 18:30:45".len());
    assert!(time.bytes().filter(u8::is_ascii_digit).count() == 14, "{time}");
    let want = " INFO  [role=miner uid=2 netuid=81 window=60] uploaded rollouts n_rollouts=64 \
                name=a b\n";
    assert_eq!(rest, want);
}

#[test]
fn hostile_text_cannot_start_a_line_or_colour_one() {
    let evil = "x\n2026-01-01 00:00:00 ERROR forged\r\x1b[31mred\u{9b}31m";
    for color in [false, true] {
        let lines = records(|config| config.color = color, || info!(name = evil, "{evil}"));
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.trim_end().contains(char::is_control), "{line}");
    }
}

#[test]
fn only_the_level_is_coloured() {
    let lines = records(|config| config.color = true, || warn!("slow"));
    assert!(lines[0].contains("\x1b[33mWARN \x1b[0m slow"), "{lines:?}");
}

#[test]
fn json_lines_carry_fields_and_spans() {
    let lines = records(
        |config| config.json = true,
        || {
            let _role = context().span().entered();
            info!(n_rollouts = 64, "uploaded \"rollouts\"\n");
        },
    );
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["level"], "INFO");
    assert_eq!(value["message"], "uploaded \"rollouts\"\n");
    assert_eq!(value["n_rollouts"], 64);
    assert_eq!(value["spans"][0]["role"], "miner");
    assert_eq!(value["spans"][0]["uid"], "2");
    assert!(value["timestamp"].is_string() && value["target"].is_string());
}

#[test]
fn a_file_gets_the_same_lines_without_colours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grail.log");
    let console = records(
        |config| {
            config.color = true;
            config.file = Some(path.clone());
        },
        || {
            let _role = context().span().entered();
            warn!("slow");
        },
    );
    let file = std::fs::read_to_string(&path).unwrap();
    assert!(!file.contains('\x1b'), "{file}");
    assert!(file.ends_with("WARN  [role=miner uid=2 netuid=81] slow\n"), "{file}");
    assert_eq!(console[0].replace("\x1b[33m", "").replace("\x1b[0m", "")[19..], file[19..]);
}

#[test]
fn a_record_is_handed_over_whole() {
    let lines = records(
        |_| (),
        || {
            for number in 0..100 {
                info!(number, "a line of several parts");
            }
        },
    );
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line.ends_with('\n')));
}

#[test]
fn what_cannot_be_used_is_refused_with_advice() {
    let refuse = |change: &dyn Fn(&mut LogConfig)| {
        let mut config = LogConfig::console();
        change(&mut config);
        init_thread_logging(&config).expect_err("it is refused").to_string()
    };
    let message = refuse(&|config| config.filter = Some("grail=loud".to_owned()));
    assert!(message.contains("`grail=loud`") && message.contains("info,grail=debug"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_owned();
    let message = refuse(&|config| config.file = Some(folder.clone()));
    assert!(message.contains("cannot write the log file"), "{message}");
}
