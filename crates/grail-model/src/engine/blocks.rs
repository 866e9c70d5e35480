//! Blocks of the cache: promised before they are taken, shared by content, kept for a while after.
//!
//! Keys and values of a position depend on the tokens up to it and on nothing else (`exact-1`), so
//! sequences that begin with the same whole blocks of tokens can read the same blocks. A whole
//! block is filed under what comes before it and its own tokens. Both are compared, never only
//! hashed, so no tokens chosen by a stranger can make two different beginnings look equal.

use std::collections::{BTreeMap, HashMap};

use grail_protocol::ids::TokenId;

use super::cache::BLOCK_POSITIONS;

/// Names one sequence of whole blocks of tokens: equal names, equal tokens. A name is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix(u64);

impl Prefix {
    /// No block at all.
    pub(crate) const EMPTY: Self = Self(0);
}

/// What a whole block holds: its own tokens after those of another prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    before: Prefix,
    tokens: [TokenId; BLOCK_POSITIONS],
}

impl Content {
    /// # Panics
    /// If `tokens` is not one block.
    fn new(before: Prefix, tokens: &[TokenId]) -> Self {
        Self { before, tokens: tokens.try_into().expect("a whole block of tokens") }
    }
}

/// A block that was used at least once.
#[derive(Debug, Default)]
struct Block {
    /// Tables that hold it.
    holders: u32,
    /// Under what it is filed, and the prefix that ends with it.
    filed: Option<(Content, Prefix)>,
    /// When its last holder let go of it.
    released_at: u64,
}

/// Hands out block ids, `0..capacity`.
///
/// What a sequence may need at most is promised to it before it starts, so a running sequence never
/// waits for memory: `used + promised <= capacity` always. Filed blocks that nobody holds stay
/// until their memory is needed or they are too many; the one released first goes first.
#[derive(Debug)]
pub(crate) struct BlockPool {
    capacity: usize,
    /// Most filed blocks that are kept with no holder.
    idle_max: usize,
    promised: usize,
    /// Blocks with a holder.
    used: usize,
    /// Every block that was ever used, by id; ids from its length on are fresh.
    blocks: Vec<Block>,
    /// Blocks that hold nothing.
    free: Vec<u32>,
    /// Filed blocks without a holder, by the time of their release.
    idle: BTreeMap<u64, u32>,
    /// Filed blocks.
    files: HashMap<Content, u32>,
    prefixes: u64,
    releases: u64,
}

impl BlockPool {
    /// Makes a pool of `capacity` fresh blocks.
    pub(crate) fn new(capacity: usize, idle_max: usize) -> Self {
        Self {
            capacity,
            idle_max,
            promised: 0,
            used: 0,
            blocks: Vec::new(),
            free: Vec::new(),
            idle: BTreeMap::new(),
            files: HashMap::new(),
            prefixes: 0,
            releases: 0,
        }
    }

    /// Returns the number of blocks with a holder.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Returns the number of blocks that are kept for their content only.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Returns the number of blocks that could be promised.
    pub(crate) fn available(&self) -> usize {
        self.capacity - self.used - self.promised
    }

    /// Promises `blocks` if the pool can keep the promise.
    pub(crate) fn promise(&mut self, blocks: usize) -> bool {
        let fits = blocks <= self.available();
        if fits {
            self.promised += blocks;
        }
        fits
    }

    /// Takes a promise back.
    pub(crate) fn forget(&mut self, blocks: usize) {
        assert!(blocks <= self.promised, "{blocks} blocks were not promised");
        self.promised -= blocks;
    }

    /// Returns a block that nobody else holds, against one promised block.
    ///
    /// # Panics
    /// If no block was promised.
    pub(crate) fn take(&mut self) -> u32 {
        self.forget(1);
        self.used += 1;
        // The block freed last is likely still in a CPU cache; a fresh one costs new memory, but
        // an idle one costs what it holds.
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.blocks.len() < self.capacity => {
                self.blocks.push(Block::default());
                u32::try_from(self.blocks.len() - 1).expect("the capacity is at most u32::MAX")
            }
            None => self.evict().expect("a promised block is free, fresh or idle"),
        };
        self.blocks[id as usize].holders = 1;
        id
    }

    /// Returns the block that holds `tokens` (one block) after `before`.
    pub(crate) fn find(&self, before: Prefix, tokens: &[TokenId]) -> Option<u32> {
        self.files.get(&Content::new(before, tokens)).copied()
    }

    /// Returns whether a block has a holder.
    pub(crate) fn is_used(&self, id: u32) -> bool {
        self.blocks[id as usize].holders > 0
    }

    /// Adds a holder to a block that was [found](Self::find).
    ///
    /// # Panics
    /// If nobody holds it and all memory is promised: a promise must be taken back first.
    pub(crate) fn hold(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        if block.holders == 0 {
            assert!(self.used + self.promised < self.capacity, "an idle block was not promised");
            self.idle.remove(&block.released_at);
            self.used += 1;
        }
        block.holders += 1;
    }

    /// Takes one holder from each block of a table. Of a prefix the end becomes free before the
    /// beginning, without which it could not be found.
    pub(crate) fn release(&mut self, table: &[u32]) {
        for &id in table.iter().rev() {
            let block = &mut self.blocks[id as usize];
            assert!(block.holders > 0, "block {id} was released twice");
            block.holders -= 1;
            if block.holders > 0 {
                continue;
            }
            self.used -= 1;
            if block.filed.is_none() {
                self.free.push(id);
                continue;
            }
            self.releases += 1;
            block.released_at = self.releases;
            self.idle.insert(self.releases, id);
            if self.idle.len() > self.idle_max
                && let Some(oldest) = self.evict()
            {
                self.free.push(oldest);
            }
        }
    }

    /// Files a held block under its content: `tokens` (one block) after `before`. Returns the
    /// prefix that ends with it, or the block that is filed there already.
    pub(crate) fn file(
        &mut self,
        id: u32,
        before: Prefix,
        tokens: &[TokenId],
    ) -> Result<Prefix, u32> {
        let content = Content::new(before, tokens);
        if let Some(&same) = self.files.get(&content) {
            return Err(same);
        }
        self.prefixes += 1;
        let prefix = Prefix(self.prefixes);
        self.files.insert(content, id);
        self.blocks[id as usize].filed = Some((content, prefix));
        Ok(prefix)
    }

    /// Returns the prefix that ends with a filed block.
    pub(crate) fn prefix_of(&self, id: u32) -> Option<Prefix> {
        self.blocks[id as usize].filed.map(|(_, prefix)| prefix)
    }

    /// Forgets what the block released first holds, and returns it.
    fn evict(&mut self) -> Option<u32> {
        let (_, id) = self.idle.pop_first()?;
        if let Some((content, _)) = self.blocks[id as usize].filed.take() {
            self.files.remove(&content);
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(first: TokenId) -> [TokenId; BLOCK_POSITIONS] {
        std::array::from_fn(|i| first + i as TokenId)
    }

    #[test]
    fn a_pool_keeps_its_promises_and_reuses_blocks() {
        let mut pool = BlockPool::new(3, 3);
        assert!(pool.promise(2));
        assert!(!pool.promise(2));
        assert!(pool.promise(1));
        let taken = [pool.take(), pool.take(), pool.take()];
        assert_eq!(taken, [0, 1, 2]);
        pool.release(&taken[1..2]);
        assert!(pool.promise(1));
        assert_eq!(pool.take(), 1);
        assert!(!pool.promise(1));
    }

    #[test]
    #[should_panic(expected = "1 blocks were not promised")]
    fn no_block_is_taken_without_a_promise() {
        BlockPool::new(1, 1).take();
    }

    #[test]
    #[should_panic(expected = "block 0 was released twice")]
    fn a_block_is_released_once() {
        let mut pool = BlockPool::new(1, 1);
        assert!(pool.promise(1));
        let id = pool.take();
        pool.release(&[id]);
        pool.release(&[id]);
    }

    #[test]
    fn a_filed_block_is_found_by_all_tokens_up_to_it() {
        let mut pool = BlockPool::new(4, 4);
        assert!(pool.promise(3));
        let table = [pool.take(), pool.take(), pool.take()];
        let first = pool.file(table[0], Prefix::EMPTY, &tokens(0)).unwrap();
        let second = pool.file(table[1], first, &tokens(100)).unwrap();
        assert_eq!(pool.file(table[2], first, &tokens(100)), Err(table[1]));
        assert_eq!(pool.find(first, &tokens(100)), Some(table[1]));
        assert_eq!(pool.prefix_of(table[1]), Some(second));
        assert_eq!(pool.find(Prefix::EMPTY, &tokens(100)), None, "another beginning");
        assert_eq!(pool.find(first, &tokens(101)), None, "other tokens");
        pool.release(&table);
        assert_eq!((pool.used(), pool.idle(), pool.available()), (0, 2, 4));
        pool.hold(table[0]);
        assert_eq!((pool.used(), pool.idle(), pool.available()), (1, 1, 3));
    }

    #[test]
    fn what_was_released_first_is_forgotten_first() {
        let mut pool = BlockPool::new(2, 2);
        assert!(pool.promise(2));
        let table = [pool.take(), pool.take()];
        let first = pool.file(table[0], Prefix::EMPTY, &tokens(0)).unwrap();
        pool.file(table[1], first, &tokens(1)).unwrap();
        pool.release(&table);
        assert!(pool.promise(1));
        assert_eq!(pool.take(), table[1], "the end of a prefix goes before its beginning");
        assert_eq!(pool.find(first, &tokens(1)), None);
        assert_eq!(pool.find(Prefix::EMPTY, &tokens(0)), Some(table[0]));
    }

    #[test]
    fn idle_blocks_are_bounded() {
        let mut pool = BlockPool::new(8, 2);
        assert!(pool.promise(4));
        let table: Vec<u32> = (0..4).map(|_| pool.take()).collect();
        let mut prefix = Prefix::EMPTY;
        for (&id, first) in table.iter().zip(0..) {
            prefix = pool.file(id, prefix, &tokens(first)).unwrap();
        }
        pool.release(&table);
        assert_eq!((pool.used(), pool.idle()), (0, 2));
        assert_eq!(pool.find(Prefix::EMPTY, &tokens(0)), Some(table[0]));
    }

    proptest! {
        #[test]
        fn counts_agree_whatever_happens(
            capacity in 1usize..12,
            idle_max in 0usize..12,
            actions in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..80),
        ) {
            let mut pool = BlockPool::new(capacity, idle_max);
            // Every hold, with the prefix of the block if it is filed.
            let mut held: Vec<u32> = Vec::new();
            for (action, index) in actions {
                match action {
                    0 => {
                        if pool.promise(1) {
                            held.push(pool.take());
                        }
                    }
                    1 if !held.is_empty() => {
                        pool.release(&[held.swap_remove(index.index(held.len()))]);
                    }
                    2 if !held.is_empty() => {
                        let id = held[index.index(held.len())];
                        if pool.prefix_of(id).is_none() {
                            let before = Prefix(index.index(2) as u64);
                            let _ = pool.file(id, before, &tokens(index.index(3) as u32));
                        }
                    }
                    _ => {
                        let before = Prefix(index.index(2) as u64);
                        if let Some(id) = pool.find(before, &tokens(index.index(3) as u32))
                            && (pool.is_used(id) || pool.available() > 0)
                        {
                            pool.hold(id);
                            held.push(id);
                        }
                    }
                }
                let mut distinct = held.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(pool.used(), distinct.len());
                prop_assert!(pool.idle() <= idle_max);
                prop_assert!(pool.used() + pool.idle() <= capacity);
                prop_assert_eq!(
                    pool.blocks.len(),
                    pool.used() + pool.idle() + pool.free.len()
                );
                let filed = pool.blocks.iter().filter(|block| block.filed.is_some()).count();
                prop_assert_eq!(filed, pool.files.len());
            }
        }
    }
}
