//! Reads that many want and one makes: kept until the head moves, and a failure is shared too.

use std::future::Future;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::Trouble;

/// What was read last, by whoever needed it first.
pub struct Kept<T> {
    slot: Mutex<Slot<T>>,
}

struct Slot<T> {
    /// The value, and the block that it is of.
    good: Option<(u64, T)>,
    /// When a read that failed was begun, and why it failed.
    failed: Option<(Instant, Trouble)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { slot: Mutex::new(Slot { good: None, failed: None }) }
    }
}

impl<T: Clone> Kept<T> {
    /// Returns the value as of the block `number` or a later one; `read` reads it if it is not kept.
    ///
    /// Whoever waited while a read failed that was begun after the own question gets the same
    /// failure, so that a node which hangs costs everybody one time-out, not one after another.
    ///
    /// # Errors
    /// The failure of `read`.
    pub async fn get(
        &self,
        number: u64,
        read: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let asked = Instant::now();
        let mut slot = self.slot.lock().await;
        if let Some((_, value)) = slot.good.as_ref().filter(|(block, _)| *block >= number) {
            return Ok(value.clone());
        }
        if let Some((_, trouble)) = slot.failed.as_ref().filter(|(begun, _)| *begun >= asked) {
            return Err(trouble.clone());
        }
        let begun = Instant::now();
        match read.await {
            Ok(value) => {
                slot.good = Some((number, value.clone()));
                slot.failed = None;
                Ok(value)
            }
            Err(trouble) => {
                slot.failed = Some((begun, trouble.clone()));
                Err(trouble)
            }
        }
    }

    /// Returns what was read last, however old, and the block that it is of.
    pub async fn last(&self) -> Option<(u64, T)> {
        self.slot.lock().await.good.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::subtensor::error::unreadable;

    #[tokio::test(start_paused = true)]
    async fn a_value_is_read_once_a_block() {
        let kept = Kept::default();
        let reads = Cell::new(0_u32);
        let read = || async {
            reads.set(reads.get() + 1);
            Ok(reads.get())
        };
        assert_eq!(kept.get(5, read()).await, Ok(1));
        assert_eq!(kept.get(5, read()).await, Ok(1));
        assert_eq!(kept.get(4, read()).await, Ok(1), "a later block's value does as well");
        assert_eq!(kept.get(6, read()).await, Ok(2));
        assert_eq!(kept.last().await, Some((6, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_by_those_who_waited_for_it() {
        let kept = Kept::<u32>::default();
        let hang = || async {
            sleep(Duration::from_secs(60)).await;
            Err(unreadable("it", "the node hangs"))
        };
        let start = Instant::now();
        // The second and third wait for the first, whose read was begun before they asked, and the
        // third for the second.
        let first = kept.get(1, hang());
        let others = async {
            sleep(Duration::from_secs(1)).await;
            tokio::join!(kept.get(1, hang()), kept.get(1, hang()), kept.get(1, hang()))
        };
        let (first, (second, third, fourth)) = tokio::join!(first, others);
        for outcome in [first, second, third, fourth] {
            assert!(outcome.is_err());
        }
        assert_eq!(start.elapsed(), Duration::from_secs(120), "two time-outs, not four");
        assert_eq!(kept.get(1, async { Ok(7) }).await, Ok(7), "the next question is asked anew");
    }
}
