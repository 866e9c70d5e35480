//! `grail bench`: measures the engine on this machine.

use anyhow::{Context, Result, ensure};
use grail_kernels::{Isa, Kernels};
use grail_model::formats::config::ModelConfig;
use grail_protocol::checkpoint::Protocol;

use crate::base_model::BaseModel;
use crate::bench::{
    Bench, COLD_BYTES, Effort, Machine, ModelShape, Report, SCHEMA_VERSION, Selection, row_line,
};
use crate::cli::{BenchCommand, BenchEngineArgs};
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::output;

/// Does what the options ask for.
pub fn run(command: &BenchCommand, config: &Config) -> Result<Outcome> {
    match command {
        BenchCommand::Engine(args) => bench_engine(args, config),
    }
}

fn bench_engine(args: &BenchEngineArgs, config: &Config) -> Result<Outcome> {
    let isa = match &args.isa {
        Some(name) => name.parse()?,
        None => Isa::detect(),
    };
    let kernels = Kernels::with_isa(isa, engine::threads(config.engine))
        .context("while starting the engine")?;
    let staging = tempfile::tempdir().context("while making a temporary folder")?;
    let base = BaseModel::prepare(args.model.as_deref(), staging.path(), Protocol::V6)?;
    let model = ModelConfig::load(base.dir())?;
    let machine = machine(&kernels);
    let told = !args.json;
    if told {
        output::line(&format!(
            "{}, {}, {} threads: {:.1} GFLOP/s of multiply-adds, {:.1} GB/s read",
            machine.cpu, machine.isa, machine.threads, machine.fma_gflops, machine.read_gb_per_s
        ))?;
        output::line(&row_line(None))?;
    }
    let mut bench = Bench {
        kernels: &kernels,
        dir: base.dir(),
        model: &model,
        selection: Selection::new(args.only.clone().unwrap_or_default()),
        effort: if args.quick { Effort::QUICK } else { Effort::FULL },
        machine,
        on_row: &mut |row| {
            if told {
                output::line(&row_line(Some(row)))?;
            }
            Ok(())
        },
        rows: Vec::new(),
        ratios: Vec::new(),
    };
    bench.run()?;
    ensure!(
        !bench.rows.is_empty() || !bench.ratios.is_empty(),
        "no row of this model matches --only {}; docs/bench.md lists the rows",
        args.only.clone().unwrap_or_default().join(",")
    );
    let source =
        args.model.as_ref().map_or("embedded".to_owned(), |path| path.display().to_string());
    let report = Report {
        schema_version: SCHEMA_VERSION,
        grail_version: env!("CARGO_PKG_VERSION"),
        machine: &bench.machine,
        model: ModelShape {
            source,
            parameters: model.n_parameters(),
            layers: model.num_hidden_layers,
            hidden_size: model.hidden_size,
            vocab_size: model.vocab_size,
        },
        rows: &bench.rows,
        ratios: &bench.ratios,
    };
    if told {
        for ratio in report.ratios {
            output::line(&format!("{:<28} {:.3}  {}", ratio.id, ratio.value, ratio.what))?;
        }
    } else {
        output::line(&serde_json::to_string_pretty(&report)?)?;
    }
    Ok(Outcome::Done)
}

fn machine(kernels: &Kernels) -> Machine {
    Machine {
        cpu: cpu_name(),
        isa: kernels.isa().name(),
        threads: kernels.threads(),
        fma_gflops: kernels.measure_fma_gflops(),
        read_gb_per_s: kernels.measure_read_gb_per_s(COLD_BYTES),
    }
}

/// The name that the system gives the processor.
fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = named.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
