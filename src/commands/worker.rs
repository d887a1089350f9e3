//! Floor 4: work that may take long, on a thread of its own, so that the session's task only
//! awaits.

use std::thread::Builder;

use tokio::sync::oneshot;

use crate::protocol::error::CommandError;

/// Handlers are shallow; what they call of the C library (name services) is not.
const STACK: usize = 512 * 1024;

/// Runs `job` on a thread and awaits its result.
///
/// # Errors
/// The job's, or that no thread could be started.
pub(super) async fn run<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // The session may have ended meanwhile: then nobody wants to know.
        tell.send(job()).ok();
    };
    Builder::new()
        .name("command".into())
        .stack_size(STACK)
        .spawn(work)
        .map_err(|error| {
            let reason = crate::sys::strerror(&error);
            CommandError::generic(format!("failed to start a thread: {reason}"))
        })?;
    told.await
        .unwrap_or_else(|_| Err(CommandError::generic("the command's thread died")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn results_and_failures_come_back() {
        assert_eq!(wait(run(|| Ok(7))).unwrap(), 7);
        let failed: Result<(), _> = wait(run(|| Err(CommandError::generic("no"))));
        assert_eq!(failed.unwrap_err().desc, "no");
    }
}
