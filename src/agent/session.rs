//! The conversation on one channel.

use super::dispatch::dispatch;
use super::stop::Stop;
use crate::commands::{Answer, Context};
use crate::protocol::framing::{Event, Framer};
use crate::protocol::reply;
use crate::protocol::request::Request;
use crate::sys::strerror;
use crate::transport::Channel;
use std::io;

/// Bytes taken from the channel at a time.
const READ_SIZE: usize = 4096;

/// A reply longer than this does not keep its buffer.
const KEEP_REPLY: usize = 64 * 1024;

/// What outlives a lost channel: the parser's state and the commands' context.
pub struct Session {
    framer: Framer,
    context: Context,
}

impl Session {
    /// A fresh conversation.
    pub fn new(context: Context) -> Self {
        Self {
            framer: Framer::default(),
            context,
        }
    }

    /// What the commands work on.
    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// The answer to one event, appended to `out`.
    async fn answer(&mut self, event: Event, out: &mut Vec<u8>) {
        let request = match event {
            Event::Malformed(error) => return reply::write(out, None, Err(&error), false),
            Event::Message(value) => Request::from_value(value),
        };
        match request {
            Err((id, error)) => reply::write(out, id.as_ref(), Err(&error), false),
            Ok(mut request) => {
                let id = request.id.take();
                match dispatch(&mut self.context, request).await {
                    Ok(Answer::Value(value)) => reply::write(out, id.as_ref(), Ok(&value), false),
                    Ok(Answer::Delimited(value)) => {
                        reply::write(out, id.as_ref(), Ok(&value), true);
                    }
                    Ok(Answer::Silence) => {}
                    Err(error) => reply::write(out, id.as_ref(), Err(&error), false),
                }
            }
        }
    }
}

/// Why a conversation ended.
#[derive(Debug)]
pub enum Ended {
    /// The channel is lost.
    Lost(io::Error),
    /// The agent is asked to stop.
    Stopped,
}

/// Serves `channel` until it is lost, or `stop` says so between two requests.
pub async fn serve(session: &mut Session, channel: &mut Channel, stop: &mut Stop) -> Ended {
    let mut buffer = [0; READ_SIZE];
    let mut out = Vec::new();
    loop {
        let freezer = session.context.freezer.clone();
        let read = tokio::select! {
            biased;
            read = channel.read(&mut buffer) => read,
            () = stop.requested(&freezer) => return Ended::Stopped,
        };
        let count = match read {
            Ok(count) => count,
            Err(error) => return Ended::Lost(error),
        };
        tracing::debug!("read data, count: {count}");
        let mut input = &buffer[..count];
        while let Some(event) = session.framer.next_event(&mut input) {
            session.answer(event, &mut out).await;
            let written = tokio::select! {
                biased;
                written = channel.write_all(&out) => written,
                // A host that does not take its reply must not keep the agent from leaving.
                () = stop.requested(&freezer) => return Ended::Stopped,
            };
            if let Err(error) = written {
                tracing::warn!("error writing to channel: {}", strerror(&error));
            }
            out.clear();
            out.shrink_to(KEEP_REPLY);
        }
    }
}
