//! Work that blocks (floor 4), on a thread of its own while the session's task awaits it.

use crate::protocol::error::CommandError;
use crate::sys::strerror;
use tokio::sync::oneshot;

/// Stack of a worker: none of them calls deep code.
const STACK: usize = 256 * 1024;

/// What `job` comes to. It runs to its end even if nobody awaits it any more.
///
/// # Errors
/// The job's own, or that no thread could be started.
pub async fn run<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // The session may be gone by now, and with it whoever wants to know.
            tell.send(job()).ok();
        })
        .map_err(|e| {
            CommandError::generic(format!("failed to start a thread: {}", strerror(&e)))
        })?;
    told.await
        .unwrap_or_else(|_| Err(CommandError::generic("the thread at work died")))
}
