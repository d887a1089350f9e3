//! The activity of the agent and the times of a run, by the requests that the guardian has received. All times are on
//! CLOCK_MONOTONIC, which agent and guardian share.

use super::{Activity, Request};
use crate::sys::clock;
use std::time::Duration;

#[derive(Debug)]
pub struct Progress {
    pub activity: Activity,
    since: Duration,
    pub frozen_at: Option<Duration>,
    thaw_at: Option<Duration>,
}

impl Progress {
    pub fn begin() -> Self {
        Self {
            activity: Activity::Flush,
            since: clock::monotonic(),
            frozen_at: None,
            thaw_at: None,
        }
    }

    pub fn replacing(frozen_at: Option<Duration>) -> Self {
        let activity = match frozen_at {
            Some(_) => Activity::Held,
            None => Activity::Freeze,
        };
        Self {
            activity,
            since: frozen_at.unwrap_or_else(clock::monotonic),
            frozen_at,
            thaw_at: None,
        }
    }

    pub fn apply(&mut self, request: &Request) {
        self.activity = match request {
            Request::HooksCalled => Activity::FreezeHooks,
            Request::Filesystems { .. } => Activity::Freeze,
            Request::Frozen { since_ms, .. } => {
                self.frozen_at = Some(Duration::from_millis(*since_ms));
                Activity::Held
            }
            Request::Claim | Request::Claimed { .. } => {
                self.thaw_at = Some(clock::monotonic());
                Activity::Thaw
            }
            Request::HooksThawed => Activity::ThawHooks,
            _ => return,
        };
        self.since = clock::monotonic();
    }

    pub fn seconds(&self) -> f64 {
        clock::monotonic().saturating_sub(self.since).as_secs_f64()
    }

    /// Seconds for which everything was frozen, until the thaw began or until now.
    pub fn held(&self) -> f64 {
        let until = self.thaw_at.unwrap_or_else(clock::monotonic);
        let held = self.frozen_at.map(|at| until.saturating_sub(at));
        held.unwrap_or_default().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_held_any_more_when_the_thaw_has_begun() {
        let mut progress = Progress::begin();
        assert_eq!((progress.activity, progress.held()), (Activity::Flush, 0.0));
        progress.apply(&Request::HooksCalled);
        assert_eq!(progress.activity, Activity::FreezeHooks);
        let ago = clock::monotonic() - Duration::from_secs(5);
        progress.apply(&Request::Frozen {
            report: Box::default(),
            order: Vec::new(),
            since_ms: ago.as_millis() as u64,
        });
        assert!(progress.held() >= 5.0 && progress.seconds() < 5.0);
        progress.apply(&Request::Claimed { is_early: false });
        let held = progress.held();
        std::thread::sleep(Duration::from_millis(2));
        progress.apply(&Request::HooksThawed);
        progress.apply(&Request::Status);
        assert_eq!(progress.activity, Activity::ThawHooks);
        assert_eq!(progress.held(), held);
    }
}
