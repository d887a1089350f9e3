//! What the guardian decides, as a state machine without I/O; the tests drive it, together with the
//! engine, through the death of each party at every step.

use super::{Order, Stage};
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
    Wanted,
    /// The agent died and the marker was removed: another agent has thawed that knows of no guardian.
    Unmarked,
}

impl Cause {
    /// What the report and the next thaw say of it.
    pub fn text(self) -> &'static str {
        match self {
            Cause::HoldLimit => Expiry::HOLD_LIMIT,
            Cause::Stopped => "the service was stopped",
            Cause::Wanted => Expiry::OPERATOR,
            Cause::AgentDied => "the agent died",
            Cause::Unmarked => "the agent died and its marker was removed",
        }
    }

    /// What the hooks are told.
    pub fn thaw_reason(self) -> ThawReason {
        match self {
            Cause::HoldLimit | Cause::Stopped | Cause::Wanted => ThawReason::TimedOut,
            Cause::AgentDied => ThawReason::Failed,
            Cause::Unmarked => ThawReason::Recovered,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The agent spoke.
    Order(Order),
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
    Asked,
    /// A person asks for the end of the freeze.
    Wanted,
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
        tell: bool,
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
pub struct Machine {
    hooks_called: bool,
    frozen: bool,
    claimed: bool,
    hooks_thawed: bool,
    lingers: bool,
    /// The next thaw is to hear that the freeze was ended before it.
    tells: bool,
}

impl Machine {
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
    pub fn on(&mut self, event: Event, token: Option<&Token>) -> Vec<Action> {
        match event {
            Event::Gone if self.lingers => vec![Action::TakeBack, Action::Leave],
            Event::Order(Order::Done) => vec![Action::Leave],
            _ if self.lingers => Vec::new(),
            Event::Order(order) => self.on_order(order, token),
            Event::Gone => {
                // It may have died between taking the token and saying so.
                self.claimed |= token.is_some_and(|token| !token.is_free());
                if self.frozen && !self.claimed {
                    // Its successor may come.
                    return Vec::new();
                }
                self.undo(Cause::AgentDied, self.tells, token)
            }
            Event::ClaimLimit { is_stuck } if self.claimed && (is_stuck || !self.hooks_thawed) => {
                self.undo(Cause::AgentDied, self.tells, token)
            }
            Event::ClaimLimit { .. } => Vec::new(),
            Event::Limit => self.end(Cause::HoldLimit, token),
            // While it freezes, the agent answers for itself.
            Event::Asked | Event::Wanted if !self.frozen => Vec::new(),
            Event::Asked => self.end(Cause::Stopped, token),
            Event::Wanted => self.end(Cause::Wanted, token),
            Event::Unmarked => self.end(Cause::Unmarked, token),
        }
    }

    fn on_order(&mut self, order: Order, token: Option<&Token>) -> Vec<Action> {
        match order {
            // The filesystems come after the hooks, whose master may have been kept from saying so.
            Order::HooksCalled | Order::Filesystems(_) => self.hooks_called = true,
            Order::Frozen { .. } => self.frozen = true,
            // One of another version, which has no token.
            Order::Claim => {
                token.map(Token::take);
                self.claimed = true;
                return vec![Action::Yield];
            }
            Order::Claimed { is_early } => {
                self.tells |= is_early;
                self.claimed = true;
                return vec![Action::Await];
            }
            Order::HooksThawed => self.hooks_thawed = true,
            Order::Linger => {
                self.lingers = true;
                return vec![Action::Retire];
            }
            Order::Succeed => return vec![Action::HandOver],
            Order::Watch { .. } | Order::Late(_) | Order::Done | Order::Status | Order::End => {}
        }
        Vec::new()
    }

    /// Whether the end of the agent must be noticed at once, even if a thread of it cannot end.
    pub fn is_urgent(&self) -> bool {
        self.lingers || self.stage() != Stage::Frozen
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
        if token.map_or(!self.claimed, Token::take) {
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
    fn undo(&self, cause: Cause, tell: bool, token: Option<&Token>) -> Vec<Action> {
        token.map(Token::take);
        let hooks = match (self.hooks_called, self.hooks_thawed) {
            (false, _) => Hooks::Untouched,
            (true, false) => Hooks::Frozen,
            (true, true) => Hooks::Thawing,
        };
        vec![Action::Undo { cause, hooks, tell }, Action::Leave]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen() -> Machine {
        let mut machine = Machine::default();
        machine.on(Event::Order(Order::HooksCalled), None);
        let report = Box::default();
        let all = Order::Frozen {
            report,
            order: Vec::new(),
            since_ms: 0,
        };
        machine.on(Event::Order(all), None);
        machine
    }

    fn undone(cause: Cause, hooks: Hooks, tell: bool) -> Vec<Action> {
        vec![Action::Undo { cause, hooks, tell }, Action::Leave]
    }

    #[test]
    fn what_a_person_wants_is_done_while_everything_is_frozen_alone() {
        assert_eq!(Machine::default().stage(), Stage::Freezing);
        assert_eq!(Machine::default().on(Event::Wanted, None), []);
        let mut machine = frozen();
        assert_eq!(machine.stage(), Stage::Frozen);
        let undo = undone(Cause::Wanted, Hooks::Frozen, true);
        assert_eq!(machine.clone().on(Event::Wanted, None), undo);
        machine.on(Event::Order(Order::Claim), None);
        assert_eq!(machine.stage(), Stage::Thawing);
        assert_eq!(machine.on(Event::Wanted, None), []);
    }

    #[test]
    fn a_freeze_that_another_agent_has_ended_is_over() {
        let undo = undone(Cause::Unmarked, Hooks::Frozen, false);
        assert_eq!(frozen().on(Event::Unmarked, None), undo);
    }

    #[test]
    fn one_that_lingers_has_nothing_to_do_but_take_back() {
        let mut machine = frozen();
        machine.on(Event::Order(Order::Claim), None);
        assert_eq!(machine.on(Event::Order(Order::Late(7)), None), []);
        let linger = Event::Order(Order::Linger);
        assert_eq!(machine.on(linger, None), [Action::Retire]);
        let due = Event::ClaimLimit { is_stuck: true };
        let others = [Event::Limit, due, Event::Asked, Event::Wanted];
        for event in others {
            assert_eq!(machine.on(event, None), []);
        }
        let done = Event::Order(Order::Done);
        assert_eq!(machine.clone().on(done, None), [Action::Leave]);
        let taken_back = [Action::TakeBack, Action::Leave];
        assert_eq!(machine.on(Event::Gone, None), taken_back);
    }

    #[test]
    fn questions_change_nothing_and_a_successor_gets_the_freeze() {
        let mut machine = frozen();
        for order in [Order::Status, Order::End] {
            assert_eq!(machine.on(Event::Order(order), None), []);
        }
        let successor = Event::Order(Order::Succeed);
        assert_eq!(machine.on(successor, None), [Action::HandOver]);
        assert_eq!(machine.stage(), Stage::Frozen);
    }

    #[test]
    fn the_hold_limit_counts_while_the_agent_still_freezes() {
        let token = Token::new().unwrap();
        let undo = undone(Cause::HoldLimit, Hooks::Untouched, true);
        assert_eq!(Machine::default().on(Event::Limit, Some(&token)), undo);
        assert!(!token.is_free());
    }

    #[test]
    fn an_agent_that_has_the_token_and_dies_is_not_waited_for() {
        let token = Token::new().unwrap();
        assert_eq!(frozen().on(Event::Gone, Some(&token)), []);
        assert!(token.take());
        let undo = undone(Cause::AgentDied, Hooks::Frozen, false);
        assert_eq!(frozen().on(Event::Gone, Some(&token)), undo);
        let mut machine = frozen();
        assert_eq!(machine.on(Event::Limit, Some(&token)), [Action::Await]);
        assert_eq!(machine.on(Event::Gone, Some(&token)), undo);
    }

    #[test]
    fn an_agent_that_dies_before_it_takes_the_token_has_said_why_it_thaws() {
        let token = Token::new().unwrap();
        let mut machine = frozen();
        let claimed = Event::Order(Order::Claimed { is_early: true });
        machine.on(claimed, Some(&token));
        let stopped = undone(Cause::HoldLimit, Hooks::Frozen, true);
        assert_eq!(machine.clone().on(Event::Limit, Some(&token)), stopped);
        assert!(!token.is_free());
        let undo = undone(Cause::AgentDied, Hooks::Frozen, true);
        assert_eq!(machine.on(Event::Gone, Some(&token)), undo);
    }

    #[test]
    fn hooks_that_thaw_slowly_are_not_those_of_a_dead_agent() {
        let mut machine = frozen();
        let claimed = Event::Order(Order::Claimed { is_early: false });
        assert_eq!(machine.on(claimed, None), [Action::Await]);
        let mut hung = machine.clone();
        let undo = undone(Cause::AgentDied, Hooks::Frozen, false);
        let due = |is_stuck| Event::ClaimLimit { is_stuck };
        // Also if it says that it has the token and has not.
        let token = Token::new().unwrap();
        assert_eq!(hung.on(due(false), Some(&token)), undo);
        assert!(!token.is_free());
        machine.on(Event::Order(Order::HooksThawed), None);
        assert_eq!(machine.on(due(false), None), []);
        let undo = undone(Cause::AgentDied, Hooks::Thawing, false);
        assert_eq!(machine.clone().on(due(true), None), undo);
        assert_eq!(machine.on(Event::Gone, None), undo);
    }
}
