//! The conversation on one channel.

use super::dispatch::dispatch;
use super::stop::StopSignals;
use crate::commands::{self, Answer, CommandResult, Context};
use crate::protocol::framing::{Event, Framer};
use crate::protocol::reply;
use crate::protocol::request::Request;
use crate::protocol::value::Value;
use crate::sys::{memory, strerror};
use crate::transport::Channel;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Bytes taken from the channel at a time.
const READ_SIZE: usize = 4096;

/// A reply longer than this does not keep its buffer.
const MAX_KEPT_REPLY_BYTES: usize = 64 * 1024;

/// After more bytes than this, both ways, the heap is given back once the channel rests.
const LARGE_REQUEST_BYTES: usize = 1 << 20;

/// A silence of the host's that ends a burst of requests.
const IDLE_DELAY: Duration = Duration::from_secs(1);

/// Requests that may wait while one is carried out; the channel is not read beyond.
const MAX_QUEUED_REQUESTS: usize = 32;

/// A request that waits for its turn.
struct QueuedRequest {
    event: Event,
    /// The client that sent it ([`Channel::generation`]); no other gets the answer.
    client: u64,
    /// The client has given it up: it is carried out, but not answered.
    discard_reply: bool,
}

/// What outlives a lost channel: the parser's state, requests not looked at yet, and the commands'
/// context.
pub struct Session {
    framer: Framer,
    inbox: VecDeque<QueuedRequest>,
    /// Bytes both ways since the heap was last given back.
    traffic: usize,
    context: Context,
}

impl Session {
    /// A fresh conversation.
    pub fn new(context: Context) -> Self {
        Self {
            framer: Framer::default(),
            inbox: VecDeque::new(),
            traffic: 0,
            context,
        }
    }

    /// What the commands work on.
    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }
}

/// Cuts bytes into requests.
fn enqueue(
    framer: &mut Framer,
    inbox: &mut VecDeque<QueuedRequest>,
    client: u64,
    mut bytes: &[u8],
) {
    tracing::debug!("read data, count: {}", bytes.len());
    while let Some(event) = framer.next_event(&mut bytes) {
        inbox.push_back(QueuedRequest {
            event,
            client,
            discard_reply: false,
        });
    }
}

/// Appends the line that answers a request.
fn append_reply(out: &mut Vec<u8>, id: Option<&Value>, outcome: CommandResult) {
    match outcome {
        Ok(Answer::Value(value)) => reply::write(out, id, Ok(&value), false),
        Ok(Answer::Delimited(value)) => reply::write(out, id, Ok(&value), true),
        Ok(Answer::NoReply) => {}
        Err(error) => reply::write(out, id, Err(&error), false),
    }
}

/// Carries out a request and appends its answer. While a request that gives way is at work, a
/// guest-sync that arrives is answered at once: it means that the client has given up, so the
/// answer to the request itself is dropped; its outcome stays in status and report.
async fn run_request(
    session: &mut Session,
    request: Request,
    channel: &mut Channel,
    stop: &mut StopSignals,
    buffer: &mut [u8],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let Session {
        framer,
        inbox,
        traffic,
        context,
    } = session;
    let id = request.id.clone();
    let freezer = context.freezer.clone();
    let interruptible =
        commands::find(&request.execute).is_some_and(|command| command.interruptible);
    let mut running = Box::pin(dispatch(context, request));
    if !interruptible {
        append_reply(out, id.as_ref(), running.await);
        return Ok(());
    }
    let (mut abandoned, mut lost) = (false, None);
    let outcome = loop {
        let read = tokio::select! {
            biased;
            outcome = &mut running => break outcome,
            () = stop.wait_for_signal(&freezer) => continue,
            read = channel.read_ahead(buffer), if lost.is_none() && inbox.len() < MAX_QUEUED_REQUESTS => read,
        };
        match read {
            Ok(count) => {
                *traffic += count;
                enqueue(framer, inbox, channel.generation(), &buffer[..count]);
            }
            Err(error) => lost = Some(error),
        }
        while let Some(sync) = remove_first_sync(inbox) {
            abandoned = true;
            let reply_id = sync.id.clone();
            append_reply(out, reply_id.as_ref(), commands::sync::reply(sync));
            if let Err(error) = channel.write_all(out).await {
                tracing::warn!("error writing to channel: {}", strerror(&error));
            }
            out.clear();
        }
    };
    if abandoned {
        // What it answered may be nobody's business: a file's content.
        match outcome {
            Ok(_) => {
                tracing::warn!(
                    "no reply sent: the client sent guest-sync and so gave up waiting; the command succeeded"
                )
            }
            Err(error) => tracing::warn!(
                "no reply sent: the client sent guest-sync and so gave up waiting; the command failed: {error}"
            ),
        }
    } else {
        append_reply(out, id.as_ref(), outcome);
    }
    lost.map_or(Ok(()), Err)
}

/// The first guest-sync that waits. The client has given up what it sent before: that is carried
/// out in its turn, for it may be a thaw, but not answered.
fn remove_first_sync(inbox: &mut VecDeque<QueuedRequest>) -> Option<Request> {
    let parse_sync = |waiting: &QueuedRequest| match &waiting.event {
        Event::Message(value) => Request::from_value(value.clone())
            .ok()
            .filter(|request| commands::sync::is_sync(&request.execute)),
        Event::Malformed(_) => None,
    };
    let (at, sync) = inbox
        .iter()
        .enumerate()
        .find_map(|(at, waiting)| Some((at, parse_sync(waiting)?)))?;
    inbox.remove(at);
    for waiting in inbox.iter_mut().take(at) {
        waiting.discard_reply = true;
    }
    Some(sync)
}

/// Why a conversation ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The channel is lost.
    Lost(io::Error),
    /// The agent is asked to stop.
    Stopped,
}

/// Serves `channel` until it is lost, or `stop` says so between two requests.
pub async fn serve(
    session: &mut Session,
    channel: &mut Channel,
    stop: &mut StopSignals,
) -> SessionEnd {
    let mut buffer = [0; READ_SIZE];
    let mut out = Vec::new();
    let freezer = session.context.freezer.clone();
    loop {
        let Some(QueuedRequest {
            event,
            client,
            discard_reply,
        }) = session.inbox.pop_front()
        else {
            let read = tokio::select! {
                biased;
                read = channel.read(&mut buffer) => read,
                () = stop.wait_for_exit(&freezer) => return SessionEnd::Stopped,
                () = tokio::time::sleep(IDLE_DELAY), if session.traffic > LARGE_REQUEST_BYTES => {
                    memory::release_free_heap();
                    session.traffic = 0;
                    continue;
                }
            };
            match read {
                Ok(count) => {
                    session.traffic += count;
                    enqueue(
                        &mut session.framer,
                        &mut session.inbox,
                        channel.generation(),
                        &buffer[..count],
                    );
                }
                Err(error) => return SessionEnd::Lost(error),
            }
            continue;
        };
        let request = match event {
            Event::Malformed(error) => Err((None, error)),
            Event::Message(value) => Request::from_value(value),
        };
        let served = match request {
            Ok(request) => {
                run_request(session, request, channel, stop, &mut buffer, &mut out).await
            }
            Err((id, error)) => {
                append_reply(&mut out, id.as_ref(), Err(error));
                Ok(())
            }
        };
        if discard_reply || client != channel.generation() {
            out.clear();
        }
        let written = tokio::select! {
            biased;
            written = channel.write_all(&out) => written,
            // A host that does not take its reply must not keep the agent from leaving.
            () = stop.wait_for_exit(&freezer) => return SessionEnd::Stopped,
        };
        if let Err(error) = written {
            tracing::warn!("error writing to channel: {}", strerror(&error));
        }
        session.traffic += out.len();
        out.clear();
        out.shrink_to(MAX_KEPT_REPLY_BYTES);
        if let Err(error) = served {
            return SessionEnd::Lost(error);
        }
    }
}
