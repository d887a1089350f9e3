//! What the guardian decides, as a pure state machine; the tests drive it, together with the
//! engine, through the death of the agent at every step.

use super::Order;

/// Why the guardian ends a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The agent died before anybody was told of the freeze, or while thawing.
    AgentDied,
    /// The hold limit passed.
    HoldLimit,
    /// The guardian itself was told to end.
    Stopped,
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
}

impl Machine {
    /// Takes an event in; the actions are to be done in order.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Order(Order::Watch { .. }) => Vec::new(),
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
            Event::Order(Order::Done) => vec![Action::Leave],
            Event::Gone | Event::ClaimLimit if self.claimed || !self.frozen => {
                self.undo(Cause::AgentDied, false)
            }
            // Its successor may come.
            Event::Gone | Event::ClaimLimit => Vec::new(),
            Event::Limit if self.holds() => self.undo(Cause::HoldLimit, true),
            Event::Asked if self.holds() => self.undo(Cause::Stopped, true),
            // The agent is at work on it; if it ends now, Gone follows.
            Event::Limit | Event::Asked => Vec::new(),
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
