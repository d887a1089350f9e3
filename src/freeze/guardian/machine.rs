//! What the guardian decides, as a pure state machine; the tests drive it, together with the
//! engine, through the death of the agent at every step.

use super::{Order, Stage};

/// Why the guardian ends a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The agent died before anybody was told of the freeze, or while thawing.
    AgentDied,
    /// The hold limit passed.
    HoldLimit,
    /// The guardian itself was told to end.
    Stopped,
    /// A person wants it ended.
    Wanted,
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
    /// The agent claimed the thaw and has not ended it in time.
    ClaimLimit,
    /// A signal asks the guardian to end.
    Asked,
    /// A person asks for the end of the freeze.
    Wanted,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Leave the thaw to the agent and say so.
    Yield,
    /// Thaw everything and remove the marker.
    Undo {
        /// Why.
        cause: Cause,
        /// Whether the hook master is to be told.
        hooks: bool,
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

/// What the guardian knows.
#[derive(Debug, Default, Clone)]
pub struct Machine {
    hooks_called: bool,
    frozen: bool,
    claimed: bool,
    hooks_thawed: bool,
    lingers: bool,
}

impl Machine {
    /// Takes an event in; the actions are to be done in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Gone if self.lingers => vec![Action::TakeBack, Action::Leave],
            Event::Order(Order::Done) => vec![Action::Leave],
            _ if self.lingers => Vec::new(),
            Event::Order(Order::Linger) => {
                self.lingers = true;
                vec![Action::Retire]
            }
            Event::Order(
                Order::Watch { .. } | Order::Late(_) | Order::Succeed | Order::Status | Order::End,
            ) => Vec::new(),
            Event::Order(Order::HooksCalled) => {
                self.hooks_called = true;
                Vec::new()
            }
            Event::Order(Order::Frozen { .. }) => {
                self.frozen = true;
                Vec::new()
            }
            Event::Order(Order::Claim) => {
                self.claimed = true;
                vec![Action::Yield]
            }
            Event::Order(Order::HooksThawed) => {
                self.hooks_thawed = true;
                Vec::new()
            }
            Event::Gone | Event::ClaimLimit if self.claimed || !self.frozen => {
                self.undo(Cause::AgentDied, false)
            }
            // Its successor may come.
            Event::Gone | Event::ClaimLimit => Vec::new(),
            Event::Limit if self.holds() => self.undo(Cause::HoldLimit, true),
            Event::Asked if self.holds() => self.undo(Cause::Stopped, true),
            Event::Wanted if self.holds() => self.undo(Cause::Wanted, true),
            // The agent is at work on it; if it ends now, Gone follows.
            Event::Limit | Event::Asked | Event::Wanted => Vec::new(),
        }
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

    /// Whether everything is frozen and nobody thaws yet.
    fn holds(&self) -> bool {
        self.frozen && !self.claimed
    }

    fn undo(&self, cause: Cause, tell: bool) -> Vec<Action> {
        let hooks = self.hooks_called && !self.hooks_thawed;
        vec![Action::Undo { cause, hooks, tell }, Action::Leave]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen() -> Machine {
        let mut machine = Machine::default();
        machine.on(Event::Order(Order::HooksCalled));
        let report = Box::default();
        machine.on(Event::Order(Order::Frozen {
            limit_ms: None,
            report,
        }));
        machine
    }

    #[test]
    fn what_a_person_wants_is_done_while_everything_is_frozen_alone() {
        assert_eq!(Machine::default().stage(), Stage::Freezing);
        assert_eq!(Machine::default().on(Event::Wanted), []);
        let mut machine = frozen();
        assert_eq!(machine.stage(), Stage::Frozen);
        let undo = Action::Undo {
            cause: Cause::Wanted,
            hooks: true,
            tell: true,
        };
        assert_eq!(machine.clone().on(Event::Wanted), [undo, Action::Leave]);
        machine.on(Event::Order(Order::Claim));
        assert_eq!(machine.stage(), Stage::Thawing);
        assert_eq!(machine.on(Event::Wanted), []);
    }

    #[test]
    fn one_that_lingers_has_nothing_to_do_but_take_back() {
        let mut machine = frozen();
        machine.on(Event::Order(Order::Claim));
        assert_eq!(machine.on(Event::Order(Order::Late(7))), []);
        let linger = Event::Order(Order::Linger);
        assert_eq!(machine.on(linger), [Action::Retire]);
        let others = [Event::Limit, Event::ClaimLimit, Event::Asked, Event::Wanted];
        for event in others {
            assert_eq!(machine.on(event), []);
        }
        let done = Event::Order(Order::Done);
        assert_eq!(machine.clone().on(done), [Action::Leave]);
        assert_eq!(machine.on(Event::Gone), [Action::TakeBack, Action::Leave]);
    }

    #[test]
    fn questions_change_nothing() {
        let mut machine = frozen();
        for order in [Order::Status, Order::Succeed, Order::End] {
            assert_eq!(machine.on(Event::Order(order)), []);
        }
        assert_eq!(machine.stage(), Stage::Frozen);
    }
}
