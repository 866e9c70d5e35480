//! What verification costs against generation: one rollout alone, and as many as run at once.

use std::time::Instant;

use anyhow::Result;
use grail_protocol::rollout::Group;
use grail_services::mining::pipeline;
use grail_services::validation::examine::examine_group;

use super::report::CostReport;
use super::rows::Profile;
use super::world::World;

/// Chunk that is measured on.
const CHUNK: u32 = 4_000_000;
/// Groups that saturate an engine.
const GROUPS: u32 = 4;
/// Single rollouts that are measured.
const SINGLE: usize = 4;

/// Measures a profile.
pub fn measure(world: &World, profile: Profile) -> Result<CostReport> {
    let job = world.own_job(CHUNK, world.engine(profile)?);
    let bench = world.bench(World::window(CHUNK))?;
    let mined = world.mine(&job, GROUPS)?;
    let groups = world.claim(&job, &mined.tasks, mined.completions)?;
    let started = Instant::now();
    for group in &groups {
        examine_group(&bench, &job.header, group, world.stop())?;
    }
    let saturated = started.elapsed().as_secs_f64() / mined.seconds;

    let (mut generate_s, mut verify_s) = (0.0, 0.0);
    for task in mined.tasks.iter().take(SINGLE) {
        let mut request = pipeline::request(&job, task);
        request.race_keys.truncate(1);
        let started = Instant::now();
        world.generate(&*job.checkpoint.model, &[request])?;
        generate_s += started.elapsed().as_secs_f64();
        let whole = groups.iter().find(|group| group.index == task.group);
        let Some(whole) = whole else { continue };
        let first = whole.rollouts.iter().take(1).cloned().collect();
        let alone = Group { index: whole.index, prompt: whole.prompt.clone(), rollouts: first };
        let started = Instant::now();
        examine_group(&bench, &job.header, &alone, world.stop())?;
        verify_s += started.elapsed().as_secs_f64();
    }
    Ok(CostReport {
        verify_over_generate_at_1: (generate_s > 0.0).then(|| verify_s / generate_s),
        verify_over_generate_saturated: (mined.seconds > 0.0).then_some(saturated),
    })
}
