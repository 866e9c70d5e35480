//! Models with other weights: loadable, as different as they claim, the same for the same seed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grail_model::formats::Dtype;
use grail_model::formats::config::ModelConfig;
use grail_model::formats::safetensors::TensorSource;
use grail_model::perturb::{Grid, low_rank, noise, quantize, shorten};
use grail_model::{folder_digest, initialise};
use grail_ports::model::ModelError;

use crate::models::{bits, golden};
use crate::provider::{folder, provider};

const MATRIX: &str = "model.layers.1.mlp.down_proj.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn logits(dir: &Path) -> Vec<u32> {
    bits(&provider().load_model(dir).unwrap().engine().logits(&[5, 6, 7]).unwrap())
}

fn values(dir: &Path, name: &str) -> Vec<f32> {
    TensorSource::open(dir).unwrap().to_f32(name).unwrap()
}

fn dtype(dir: &Path, name: &str) -> Dtype {
    TensorSource::open(dir).unwrap().tensor(name).unwrap().dtype
}

/// A fresh model, and where to put others.
struct Base {
    model: tempfile::TempDir,
    out: tempfile::TempDir,
}

impl Base {
    fn new() -> Self {
        Self { model: folder(1), out: tempfile::tempdir().unwrap() }
    }

    fn dir(&self) -> &Path {
        self.model.path()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }
}

#[test]
fn noise_changes_every_weight_a_little_and_survives_in_the_file() {
    let base = Base::new();
    for relative in [0.05, 0.001] {
        let noisy = |name: &str, seed: u64| {
            let dir = base.out(&format!("{name}-{relative}"));
            noise(base.dir(), &dir, relative, seed).unwrap();
            dir
        };
        let (first, same, other) = (noisy("a", 1), noisy("b", 1), noisy("c", 2));
        let digest = |dir: &Path| folder_digest(dir).unwrap();
        assert_eq!(digest(&first), digest(&same));
        assert_ne!(digest(&first), digest(&other));
        for name in TensorSource::open(base.dir()).unwrap().names() {
            let (before, after) = (values(base.dir(), name), values(&first, name));
            let squares: f32 = before.iter().zip(&after).map(|(b, a)| ((a - b) / b).powi(2)).sum();
            let deviation = (squares / before.len() as f32).sqrt() / relative;
            assert!((0.6..1.4).contains(&deviation), "{name}: {deviation} of {relative}");
        }
        assert_ne!(logits(&first), logits(base.dir()));
        assert!(noise(base.dir(), &first, 0.1, 1).is_err(), "an existing folder is left alone");
    }
    noise(base.dir(), &base.out("none"), 0.0, 1).unwrap();
    let digest = |dir: &Path| folder_digest(dir).unwrap();
    assert_eq!(digest(&base.out("none")), digest(base.dir()), "no noise is no change");
}

#[test]
fn quantised_rows_are_on_a_grid_and_as_near_as_it_allows() {
    let base = Base::new();
    let k = ModelConfig::load(base.dir()).unwrap().intermediate_size;
    for (bits, grid) in [(8, Grid::Row), (4, Grid::Group32), (3, Grid::Row), (2, Grid::Group32)] {
        let dir = base.out(&format!("{bits}-{grid:?}"));
        quantize(base.dir(), &dir, bits, grid).unwrap();
        assert_eq!(dtype(&dir, MATRIX), Dtype::F32, "the grid is not rounded again");
        let (before, after) = (values(base.dir(), MATRIX), values(&dir, MATRIX));
        let group = if grid == Grid::Row { k } else { 32 };
        let levels = (1 << (bits - 1)) - 1;
        let mut n_values = 0;
        for (before, after) in before.chunks(k).zip(after.chunks(k)) {
            for (before, after) in before.chunks(group).zip(after.chunks(group)) {
                let scale = before.iter().fold(0.0f32, |max, x| max.max(x.abs())) / levels as f32;
                for (before, after) in before.iter().zip(after) {
                    let steps = after / scale;
                    assert!((steps - steps.round()).abs() < 1e-4, "{after} is off the grid");
                    assert!(steps.round().abs() <= levels as f32);
                    assert!((before - after).abs() <= 0.500_1 * scale, "{before} became {after}");
                }
                n_values =
                    n_values.max(after.iter().map(|x| x.to_bits()).collect::<BTreeSet<_>>().len());
            }
        }
        // A zero has two signs.
        assert!(n_values <= 2 * levels + 2, "{n_values} values of {bits} bits");
        for name in [EMBEDDING, "model.norm.weight"] {
            assert_eq!(values(base.dir(), name), values(&dir, name));
            assert_eq!(dtype(base.dir(), name), dtype(&dir, name));
        }
        assert_ne!(logits(&dir), logits(base.dir()));
    }
}

#[test]
fn a_low_rank_change_has_its_rank_and_its_size() {
    let base = Base::new();
    let dir = base.out("tuned");
    low_rank(base.dir(), &dir, 1, 0.5, 3).unwrap();
    assert_eq!(dtype(&dir, MATRIX), dtype(base.dir(), MATRIX));
    assert_eq!(values(&dir, EMBEDDING), values(base.dir(), EMBEDDING));
    let rms =
        |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
    let (before, after) = (values(base.dir(), MATRIX), values(&dir, MATRIX));
    let change: Vec<f32> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
    let size = rms(&change) / rms(&before);
    assert!((0.3..0.8).contains(&size), "{size}");
    // Of rank one, all rows are multiples of one another but for the rounding to bf16.
    let k = ModelConfig::load(base.dir()).unwrap().intermediate_size;
    let (one, two) = (&change[..k], &change[k..2 * k]);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosine = dot(one, two) / (dot(one, one) * dot(two, two)).sqrt();
    assert!(cosine.abs() > 0.95, "{cosine}");
    assert_ne!(logits(&dir), logits(base.dir()));
    low_rank(base.dir(), &base.out("again"), 1, 0.5, 3).unwrap();
    assert_eq!(folder_digest(&dir), folder_digest(&base.out("again")));
}

#[test]
fn a_shortened_model_loads_and_keeps_its_first_layers() {
    let base = Base::new();
    let dir = base.out("short");
    shorten(base.dir(), &dir, 1).unwrap();
    let config = ModelConfig::load(&dir).unwrap();
    assert_eq!(config.num_hidden_layers, 1);
    let kept = "model.layers.0.mlp.down_proj.weight";
    assert_eq!(values(&dir, kept), values(base.dir(), kept));
    assert!(TensorSource::open(&dir).unwrap().tensor(MATRIX).is_err());
    assert_ne!(logits(&dir), logits(base.dir()));

    // Layers with a window, of which the first ones are left.
    let windows = tempfile::tempdir().unwrap();
    let gemma = ModelConfig::load(&golden("gemma3")).unwrap();
    initialise(&gemma, 1, windows.path()).unwrap();
    for layers in 1..gemma.num_hidden_layers {
        let dir = base.out(&format!("gemma-{layers}"));
        shorten(windows.path(), &dir, layers).unwrap();
        let left = ModelConfig::load(&dir).unwrap();
        assert_eq!(left.layer_types, gemma.layer_types[..layers]);
    }
}

#[test]
fn impossible_changes_are_refused() {
    let base = Base::new();
    let (dir, out) = (base.dir(), base.out("x"));
    for (what, answer) in [
        ("no bits", quantize(dir, &out, 1, Grid::Row)),
        ("too many bits", quantize(dir, &out, 9, Grid::Row)),
        ("negative noise", noise(dir, &out, -0.1, 1)),
        ("too much noise", noise(dir, &out, 1.5, 1)),
        ("no number", noise(dir, &out, f32::NAN, 1)),
        ("no rank", low_rank(dir, &out, 0, 0.1, 1)),
        ("no size", low_rank(dir, &out, 1, f32::NAN, 1)),
        ("no layer", shorten(dir, &out, 0)),
        ("every layer", shorten(dir, &out, 2)),
    ] {
        assert!(matches!(answer, Err(ModelError::BadRequest(_))), "{what}: {answer:?}");
    }
    let missing = noise(&base.out("missing"), &out, 0.1, 1);
    assert!(matches!(missing, Err(ModelError::Unloadable(_))), "{missing:?}");
    assert!(!out.exists(), "a refused change leaves nothing");
}
