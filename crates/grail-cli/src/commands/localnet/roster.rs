//! Who takes part in a local network: names, keys, and which cheat a cheater tries when.

use std::collections::BTreeMap;

use grail_protocol::checkpoint::Protocol;
use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, Uid, Window};
use grail_services::mining::adversary::Cheat;

use crate::config::Config;
use crate::report::{MinerRole, Roster};

/// Name of the cheat of protocol v5.
pub const ZERO_SKETCHES: &str = "zero-sketches";

/// What a member does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Trains; uid 0.
    Trainer,
    /// Validates; uid 1.
    Validator,
    /// Mines honestly.
    Miner,
    /// Tries these cheats in turn; without any it sends zero sketches, the cheat of protocol v5.
    Cheater(Vec<Cheat>),
}

/// One member before it has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name of the role and of its wallet.
    pub name: String,
    /// Index in the metagraph, given in the order of registration.
    pub uid: Uid,
    /// What it does.
    pub duty: Duty,
}

/// Returns the members in the order of their uids.
pub fn members(config: &Config, cheats: &[Cheat]) -> Vec<Member> {
    let honest = (1..=config.localnet.miners).map(|n| (format!("miner-{n}"), Duty::Miner));
    let cheaters = (0..config.localnet.cheaters).map(|n| {
        // Each cheater starts at another cheat, so that a window sees as many as possible.
        let mut cheats = match config.protocol.0 {
            Protocol::V6 => cheats.to_vec(),
            Protocol::V5 => Vec::new(),
        };
        let turn = usize::from(n) % cheats.len().max(1);
        cheats.rotate_left(turn);
        (format!("cheater-{}", n + 1), Duty::Cheater(cheats))
    });
    let first = [("trainer".to_owned(), Duty::Trainer), ("validator".to_owned(), Duty::Validator)];
    (0..)
        .map(Uid)
        .zip(first.into_iter().chain(honest).chain(cheaters))
        .map(|(uid, (name, duty))| Member { name, uid, duty })
        .collect()
}

/// Returns the seed that all keys and hashes of a network follow from.
///
/// Keys of a local network are worth nothing, and equal seeds give equal networks.
pub fn network_seed(seed: u64) -> [u8; 32] {
    DomainHash::new("localnet").u64(seed).finish().0
}

/// Members by hotkey, as the report needs them.
#[derive(Clone, Debug, Default)]
pub struct LocalRoster(BTreeMap<Hotkey, Member>);

impl LocalRoster {
    /// Returns a roster of `members` with their hotkeys.
    pub fn new(members: impl IntoIterator<Item = (Hotkey, Member)>) -> Self {
        Self(members.into_iter().collect())
    }
}

impl Roster for LocalRoster {
    fn miners(&self) -> Vec<(Uid, Hotkey)> {
        let mines = |member: &Member| matches!(member.duty, Duty::Miner | Duty::Cheater(_));
        let miners = self.0.iter().filter(|(_, member)| mines(member));
        miners.map(|(hotkey, member)| (member.uid, *hotkey)).collect()
    }

    fn miner(&self, hotkey: Hotkey) -> (String, MinerRole) {
        match self.0.get(&hotkey) {
            Some(Member { name, duty: Duty::Cheater(_), .. }) => (name.clone(), MinerRole::Cheater),
            Some(Member { name, .. }) => (name.clone(), MinerRole::Honest),
            None => (hotkey.short(), MinerRole::Guest),
        }
    }

    fn cheat(&self, hotkey: Hotkey, window: Window) -> Option<String> {
        let Some(Member { duty: Duty::Cheater(cheats), .. }) = self.0.get(&hotkey) else {
            return None;
        };
        // As the adversary itself takes turns.
        let turn = usize::try_from(window.start().0 / WINDOW_BLOCKS).unwrap_or(0);
        let cheat = cheats.get(turn % cheats.len().max(1)).map(ToString::to_string);
        Some(cheat.unwrap_or_else(|| ZERO_SKETCHES.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainer_and_validator_come_first() {
        let mut config = Config::default();
        config.localnet.cheaters = 2;
        let members = members(&config, &Cheat::ALL);
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["trainer", "validator", "miner-1", "miner-2", "cheater-1", "cheater-2"]);
        assert!(members.iter().zip(0..).all(|(member, uid)| member.uid == Uid(uid)));
        let Duty::Cheater(second) = &members[5].duty else { panic!("{:?}", members[5]) };
        assert_eq!(second[0], Cheat::ALL[1]);
    }

    #[test]
    fn the_cheater_of_the_references_profile_sends_zeros() {
        let config = Config::default().for_reference();
        let member = members(&config, &Cheat::ALL).pop().unwrap();
        assert_eq!(member.duty, Duty::Cheater(Vec::new()));
        let hotkey = Hotkey([3; 32]);
        let roster = LocalRoster::new([(hotkey, member)]);
        let cheat = roster.cheat(hotkey, Window::from_start(30).unwrap());
        assert_eq!(cheat.as_deref(), Some(ZERO_SKETCHES));
    }

    #[test]
    fn the_roster_tells_who_cheats_and_how() {
        let member = Member {
            name: "cheater-1".to_owned(),
            uid: Uid(3),
            duty: Duty::Cheater(vec![Cheat::CopiedFile, Cheat::ForgedReward]),
        };
        let hotkey = Hotkey([3; 32]);
        let roster = LocalRoster::new([(hotkey, member)]);
        let cheat = |start| roster.cheat(hotkey, Window::from_start(start).unwrap()).unwrap();
        assert_eq!([0, 30, 60].map(cheat), ["copied-file", "forged-reward", "copied-file"]);
        assert_eq!(roster.miner(hotkey), ("cheater-1".to_owned(), MinerRole::Cheater));
        assert_eq!(roster.miner(Hotkey([9; 32])).1, MinerRole::Guest);
    }
}
