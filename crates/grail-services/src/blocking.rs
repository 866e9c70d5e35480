//! Runs compute outside the async runtime.

/// Runs `work` on a thread of its own and returns what it returns; a panic goes on in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // A blocking task is cancelled only when the runtime is torn down, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
