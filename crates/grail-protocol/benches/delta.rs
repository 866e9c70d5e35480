//! Measures deltas of checkpoints: size and speed of the reference's codec and of ours, applying,
//! and the hash of the weights.
//!
//!     cargo bench -p grail-protocol --bench delta -- [--json] [--files BASE CURRENT]
//!
//! BASE and CURRENT are safetensors files with the same tensors, such as two checkpoints of a
//! training; without them a step is drawn: 64 Mi words of bf16, of which one in 50 moves to a
//! neighbour. Speeds are bytes of the weights in a second; what tensors or blocks can do side by side
//! is measured on one thread and on all. `benches/peers/reference/delta.py` does the same work in
//! Python.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it reads files and times"
)]

use std::collections::BTreeSet;
use std::error::Error;
use std::hint::black_box;
use std::mem::take;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Instant;
use std::{iter, thread};

use grail_protocol::checkpoint::WeightsHash;
use grail_protocol::checkpoint::delta::frame::{compress, decompress};
use grail_protocol::checkpoint::delta::native::{
    Block, DeltaWriter, blocks, decode_block, encode_block, read_blocks,
};
use grail_protocol::checkpoint::delta::payload::{decode, encode};
use grail_protocol::checkpoint::delta::{DeltaError, Format, SparseTensor, ValueType};
use grail_protocol::checkpoint::tensors::{LENGTH_BYTES, TensorEntry, TensorIndex};
use xxhash_rust::xxh3::xxh3_128;

/// Words of the drawn step.
const WORDS: usize = 64 << 20;

/// Two states of the same tensors.
struct Step {
    header: Vec<u8>,
    index: TensorIndex,
    base: Vec<u8>,
    current: Vec<u8>,
}

/// One line of the table.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_json = arguments.iter().any(|argument| argument == "--json");
    let step = match arguments.iter().position(|argument| argument == "--files") {
        Some(at) => match &arguments[at + 1..] {
            [base, current, ..] => read(base, current)?,
            _ => return Err("--files takes BASE and CURRENT".into()),
        },
        None => drawn()?,
    };
    let rows = measure(&step)?;
    if is_json {
        let figures = rows.iter().map(|row| format!("\"{} {}\":{}", row.name, row.unit, row.value));
        println!("{{{}}}", figures.collect::<Vec<_>>().join(","));
        return Ok(());
    }
    for Row { name, value, unit } in rows {
        println!("{name:<32} {value:>14.3} {unit}");
    }
    Ok(())
}

fn read(base: &str, current: &str) -> Result<Step, Box<dyn Error>> {
    let split = |path: &str| -> Result<(Vec<u8>, Vec<u8>), Box<dyn Error>> {
        let file = std::fs::read(path)?;
        let first = file.first_chunk().ok_or("the file is too short")?;
        let length = TensorIndex::header_length(*first, file.len() as u64)?;
        let (header, data) = file[LENGTH_BYTES..].split_at(length);
        Ok((header.to_vec(), data.to_vec()))
    };
    let ((header, base), (other, current)) = (split(base)?, split(current)?);
    if header != other {
        return Err("the files have other tensors".into());
    }
    let index = TensorIndex::parse(&header, base.len() as u64)?;
    Ok(Step { header, index, base, current })
}

fn drawn() -> Result<Step, Box<dyn Error>> {
    let rows = 4096;
    let shape = vec![rows, (WORDS as u64) / rows / 8];
    let tensors = (0..8).map(|i| (format!("layer.{i}.weight"), "BF16".to_owned(), shape.clone()));
    let index = TensorIndex::lay_out(tensors)?;
    let header = index.to_header()[LENGTH_BYTES..].to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Sums of uniform numbers: small weights are rarer than large ones, as in a model.
    let mut weight = move || {
        let word = draw();
        let sum: i32 = (0..4).map(|part| ((word >> (16 * part)) & 0xffff) as i32 - 0x8000).sum();
        ((sum as f32 / 2e6).to_bits() >> 16) as u16
    };
    let mut base = Vec::with_capacity(2 * WORDS);
    let mut current = Vec::with_capacity(2 * WORDS);
    for place in 0..WORDS {
        let word = weight();
        base.extend(word.to_le_bytes());
        let moves = (place.wrapping_mul(0x9e37_79b9) >> 8).is_multiple_of(50);
        let moved = if moves { if place & 1 == 0 { word + 1 } else { word - 1 } } else { word };
        current.extend(moved.to_le_bytes());
    }
    Ok(Step { header, index, base, current })
}

fn measure(step: &Step) -> Result<Vec<Row>, Box<dyn Error>> {
    let bytes = step.base.len() as f64;
    let mut rows = Vec::new();
    let mut speed = |name: String, seconds: f64| {
        rows.push(Row { name, value: bytes / seconds / 1e9, unit: "GB/s" });
    };

    let all = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let each = BTreeSet::from([NonZero::<usize>::MIN, all]);
    let plan = blocks(&step.index);
    let mut out = vec![0; step.base.len()];
    let (mut changes, mut frame, mut native_delta) = (Vec::new(), Vec::new(), Vec::new());
    for threads in each.iter().map(|threads| threads.get()) {
        let mut speed = |name: &str, seconds| speed(format!("{name}, {threads} threads"), seconds);
        let (found, seconds) = timed(|| between(step, threads));
        changes = found;
        speed("v3.1 find changes", seconds);
        if threads == 1 {
            let encoded = || encode(&changes, Format::V31).and_then(|payload| compress(&payload));
            let (encoded, seconds) = timed(encoded);
            frame = encoded?;
            speed("v3.1 encode", seconds);
        }
        let decoded = || decompress(&frame, u64::MAX).and_then(|it| decode(&it, Format::V31));
        let (decoded, seconds) = timed(decoded);
        if threads == 1 {
            speed("v3.1 decode", seconds);
        }
        let decoded = decoded?;
        let (applied, seconds) = timed(|| apply(step, &decoded, &mut out, threads));
        speed("v3.1 apply to a copy", seconds);
        applied?;
        assert!(out == step.current, "a delta leads to what it was made of");
        let (coded, seconds) = timed(|| native(step, &plan, threads));
        native_delta = coded;
        speed("native find and encode", seconds);
        let (applied, seconds) =
            timed(|| native_apply(step, &plan, &native_delta, &mut out, threads));
        speed("native decode and apply", seconds);
        applied?;
        assert!(out == step.current, "a delta leads to what it was made of");
    }

    let tensors = || {
        step.index.tensors.iter().map(|tensor| {
            let range = tensor.range.start as usize..tensor.range.end as usize;
            (tensor.name.as_str(), &step.current[range])
        })
    };
    let (_, seconds) = timed(|| black_box(WeightsHash::of(tensors())));
    speed("weights hash".to_owned(), seconds);
    let (_, plain) = timed(|| black_box(xxh3_128(&step.current)));
    speed("xxh3 in one piece".to_owned(), plain);
    let n_changes: usize = changes.iter().map(|tensor| tensor.positions.len()).sum();
    let size = |name: &str, value: usize| Row {
        name: name.to_owned(),
        value: value as f64,
        unit: "bytes",
    };
    rows.push(size("weights", step.base.len()));
    rows.push(Row { name: "changes".to_owned(), value: n_changes as f64, unit: "words" });
    rows.push(size("v3.1 delta", frame.len()));
    rows.push(size("native delta", native_delta.len()));
    let ratio = native_delta.len() as f64 / frame.len() as f64;
    rows.push(Row { name: "native / v3.1".to_owned(), value: ratio, unit: "" });
    Ok(rows)
}

/// Runs `work` three times; returns its result and the shortest time.
fn timed<T>(mut work: impl FnMut() -> T) -> (T, f64) {
    let mut best = f64::INFINITY;
    let mut last = None;
    for _ in 0..3 {
        drop(last.take());
        let start = Instant::now();
        let result = work();
        best = best.min(start.elapsed().as_secs_f64());
        last = Some(result);
    }
    (last.expect("it ran three times"), best)
}

/// Does `work` for all parts, each thread the next one; results are in the order of the parts.
fn shared_out<P: Send, T: Send>(
    parts: Vec<P>,
    threads: usize,
    work: impl Fn(P) -> T + Sync,
) -> Vec<T> {
    let left = Mutex::new(parts.into_iter().enumerate());
    let next = || left.lock().expect("no part panics").next();
    let share = || iter::from_fn(next).map(|(at, part)| (at, work(part))).collect::<Vec<_>>();
    let mut done = thread::scope(|scope| {
        let running: Vec<_> = (1..threads).map(|_| scope.spawn(share)).collect();
        let mut done = share();
        done.extend(running.into_iter().flat_map(|part| part.join().expect("no part panics")));
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn bytes_of(tensor: &TensorEntry) -> Range<usize> {
    tensor.range.start as usize..tensor.range.end as usize
}

fn between(step: &Step, threads: usize) -> Vec<SparseTensor> {
    let changes = shared_out(step.index.tensors.iter().collect(), threads, |tensor| {
        let value_type = match tensor.dtype.as_str() {
            "BF16" => ValueType::Bf16,
            "F16" => ValueType::F16,
            "F32" => ValueType::F32,
            _ => return None,
        };
        let (base, current) = (&step.base[bytes_of(tensor)], &step.current[bytes_of(tensor)]);
        Some(SparseTensor::between(&tensor.name, &tensor.shape, value_type, base, current))
    });
    let mut changes: Vec<_> =
        changes.into_iter().flatten().filter(|tensor| !tensor.positions.is_empty()).collect();
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

/// Applies the changes to a copy of the base in `out`.
fn apply(
    step: &Step,
    changes: &[SparseTensor],
    out: &mut [u8],
    threads: usize,
) -> Result<(), DeltaError> {
    let places = step.index.tensors.iter().scan(out, |out, tensor| {
        let (tensor_out, rest) = take(out).split_at_mut(bytes_of(tensor).len());
        *out = rest;
        Some((tensor, tensor_out))
    });
    let done = shared_out(places.collect(), threads, |(tensor, out)| {
        out.copy_from_slice(&step.base[bytes_of(tensor)]);
        match changes.binary_search_by(|change| change.name.cmp(&tensor.name)) {
            Ok(at) => changes[at].apply(out),
            Err(_) => Ok(()),
        }
    });
    done.into_iter().collect()
}

/// Returns the blocks and where they lie.
fn placed(plan: &[Block]) -> Vec<(&Block, Range<usize>)> {
    let mut end = 0;
    let place = |block: &Block| {
        let start = end;
        end += block.bytes();
        start..end
    };
    let places: Vec<_> = plan.iter().map(place).collect();
    plan.iter().zip(places).collect()
}

fn native(step: &Step, plan: &[Block], threads: usize) -> Vec<u8> {
    let mut writer = DeltaWriter::new(&step.header);
    for coded in shared_out(placed(plan), threads, |(block, range)| {
        encode_block(block, &step.base[range.clone()], &step.current[range])
    }) {
        writer.push(&coded);
    }
    writer.finish()
}

fn native_apply(
    step: &Step,
    plan: &[Block],
    delta: &[u8],
    out: &mut [u8],
    threads: usize,
) -> Result<(), DeltaError> {
    let coded = read_blocks(delta, &step.header, plan.len())?;
    let outs = plan.iter().scan(out, |out, block| {
        let (block_out, rest) = take(out).split_at_mut(block.bytes());
        *out = rest;
        Some(block_out)
    });
    let parts = placed(plan).into_iter().zip(coded).zip(outs);
    let done = shared_out(parts.collect(), threads, |(((block, range), coded), out)| {
        decode_block(block, &step.base[range], coded, out)
    });
    done.into_iter().collect()
}
