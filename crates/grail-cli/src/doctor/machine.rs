//! Checks of this machine: wallet, processor, memory and disk.

use std::path::Path;

use grail_infrastructure::wallet::{Wallet, WalletError, is_open_to_others};
use grail_kernels::Isa;
use grail_ports::signer::Signer as _;

use super::Finding;

/// Free space below which a disk deserves a look: a few checkpoints of a small model.
const DISK_BYTES_WARN: u64 = 10 << 30;
/// Free space below which work stops soon.
const DISK_BYTES_FAIL: u64 = 1 << 30;

/// The wallet opens, and nobody else can read it.
pub fn wallet(loaded: &Result<Wallet, WalletError>, hotkey_file: &Path) -> Finding {
    match loaded {
        Err(error) => Finding::fail(
            error.to_string(),
            "make one with `grail wallet new`, or check wallet.path, wallet.name and wallet.hotkey",
        ),
        Ok(wallet) => {
            let told = format!("{}/{} is {}", wallet.name(), wallet.hotkey_name(), wallet.hotkey());
            if is_open_to_others(hotkey_file) {
                let file = hotkey_file.display();
                return Finding::warn(
                    format!("{told}, and others can read {file}"),
                    format!("chmod 600 {file}"),
                );
            }
            Finding::pass(told)
        }
    }
}

/// Fast kernels exist for the processor.
pub fn processor(isa: Isa, threads: usize) -> Finding {
    let told = format!("kernels for {}, {threads} threads", isa.name());
    match isa {
        Isa::Portable => Finding::warn(
            told,
            "the portable kernels are about a hundred times slower; use a processor with AVX2 or NEON",
        ),
        _ => Finding::pass(told),
    }
}

/// What the model takes fits what is free. `None` where the system does not tell.
pub fn memory(model_bytes: u64, kv_bytes: u64, available: Option<u64>) -> Finding {
    let needed = model_bytes.saturating_add(kv_bytes);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let told =
        format!("weights {:.2} GiB, at most {:.2} GiB of cache", gib(model_bytes), gib(kv_bytes));
    let Some(available) = available else {
        return Finding::skipped(format!("{told}; this system does not tell what is free"));
    };
    let told = format!("{told}, {:.2} GiB free", gib(available));
    if model_bytes > available {
        Finding::fail(told, "free memory, or use a smaller model")
    } else if needed > available {
        Finding::warn(told, "lower engine.kv_bytes_max, or free memory")
    } else {
        Finding::pass(told)
    }
}

/// The disk has room.
pub fn disk(folder: &Path, free: Result<u64, String>) -> Finding {
    let free = match free {
        Ok(free) => free,
        Err(error) => {
            let told = format!("{}: {error}", folder.display());
            return Finding::fail(told, "check that the folder exists and can be read");
        }
    };
    let told = format!("{:.1} GiB free at {}", free as f64 / (1u64 << 30) as f64, folder.display());
    if free < DISK_BYTES_FAIL {
        Finding::fail(told, "free some: checkpoints and rollouts have no room")
    } else if free < DISK_BYTES_WARN {
        Finding::warn(told, "free some: checkpoints of larger models take gigabytes")
    } else {
        Finding::pass(told)
    }
}

/// Returns the bytes that anyone may still write at `folder`.
///
/// # Errors
/// The operating system's word.
pub fn free_bytes(folder: &Path) -> Result<u64, String> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| error.to_string())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns the bytes of memory that can be had, where the system tells.
pub fn available_memory() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use grail_infrastructure::wallet::{NO_PASSWORDS, NewKey};
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Status;
    use super::*;

    #[test]
    fn a_wallet_opens_is_open_to_others_or_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Wallet::load(dir.path(), "w", "default", NO_PASSWORDS);
        let file = dir.path().join("w/hotkeys/default");
        assert_eq!(wallet(&load(), &file).status, Status::Fail);
        Wallet::create(dir.path(), "w", "default", NewKey::Random).unwrap();
        assert_eq!(wallet(&load(), &file).status, Status::Pass);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let finding = wallet(&load(), &file);
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.next_step.starts_with("chmod 600"));
    }

    #[test]
    fn the_machine_is_judged_by_its_numbers() {
        assert_eq!(processor(Isa::Portable, 2).status, Status::Warn);
        assert_eq!(processor(Isa::Avx2Fma, 2).status, Status::Pass);
        for (available, expected) in [
            (Some(300), Status::Pass),
            (Some(299), Status::Warn),
            (Some(99), Status::Fail),
            (None, Status::Skipped),
        ] {
            assert_eq!(memory(100, 200, available).status, expected, "{available:?}");
        }
        for (free, expected) in [
            (Ok(u64::MAX), Status::Pass),
            (Ok(2 << 30), Status::Warn),
            (Ok(0), Status::Fail),
            (Err("gone".to_owned()), Status::Fail),
        ] {
            assert_eq!(disk(Path::new("."), free).status, expected);
        }
        assert!(free_bytes(Path::new(".")).is_ok());
        assert!(free_bytes(Path::new("/does/not/exist")).is_err());
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), Some(12_288));
        assert_eq!(parse_available("MemAvailable: many kB\n"), None);
    }
}
