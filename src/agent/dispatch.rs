//! From a request to its answer: which command, whether it may run, and running it.

use crate::commands::{self, CommandResult, Context, Handler};
use crate::protocol::error::CommandError;
use crate::protocol::request::Request;

/// Carries out a well-formed request.
pub async fn dispatch(context: &mut Context, request: Request) -> CommandResult {
    let Some(command) = commands::find(&request.execute) else {
        return Err(CommandError::not_found(&request.execute));
    };
    if !context.policy.allows(command, context.freezer.is_frozen()) {
        return Err(CommandError::disabled(command.name));
    }
    tracing::debug!("processing command {}", command.name);
    match command.handler {
        Handler::Now(handler) => handler(context, request.arguments),
        Handler::Later(handler) => handler(context, request.arguments).await,
    }
}
