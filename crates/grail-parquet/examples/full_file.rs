//! Writes a full rollout file with real signatures, for `grail verify`.
//!
//! `cargo run --release -p grail-parquet --example full_file -- FOLDER [ROWS] [TOKENS]` makes
//! `FOLDER/HOTKEY-window-WINDOW.parquet` of 5,008 rollouts of 512 tokens, and prints its path.

#![expect(clippy::print_stdout, reason = "the path is what it is run for")]

#[path = "../benches/work/mod.rs"]
mod work;

use std::error::Error;
use std::fs::File;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().ok_or("name a folder")?;
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let file = work::file(number(1, 5_008)?, number(2, 512)?, true);
    let name = format!("{}-window-{}.parquet", file.footer.wallet, work::WINDOW);
    let path = Path::new(folder).join(name);
    grail_parquet::write(&file, File::create(&path)?)?;
    println!("{}", path.display());
    Ok(())
}
