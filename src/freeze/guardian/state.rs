//! What the guardian decides, as a state machine without I/O.
//!
//! [`GuardianState::apply`] takes one event and returns the actions for it; `server` reads the events and carries the
//! actions out. The guardian undoes a freeze at most once, and only after it has taken the token, or after the agent
//! has died or hung with it. `freeze::simulator` runs this machine and the engine through the death of each party at
//! every step; tests/fuzz applies arbitrary events.

use super::{Request, Stage};
use crate::hooks::ThawReason;
use crate::state::Expiry;
use crate::sys::fds::Token;

/// Why the guardian ends a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The agent died before the host had an answer, or died or hung while thawing.
    AgentDied,
    /// The hold limit passed.
    HoldLimit,
    /// A signal asked the guardian to exit.
    Stopped,
    /// A person asked for it (`qemu-ga thaw`).
    ThawRequested,
    /// The agent died and its marker was removed: an agent that does not use the guardian has thawed.
    Unmarked,
}

impl Cause {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Cause::HoldLimit => Expiry::HOLD_LIMIT,
            Cause::Stopped => "the service was stopped",
            Cause::ThawRequested => Expiry::OPERATOR,
            Cause::AgentDied => "the agent died",
            Cause::Unmarked => "the agent died and its marker was removed",
        }
    }

    pub(crate) fn thaw_reason(self) -> ThawReason {
        match self {
            Cause::HoldLimit | Cause::Stopped | Cause::ThawRequested => ThawReason::TimedOut,
            Cause::AgentDied => ThawReason::Failed,
            Cause::Unmarked => ThawReason::Recovered,
        }
    }
}

/// Input of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent sent a request.
    Request(Request),
    /// The connection to the agent is closed, or the agent was killed.
    Gone,
    /// The hold limit passed.
    Limit,
    /// [`THAW_CLAIM_TIMEOUT`](super::THAW_CLAIM_TIMEOUT) has passed once more since the agent began to thaw.
    ClaimLimit {
        /// The agent is stopped, and its hook master is stopped or has ended.
        is_stuck: bool,
    },
    /// A signal asks the guardian to exit.
    Signaled,
    /// A person asks for the end of the freeze.
    ThawRequested,
    /// The agent is dead, and its marker was removed.
    Unmarked,
}

/// What the guardian does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send the freeze to the next agent.
    HandOver,
    /// Leave the thaw to the agent and send [`Response::Yours`](super::Response::Yours).
    Yield,
    /// The agent thaws already: wait for [`THAW_CLAIM_TIMEOUT`](super::THAW_CLAIM_TIMEOUT).
    Await,
    /// Thaw everything, remove the marker, call the thaw hooks.
    Undo {
        /// Why.
        cause: Cause,
        /// Which hooks were called.
        hooks: Hooks,
        /// The next guest-fsfreeze-thaw reports that the freeze ended before it.
        reports_early_end: bool,
    },
    /// Close the socket, and all filesystems but those whose FIFREEZE has not returned.
    Retire,
    /// Thaw what was frozen after the run was over.
    TakeBack,
    /// Exit.
    Leave,
}

/// Which hooks were called in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// None.
    Untouched,
    /// The freeze hooks.
    Frozen,
    /// A master was started to thaw them. If it was killed since, the journal lists the hooks that it has not thawed.
    Thawing,
}

/// The guardian's state.
#[derive(Debug, Default, Clone)]
pub struct GuardianState {
    hooks_called: bool,
    frozen: bool,
    claimed: bool,
    hooks_thawed: bool,
    watches_late_freezes: bool,
    reports_early_end: bool,
}

impl GuardianState {
    /// The agent replaces a guardian only after the hooks were called.
    pub(crate) fn replacing(is_frozen: bool) -> Self {
        Self {
            hooks_called: true,
            frozen: is_frozen,
            ..Self::default()
        }
    }

    /// Returns the actions in order. `token` decides which process thaws; without one the state alone does.
    pub fn apply(&mut self, event: Event, token: Option<&Token>) -> Vec<Action> {
        match event {
            Event::Gone if self.watches_late_freezes => vec![Action::TakeBack, Action::Leave],
            Event::Request(Request::Done) => vec![Action::Leave],
            _ if self.watches_late_freezes => Vec::new(),
            Event::Request(request) => self.on_request(request, token),
            Event::Gone => {
                // The agent may have died after it took the token and before its request arrived.
                self.claimed |= token.is_some_and(|token| !token.is_free());
                if self.frozen && !self.claimed {
                    // The next agent may connect and go on with the freeze.
                    return Vec::new();
                }
                self.undo(Cause::AgentDied, self.reports_early_end, token)
            }
            Event::ClaimLimit { is_stuck } if self.claimed && (is_stuck || !self.hooks_thawed) => {
                self.undo(Cause::AgentDied, self.reports_early_end, token)
            }
            Event::ClaimLimit { .. } => Vec::new(),
            Event::Limit => self.end(Cause::HoldLimit, token),
            // Until everything is frozen the agent undoes the freeze itself.
            Event::Signaled | Event::ThawRequested if !self.frozen => Vec::new(),
            Event::Signaled => self.end(Cause::Stopped, token),
            Event::ThawRequested => self.end(Cause::ThawRequested, token),
            Event::Unmarked => self.end(Cause::Unmarked, token),
        }
    }

    fn on_request(&mut self, request: Request, token: Option<&Token>) -> Vec<Action> {
        match request {
            // The agent sends the filesystems after it called the hooks. The hook master may have failed to send
            // HooksCalled.
            Request::HooksCalled | Request::Filesystems(_) => self.hooks_called = true,
            Request::Frozen { .. } => self.frozen = true,
            // From an agent without the token; it may be of another version.
            Request::Claim => {
                token.map(Token::try_take);
                self.claimed = true;
                return vec![Action::Yield];
            }
            Request::Claimed { is_early } => {
                self.reports_early_end |= is_early;
                self.claimed = true;
                return vec![Action::Await];
            }
            Request::HooksThawed => self.hooks_thawed = true,
            Request::Linger => {
                self.watches_late_freezes = true;
                return vec![Action::Retire];
            }
            Request::Succeed => return vec![Action::HandOver],
            Request::Watch { .. }
            | Request::Late(_)
            | Request::Done
            | Request::Status
            | Request::End => {}
        }
        Vec::new()
    }

    /// Whether an agent that was killed must be noticed at once, even while a thread in FIFREEZE keeps it from exiting.
    pub(crate) fn is_urgent(&self) -> bool {
        self.watches_late_freezes || self.stage() != Stage::Frozen
    }

    pub(crate) fn stage(&self) -> Stage {
        match (self.frozen, self.claimed) {
            (_, true) => Stage::Thawing,
            (true, false) => Stage::Frozen,
            (false, false) => Stage::Freezing,
        }
    }

    /// Unless the agent thaws.
    fn end(&mut self, cause: Cause, token: Option<&Token>) -> Vec<Action> {
        // The agent sends Claimed before it takes the token; until then the guardian may take it.
        if token.map_or(!self.claimed, Token::try_take) {
            // The agent that removed the marker has answered the host's thaw; the next one has nothing to report.
            return self.undo(cause, cause != Cause::Unmarked, None);
        }
        // If the agent dies now, Gone follows.
        match std::mem::replace(&mut self.claimed, true) {
            true => Vec::new(),
            false => vec![Action::Await],
        }
    }

    /// The guardian takes the token, so that an agent that was stopped cannot thaw later.
    fn undo(&self, cause: Cause, reports_early_end: bool, token: Option<&Token>) -> Vec<Action> {
        token.map(Token::try_take);
        let hooks = match (self.hooks_called, self.hooks_thawed) {
            (false, _) => Hooks::Untouched,
            (true, false) => Hooks::Frozen,
            (true, true) => Hooks::Thawing,
        };
        vec![
            Action::Undo {
                cause,
                hooks,
                reports_early_end,
            },
            Action::Leave,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen() -> GuardianState {
        let mut machine = GuardianState::default();
        machine.apply(Event::Request(Request::HooksCalled), None);
        let report = Box::default();
        let all = Request::Frozen {
            report,
            order: Vec::new(),
            since_ms: 0,
        };
        machine.apply(Event::Request(all), None);
        machine
    }

    fn undone(cause: Cause, hooks: Hooks, reports_early_end: bool) -> Vec<Action> {
        vec![
            Action::Undo {
                cause,
                hooks,
                reports_early_end,
            },
            Action::Leave,
        ]
    }

    #[test]
    fn what_a_person_wants_is_done_while_everything_is_frozen_alone() {
        assert_eq!(GuardianState::default().stage(), Stage::Freezing);
        assert_eq!(
            GuardianState::default().apply(Event::ThawRequested, None),
            []
        );
        let mut machine = frozen();
        assert_eq!(machine.stage(), Stage::Frozen);
        let undo = undone(Cause::ThawRequested, Hooks::Frozen, true);
        assert_eq!(machine.clone().apply(Event::ThawRequested, None), undo);
        machine.apply(Event::Request(Request::Claim), None);
        assert_eq!(machine.stage(), Stage::Thawing);
        assert_eq!(machine.apply(Event::ThawRequested, None), []);
    }

    #[test]
    fn a_freeze_that_another_agent_has_ended_is_over() {
        let undo = undone(Cause::Unmarked, Hooks::Frozen, false);
        assert_eq!(frozen().apply(Event::Unmarked, None), undo);
    }

    #[test]
    fn one_that_lingers_has_nothing_to_do_but_take_back() {
        let mut machine = frozen();
        machine.apply(Event::Request(Request::Claim), None);
        assert_eq!(machine.apply(Event::Request(Request::Late(7)), None), []);
        let linger = Event::Request(Request::Linger);
        assert_eq!(machine.apply(linger, None), [Action::Retire]);
        let due = Event::ClaimLimit { is_stuck: true };
        let others = [Event::Limit, due, Event::Signaled, Event::ThawRequested];
        for event in others {
            assert_eq!(machine.apply(event, None), []);
        }
        let done = Event::Request(Request::Done);
        assert_eq!(machine.clone().apply(done, None), [Action::Leave]);
        let taken_back = [Action::TakeBack, Action::Leave];
        assert_eq!(machine.apply(Event::Gone, None), taken_back);
    }

    #[test]
    fn questions_change_nothing_and_a_successor_gets_the_freeze() {
        let mut machine = frozen();
        for request in [Request::Status, Request::End] {
            assert_eq!(machine.apply(Event::Request(request), None), []);
        }
        let successor = Event::Request(Request::Succeed);
        assert_eq!(machine.apply(successor, None), [Action::HandOver]);
        assert_eq!(machine.stage(), Stage::Frozen);
    }

    #[test]
    fn the_hold_limit_counts_while_the_agent_still_freezes() {
        let token = Token::new().unwrap();
        let undo = undone(Cause::HoldLimit, Hooks::Untouched, true);
        assert_eq!(
            GuardianState::default().apply(Event::Limit, Some(&token)),
            undo
        );
        assert!(!token.is_free());
    }

    #[test]
    fn an_agent_that_has_the_token_and_dies_is_not_waited_for() {
        let token = Token::new().unwrap();
        assert_eq!(frozen().apply(Event::Gone, Some(&token)), []);
        assert!(token.try_take());
        let undo = undone(Cause::AgentDied, Hooks::Frozen, false);
        assert_eq!(frozen().apply(Event::Gone, Some(&token)), undo);
        let mut machine = frozen();
        assert_eq!(machine.apply(Event::Limit, Some(&token)), [Action::Await]);
        assert_eq!(machine.apply(Event::Gone, Some(&token)), undo);
    }

    #[test]
    fn an_agent_that_dies_before_it_takes_the_token_has_said_why_it_thaws() {
        let token = Token::new().unwrap();
        let mut machine = frozen();
        let claimed = Event::Request(Request::Claimed { is_early: true });
        machine.apply(claimed, Some(&token));
        let stopped = undone(Cause::HoldLimit, Hooks::Frozen, true);
        assert_eq!(machine.clone().apply(Event::Limit, Some(&token)), stopped);
        assert!(!token.is_free());
        let undo = undone(Cause::AgentDied, Hooks::Frozen, true);
        assert_eq!(machine.apply(Event::Gone, Some(&token)), undo);
    }

    #[test]
    fn hooks_that_thaw_slowly_are_not_those_of_a_dead_agent() {
        let mut machine = frozen();
        let claimed = Event::Request(Request::Claimed { is_early: false });
        assert_eq!(machine.apply(claimed, None), [Action::Await]);
        let mut hung = machine.clone();
        let undo = undone(Cause::AgentDied, Hooks::Frozen, false);
        let due = |is_stuck| Event::ClaimLimit { is_stuck };
        // Also if the agent claimed the thaw and did not take the token.
        let token = Token::new().unwrap();
        assert_eq!(hung.apply(due(false), Some(&token)), undo);
        assert!(!token.is_free());
        machine.apply(Event::Request(Request::HooksThawed), None);
        assert_eq!(machine.apply(due(false), None), []);
        let undo = undone(Cause::AgentDied, Hooks::Thawing, false);
        assert_eq!(machine.clone().apply(due(true), None), undo);
        assert_eq!(machine.apply(Event::Gone, None), undo);
    }
}
