//! The loop of an agent that serves the host.

use super::agent::AgentOps;
use super::host::Request;
use super::world::{Ms, World};
use crate::freeze::engine::Engine;
use crate::freeze::policy::{FreezeLimits, FreezePolicy};
use std::time::Duration;

/// As the freezer does, until the agent exits. Unwinds when the agent is killed, or when nothing happens any more.
pub fn serve(ops: &AgentOps) {
    let is_marked = {
        let mut world = ops.world();
        world.agent.is_alive = true;
        world.agent.started = world.now;
        world.trace_step(|_| "an agent starts".into());
        world.marker.is_some()
    };
    let limits = FreezeLimits {
        hold: Some(Duration::from_millis(super::world::LIMIT)),
        ..FreezeLimits::default()
    };
    let mut engine = Engine::new(ops.clone(), is_marked, FreezePolicy::default(), limits);
    if engine.is_frozen() || engine.has_legacy() {
        engine.check_hold();
        engine.conclude();
    }
    loop {
        let left = engine.time_left().map(|left| left.as_millis() as Ms);
        let (is_frozen, needs_checks) = (
            engine.is_frozen(),
            engine.is_frozen() || engine.has_legacy(),
        );
        let mut world = ops.world();
        let deadline = left.map(|left| world.now + left);
        let wakes = |w: &World| {
            let connection = w
                .agent
                .client
                .as_ref()
                .map(|client| &w.connections[client.connection]);
            let is_readable =
                connection.is_some_and(|l| !l.to_agent.is_empty() || !l.guardian_open);
            let leaves = w.agent.is_terminated && !is_frozen;
            w.host.pending.is_some() || leaves || needs_checks && is_readable
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
                let result = engine.freeze(None).map_err(|error| error.to_string());
                ops.world().answer(Request::Freeze, result);
            }
            Some(Request::Thaw) => {
                let result = engine.thaw().map_err(|error| error.to_string());
                ops.world().answer(Request::Thaw, result);
            }
            None => engine.check_hold(),
        }
        engine.conclude();
    }
}
