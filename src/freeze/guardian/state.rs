//! What the guardian decides, as a state machine without I/O; the tests drive it, together with the
//! engine, through the death of each party at every step.

use super::{Request, Stage};
use crate::hooks::ThawReason;
use crate::state::Expiry;
use crate::sys::fds::Token;

/// Why the guardian ends a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The agent died before anybody was told of the freeze, or died or hung while thawing.
    AgentDied,
    /// The hold limit passed.
    HoldLimit,
    /// The guardian itself was told to end.
    Stopped,
    /// A person wants it ended.
    ThawRequested,
    /// The agent died and the marker was removed: another agent has thawed that knows of no guardian.
    Unmarked,
}

impl Cause {
    /// What the report and the next thaw say of it.
    pub fn text(self) -> &'static str {
        match self {
            Cause::HoldLimit => Expiry::HOLD_LIMIT,
            Cause::Stopped => "the service was stopped",
            Cause::ThawRequested => Expiry::OPERATOR,
            Cause::AgentDied => "the agent died",
            Cause::Unmarked => "the agent died and its marker was removed",
        }
    }

    /// What the hooks are told.
    pub fn thaw_reason(self) -> ThawReason {
        match self {
            Cause::HoldLimit | Cause::Stopped | Cause::ThawRequested => ThawReason::TimedOut,
            Cause::AgentDied => ThawReason::Failed,
            Cause::Unmarked => ThawReason::Recovered,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent spoke.
    Request(Request),
    /// The agent's end of the line is closed.
    Gone,
    /// The hold limit passed.
    Limit,
    /// The agent has begun to thaw, and this time is over once more.
    ClaimLimit {
        /// Agent and hook master are stopped, or the master has ended and the agent is stopped.
        is_stuck: bool,
    },
    /// A signal asks the guardian to end.
    Signaled,
    /// A person asks for the end of the freeze.
    ThawRequested,
    /// The agent is dead, and the marker of its freeze was removed.
    Unmarked,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Hand the freeze to a successor of the agent.
    HandOver,
    /// Leave the thaw to the agent and say so.
    Yield,
    /// The agent thaws already: give it its time.
    Await,
    /// Thaw everything and remove the marker.
    Undo {
        /// Why.
        cause: Cause,
        /// What is known of the hooks.
        hooks: Hooks,
        /// Whether the next thaw must hear that it came too late.
        reports_early_end: bool,
    },
    /// Give up the door and all filesystems but those that may yet be frozen.
    Retire,
    /// Thaw what was frozen after the run was over.
    TakeBack,
    /// End the process.
    Leave,
}

/// Whether hooks are to be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// None was told to freeze.
    Untouched,
    /// They were told to freeze.
    Frozen,
    /// A master was started to thaw them. It may have been killed meanwhile: what our own master has left
    /// undone is in its journal.
    Thawing,
}

/// What the guardian knows.
#[derive(Debug, Default, Clone)]
pub struct GuardianState {
    hooks_called: bool,
    frozen: bool,
    claimed: bool,
    hooks_thawed: bool,
    watches_late_freezes: bool,
    /// The next thaw is to hear that the freeze was ended before it.
    reports_early_end: bool,
}

impl GuardianState {
    /// Of a guardian that takes the place of one that died after the hooks were called.
    pub fn replacing(is_frozen: bool) -> Self {
        Self {
            hooks_called: true,
            frozen: is_frozen,
            ..Self::default()
        }
    }

    /// Takes an event in; the actions are to be done in order. The `token` decides who thaws; without one
    /// the guardian may.
    pub fn apply(&mut self, event: Event, token: Option<&Token>) -> Vec<Action> {
        match event {
            Event::Gone if self.watches_late_freezes => vec![Action::TakeBack, Action::Leave],
            Event::Request(Request::Done) => vec![Action::Leave],
            _ if self.watches_late_freezes => Vec::new(),
            Event::Request(order) => self.on_request(order, token),
            Event::Gone => {
                // It may have died between taking the token and saying so.
                self.claimed |= token.is_some_and(|token| !token.is_free());
                if self.frozen && !self.claimed {
                    // Its successor may come.
                    return Vec::new();
                }
                self.undo(Cause::AgentDied, self.reports_early_end, token)
            }
            Event::ClaimLimit { is_stuck } if self.claimed && (is_stuck || !self.hooks_thawed) => {
                self.undo(Cause::AgentDied, self.reports_early_end, token)
            }
            Event::ClaimLimit { .. } => Vec::new(),
            Event::Limit => self.end(Cause::HoldLimit, token),
            // While it freezes, the agent answers for itself.
            Event::Signaled | Event::ThawRequested if !self.frozen => Vec::new(),
            Event::Signaled => self.end(Cause::Stopped, token),
            Event::ThawRequested => self.end(Cause::ThawRequested, token),
            Event::Unmarked => self.end(Cause::Unmarked, token),
        }
    }

    fn on_request(&mut self, order: Request, token: Option<&Token>) -> Vec<Action> {
        match order {
            // The filesystems come after the hooks, whose master may have been kept from saying so.
            Request::HooksCalled | Request::Filesystems(_) => self.hooks_called = true,
            Request::Frozen { .. } => self.frozen = true,
            // One of another version, which has no token.
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

    /// Whether the end of the agent must be noticed at once, even if a thread of it cannot end.
    pub fn is_urgent(&self) -> bool {
        self.watches_late_freezes || self.stage() != Stage::Frozen
    }

    /// How far the run is.
    pub fn stage(&self) -> Stage {
        match (self.frozen, self.claimed) {
            (_, true) => Stage::Thawing,
            (true, false) => Stage::Frozen,
            (false, false) => Stage::Freezing,
        }
    }

    /// Ends the freeze, unless the agent is at it.
    fn end(&mut self, cause: Cause, token: Option<&Token>) -> Vec<Action> {
        // The agent may have said that it thaws and not have begun.
        if token.map_or(!self.claimed, Token::try_take) {
            // Of that other one the host has had its answer.
            return self.undo(cause, cause != Cause::Unmarked, None);
        }
        // If it dies now, Gone follows.
        match std::mem::replace(&mut self.claimed, true) {
            true => Vec::new(),
            false => vec![Action::Await],
        }
    }

    /// Whatever was said of it before, the token is taken from here on.
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
        for order in [Request::Status, Request::End] {
            assert_eq!(machine.apply(Event::Request(order), None), []);
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
        // Also if it says that it has the token and has not.
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
