//! From a request to its result. Floor 5.
//!
//! Finds the command, checks that it may run, and runs it. `session` calls it for each well-formed request. A blocked
//! command is refused before its arguments are looked at, as in the original. The lists do not apply to authentication: an
//! allow list would keep every client out.

use crate::commands::{self, CommandResult, Context, Handler, authentication};
use crate::protocol::error::CommandError;
use crate::protocol::request::Request;

pub(super) async fn dispatch(context: &mut Context, request: Request) -> CommandResult {
    context.authentication.check(&request.execute)?;
    let Some(command) = commands::find(&request.execute) else {
        return Err(CommandError::not_found(&request.execute));
    };
    let authenticates =
        command.name == authentication::NAME && !context.authentication.is_sender_trusted;
    if !authenticates && !context.policy.allows(command, context.freezer.is_frozen()) {
        return Err(CommandError::disabled(command.name));
    }
    tracing::debug!("processing command {}", command.name);
    match command.handler {
        Handler::Now(handler) => handler(context, request.arguments),
        Handler::Later(handler) => handler(context, request.arguments).await,
    }
}
