//! The miner of our own profile: as many exact groups as fit into a window, signed and sealed.

use std::sync::Arc;

use async_trait::async_trait;
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::randomness::window_randomness;
use grail_protocol::rollout::Group;

use super::MiningError;
use super::lifecycle::{Aim, Miner, Open, Profile, Session};
use super::pace::{self, GroupMaker, MiningConfig};
use super::pipeline::{self, MiningJob, PipelineError};
use crate::checkpoint::LoadedCheckpoint;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::context::{RunContext, seal_after};

/// Mines the window of each head.
pub type MiningService = Miner<NativeProfile>;

/// Our own profile.
pub struct NativeProfile {
    consumer: CheckpointConsumer,
}

impl MiningService {
    /// Makes the service; nothing is read before the first tick.
    pub fn new(ctx: RunContext, config: MiningConfig) -> Self {
        Self::with(Session::native(ctx, config))
    }
}

impl Session<NativeProfile> {
    /// Makes a session of our own profile; nothing is read before the first tick.
    pub fn native(ctx: RunContext, config: MiningConfig) -> Self {
        let consumer = CheckpointConsumer::new(ctx.clone(), Runtimes::Any);
        Self::new(ctx, config, NativeProfile { consumer })
    }
}

#[async_trait]
impl Profile for NativeProfile {
    type Checkpoint = Arc<LoadedCheckpoint>;
    type Job = MiningJob;
    type Group = Group;

    const FOLDER: &'static str = "mining";
    const NO_GROUP: &'static str = "too late for a group";

    async fn checkpoint(
        &mut self,
        window: Window,
    ) -> Result<Aim<Arc<LoadedCheckpoint>>, MiningError> {
        Ok(match self.consumer.for_window(window).await {
            Ok(Some(checkpoint)) => Aim::At(checkpoint),
            Ok(None) => Aim::Tell("no checkpoint was ready before this window".to_owned()),
            Err(error) => Aim::Tell(error.other_protocol().ok_or(error)?),
        })
    }

    fn job(ctx: &RunContext, open: &Open, checkpoint: Arc<LoadedCheckpoint>) -> MiningJob {
        let Open { window, first, .. } = *open;
        let chain = &*ctx.chain;
        MiningJob {
            window,
            randomness: window_randomness(&first.block.hash, &first.beacon),
            header: checkpoint.header(chain.network(), chain.netuid(), window, ctx.hotkey()),
            checkpoint,
            seal: seal_after(chain, &*ctx.beacon, &first.block),
        }
    }

    fn maker(ctx: &RunContext, job: Arc<MiningJob>) -> GroupMaker {
        pace::maker(job, ctx.stop.clone(), pipeline::mine)
    }

    fn seal(
        job: &MiningJob,
        groups: Vec<Group>,
        signer: &dyn Signer,
    ) -> Result<Vec<u8>, PipelineError> {
        pipeline::seal(job.header.clone(), groups, job.seal, signer)
    }

    fn key(hotkey: Hotkey, window: Window) -> String {
        keys::rollout_file(hotkey, window)
    }
}
