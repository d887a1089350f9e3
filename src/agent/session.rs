//! Requests and replies on one channel. Floor 5.
//!
//! Bytes are cut into requests, requests run one after the other, and each reply is written before the next request
//! starts. Only a guest-sync may be answered while another request runs, if that request is interruptible. A reply goes to
//! the client that asked, or to nobody. `service` calls [`serve`] for each channel with the same [`Session`].

use super::confinement;
use super::dispatch::dispatch;
use super::restore::Restore;
use super::stop::StopSignals;
use crate::commands::{self, Answer, CommandResult, Context};
use crate::freeze::restored::StartCheck;
use crate::protocol::framing::{Event, Framer};
use crate::protocol::reply;
use crate::protocol::request::Request;
use crate::protocol::value::Value;
use crate::sys::{memory, strerror};
use crate::transport::Channel;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

const READ_SIZE: usize = 4096;

/// A reply longer than this does not keep its buffer.
const MAX_KEPT_REPLY_BYTES: usize = 64 * 1024;

/// After more bytes than this, both ways, the heap is given back when the channel is quiet: idle memory has a budget.
const LARGE_REQUEST_BYTES: usize = 1 << 20;

/// How long the channel must be quiet before the heap is given back: not between the pieces of one large transfer.
const IDLE_DELAY: Duration = Duration::from_secs(1);

/// The channel is not read beyond that.
const MAX_QUEUED_REQUESTS: usize = 32;

struct QueuedRequest {
    event: Event,
    /// By [`Channel::generation`]; no other client gets the answer.
    client: u64,
    /// The client gave up waiting: the request runs, but is not answered.
    discard_reply: bool,
}

/// What outlives a lost channel.
pub(crate) struct Session {
    framer: Framer,
    inbox: VecDeque<QueuedRequest>,
    /// Bytes both ways since the heap was last given back.
    traffic: usize,
    context: Context,
    pub(super) restore: Restore,
}

impl Session {
    /// `check`: restore hooks have to run before the first command that acts.
    pub(crate) fn new(context: Context, check: Option<StartCheck>) -> Self {
        Self {
            restore: Restore::new(check),
            framer: Framer::default(),
            inbox: VecDeque::new(),
            traffic: 0,
            context,
        }
    }

    pub(crate) fn context(&mut self) -> &mut Context {
        &mut self.context
    }
}

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

fn append_reply(out: &mut Vec<u8>, id: Option<&Value>, result: CommandResult) {
    match result {
        Ok(Answer::Value(value)) => reply::write(out, id, Ok(&value), false),
        Ok(Answer::Delimited(value)) => reply::write(out, id, Ok(&value), true),
        Ok(Answer::NoReply) => {}
        Err(error) => reply::write(out, id, Err(&error), false),
    }
}

/// `restore`: waits for the restore hooks first.
async fn dispatch_after(
    restore: Option<&mut Restore>,
    context: &mut Context,
    request: Request,
) -> CommandResult {
    if let Some(restore) = restore {
        restore.ended(&context.freezer).await?;
    }
    dispatch(context, request).await
}

/// While an interruptible request runs, a guest-sync is answered at once. libvirt and others send it after a timeout,
/// to find out whether the agent lives; so the client no longer waits, and the reply to the request itself is dropped.
/// Its result stays in status and report. Fails if the channel was lost.
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
        restore,
    } = session;
    let id = request.id.clone();
    let freezer = context.freezer.clone();
    let waits = restore.holds_up(&request.execute);
    let interruptible =
        waits || commands::find(&request.execute).is_some_and(|command| command.interruptible);
    let restore = waits.then_some(restore);
    let mut running = Box::pin(dispatch_after(restore, context, request));
    if !interruptible {
        append_reply(out, id.as_ref(), running.await);
        return Ok(());
    }
    let (mut abandoned, mut lost) = (false, None);
    let result = loop {
        let read = tokio::select! {
            biased;
            result = &mut running => break result,
            // The signal only ends a freeze that is not complete; the request itself runs to its end.
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
        log_unsent(&result);
    } else {
        append_reply(out, id.as_ref(), result);
    }
    lost.map_or(Ok(()), Err)
}

/// Logs that no reply was sent, without the reply itself: it may be the content of a file.
fn log_unsent(result: &CommandResult) {
    let end = match result {
        Ok(_) => "succeeded".to_owned(),
        Err(error) => format!("failed: {error}"),
    };
    tracing::warn!(
        "no reply sent: the client sent guest-sync and so gave up waiting; the command {end}"
    );
}

/// What the client sent before the guest-sync still runs, because it may be a thaw, but is not answered.
fn remove_first_sync(inbox: &mut VecDeque<QueuedRequest>) -> Option<Request> {
    let parse_sync = |waiting: &QueuedRequest| match &waiting.event {
        Event::Message(value) => Request::from_value(value.clone())
            // A malformed request gets its error when its turn comes.
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

#[derive(Debug)]
pub(super) enum SessionEnd {
    Lost(io::Error),
    Stopped,
}

/// Returns when the channel is lost, or when the agent is to exit and no request runs.
pub(super) async fn serve(
    session: &mut Session,
    channel: &mut Channel,
    stop: &mut StopSignals,
) -> SessionEnd {
    let mut buffer = [0; READ_SIZE];
    let mut out = Vec::new();
    let freezer = session.context.freezer.clone();
    loop {
        let QueuedRequest {
            event,
            client,
            discard_reply,
        } = match next_request(session, channel, stop, &mut buffer).await {
            Ok(request) => request,
            Err(end) => return end,
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
            // A host that does not read its reply must not keep the agent from exiting.
            () = stop.wait_for_exit(&freezer) => return SessionEnd::Stopped,
        };
        if let Err(error) = written {
            tracing::warn!("error writing to channel: {}", strerror(&error));
        }
        confinement::log_refused();
        session.traffic += out.len();
        out.clear();
        out.shrink_to(MAX_KEPT_REPLY_BYTES);
        if let Err(error) = served {
            return SessionEnd::Lost(error);
        }
    }
}

async fn next_request(
    session: &mut Session,
    channel: &mut Channel,
    stop: &mut StopSignals,
    buffer: &mut [u8],
) -> Result<QueuedRequest, SessionEnd> {
    let freezer = session.context.freezer.clone();
    loop {
        if let Some(request) = session.inbox.pop_front() {
            return Ok(request);
        }
        let read = tokio::select! {
            // Bytes that are there are served first: they may be the thaw.
            biased;
            read = channel.read(buffer) => read,
            () = stop.wait_for_exit(&freezer) => return Err(SessionEnd::Stopped),
            () = tokio::time::sleep(IDLE_DELAY), if session.traffic > LARGE_REQUEST_BYTES => {
                memory::release_free_heap();
                session.traffic = 0;
                continue;
            }
        };
        let count = read.map_err(SessionEnd::Lost)?;
        session.traffic += count;
        enqueue(
            &mut session.framer,
            &mut session.inbox,
            channel.generation(),
            &buffer[..count],
        );
    }
}
