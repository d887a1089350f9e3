//! The loop of an agent that serves the host.

use super::agent::Hands;
use super::host::Request;
use super::world::{Ms, World};
use crate::freeze::engine::Engine;
use crate::freeze::policy::{FreezeLimits, FreezePolicy};
use std::time::Duration;

/// Serves the host until the agent leaves, as the freezer does. By a kill, and if nothing happens any more,
/// it unwinds.
pub fn serve(hands: &Hands) {
    let is_marked = {
        let mut world = hands.world();
        world.agent.is_alive = true;
        world.agent.started = world.now;
        world.say(|_| "an agent starts".into());
        world.marker.is_some()
    };
    let limits = FreezeLimits {
        hold: Some(Duration::from_millis(super::world::LIMIT)),
        ..FreezeLimits::default()
    };
    let mut engine = Engine::new(hands.clone(), is_marked, FreezePolicy::default(), limits);
    if engine.is_frozen() || engine.has_legacy() {
        engine.check_hold();
        engine.conclude();
    }
    loop {
        let left = engine.time_left().map(|left| left.as_millis() as Ms);
        let (is_frozen, needs_care) = (
            engine.is_frozen(),
            engine.is_frozen() || engine.has_legacy(),
        );
        let mut world = hands.world();
        let deadline = left.map(|left| world.now + left);
        let wakes = |w: &World| {
            let line = w.agent.link.as_ref().map(|link| &w.lines[link.line]);
            let speaks = line.is_some_and(|l| !l.to_agent.is_empty() || !l.guardian_open);
            let leaves = w.agent.is_terminated && !is_frozen;
            w.host.pending.is_some() || leaves || needs_care && speaks
        };
        world.wait(&wakes, deadline);
        let leaves = world.agent.is_terminated && !is_frozen;
        let request = if leaves { None } else { world.take_request() };
        drop(world);
        match request {
            _ if leaves => {
                engine.conclude();
                return;
            }
            Some(Request::Freeze) => {
                let result = engine.freeze(None).map_err(|error| error.0);
                hands.world().answer(Request::Freeze, result);
            }
            Some(Request::Thaw) => {
                let result = engine.thaw().map_err(|error| error.0);
                hands.world().answer(Request::Thaw, result);
            }
            None => engine.check_hold(),
        }
        engine.conclude();
    }
}
