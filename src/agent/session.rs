//! Requests and replies on one channel. Floor 5.
//!
//! Bytes are cut into requests, requests run one after the other, whichever client they are of, and each reply is written
//! or queued before the next request starts. Only a guest-sync may be answered while another request runs, if that request
//! is interruptible. A reply goes to the client that asked, or to nobody. `service` calls [`serve`] for each channel with
//! the same [`Session`].

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
use crate::transport::{Channel, MAX_QUEUED_REQUESTS, Received};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

#[cfg(test)]
mod tests;

const READ_SIZE: usize = 4096;

/// A reply longer than this does not keep its buffer.
const MAX_KEPT_REPLY_BYTES: usize = 64 * 1024;

/// After more bytes than this, both ways, the heap is given back when the channel is quiet: idle memory has a budget.
const LARGE_REQUEST_BYTES: usize = 1 << 20;

/// How long the channel must be quiet before the heap is given back: not between the pieces of one large transfer.
const IDLE_DELAY: Duration = Duration::from_secs(1);

struct QueuedRequest {
    event: Event,
    /// By its number in the channel; no other client gets the answer.
    client: u64,
    /// The client gave up waiting: the request runs, but is not answered.
    discard_reply: bool,
}

/// Requests that wait, in the order of their arrival.
#[derive(Default)]
struct Inbox {
    requests: VecDeque<QueuedRequest>,
    /// What is there of incomplete requests, by [`Channel::framing_of`].
    framers: Vec<(u64, Framer)>,
    /// Bytes both ways since the heap was last given back.
    traffic: usize,
}

impl Inbox {
    fn enqueue(&mut self, channel: &Channel, received: Received, buffer: &[u8]) {
        let Received { client, count } = received;
        if count == 0 {
            return;
        }
        let mut bytes = &buffer[..count];
        tracing::debug!("read data, count: {}", bytes.len());
        self.traffic += bytes.len();
        let framing = channel.framing_of(client);
        let at = self.framers.iter().position(|(of, _)| *of == framing);
        let at = at.unwrap_or_else(|| {
            self.framers.push((framing, Framer::default()));
            self.framers.len() - 1
        });
        while let Some(event) = self.framers[at].1.next_event(&mut bytes) {
            self.requests.push_back(QueuedRequest {
                event,
                client,
                discard_reply: false,
            });
        }
    }

    /// Half a request of a client of a vsock that has disconnected will never be complete.
    fn drop_fragments(&mut self, channel: &Channel) {
        self.framers
            .retain(|(of, _)| *of == 0 || channel.is_connected(*of));
    }

    fn count(&self, client: u64) -> usize {
        let of_client = self.requests.iter().filter(|r| r.client == client);
        of_client.count()
    }

    /// Connected clients each have a limit of their own. What others left behind has one together, or one that connects
    /// again and again would fill the memory while a request runs.
    fn has_room(&self, channel: &Channel) -> bool {
        let orphans = self
            .requests
            .iter()
            .filter(|r| !channel.is_connected(r.client));
        orphans.count() <= MAX_QUEUED_REQUESTS
    }

    /// The first request whose client has read its replies; so one that does not read costs the memory of one reply.
    fn next(&mut self, channel: &Channel) -> Option<QueuedRequest> {
        let at = self
            .requests
            .iter()
            .position(|request| !channel.has_unread_output(request.client))?;
        self.requests.remove(at)
    }

    /// What the client sent before the guest-sync still runs, because it may be a thaw, but is not answered.
    fn remove_first_sync(&mut self, channel: &Channel) -> Option<(u64, Request)> {
        let (at, sync) = self
            .requests
            .iter()
            .enumerate()
            .filter(|(_, waiting)| !channel.has_unread_output(waiting.client))
            .find_map(|(at, waiting)| Some((at, parse_sync(&waiting.event)?)))?;
        let client = self.requests.remove(at)?.client;
        let earlier = self.requests.iter_mut().take(at);
        for waiting in earlier.filter(|waiting| waiting.client == client) {
            waiting.discard_reply = true;
        }
        Some((client, sync))
    }
}

fn parse_sync(event: &Event) -> Option<Request> {
    match event {
        Event::Message(value) => Request::from_value(value.clone())
            // A malformed request gets its error when its turn comes.
            .ok()
            .filter(|request| commands::sync::is_sync(&request.execute)),
        Event::Malformed(_) => None,
    }
}

/// What outlives a lost channel.
pub(crate) struct Session {
    inbox: Inbox,
    context: Context,
    pub(super) restore: Restore,
}

impl Session {
    /// `check`: restore hooks have to run before the first command that acts.
    pub(crate) fn new(context: Context, check: Option<StartCheck>) -> Self {
        Self {
            inbox: Inbox::default(),
            restore: Restore::new(check),
            context,
        }
    }

    pub(crate) fn context(&mut self) -> &mut Context {
        &mut self.context
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
/// to find out whether the agent lives; so if it is of the same client, that no longer waits, and the reply to the request
/// itself is dropped. Its result stays in status and report. Fails if the channel was lost.
async fn run_request(
    session: &mut Session,
    client: u64,
    request: Request,
    channel: &mut Channel,
    stop: &mut StopSignals,
    buffer: &mut [u8],
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let Session {
        inbox,
        context,
        restore,
    } = session;
    let id = request.id.clone();
    let freezer = context.freezer.clone();
    let waits = restore.holds_up(&request.execute);
    let interruptible =
        waits || commands::find(&request.execute).is_some_and(|command| command.interruptible);
    let restore = waits.then_some(restore);
    context.authentication.is_sender_trusted = channel.is_trusted(client);
    let mut running = Box::pin(dispatch_after(restore, context, request));
    if !interruptible {
        let result = tokio::select! {
            biased;
            result = &mut running => result,
            never = channel.flush() => match never {},
        };
        append_reply(out, id.as_ref(), result);
        return Ok(());
    }
    let (mut abandoned, mut lost) = (false, None);
    let result = loop {
        let unanswered = |of: u64| inbox.count(of) + usize::from(of == client);
        let read = tokio::select! {
            biased;
            result = &mut running => break result,
            // The signal only ends a freeze that is not complete; the request itself runs to its end.
            () = stop.wait_for_signal(&freezer) => continue,
            read = channel.read(buffer, &unanswered), if lost.is_none() && inbox.has_room(channel) => read,
        };
        match read {
            Ok(received) => inbox.enqueue(channel, received, buffer),
            Err(error) => lost = Some(error),
        }
        while let Some((of, sync)) = inbox.remove_first_sync(channel) {
            abandoned |= of == client;
            let reply_id = sync.id.clone();
            append_reply(out, reply_id.as_ref(), commands::sync::reply(sync));
            if let Err(error) = channel.write_all(of, out).await {
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
                let served = run_request(
                    session,
                    client,
                    request,
                    channel,
                    stop,
                    &mut buffer,
                    &mut out,
                )
                .await;
                if session.context.authentication.is_sender_trusted {
                    channel.trust(client);
                }
                served
            }
            Err((id, error)) => {
                append_reply(&mut out, id.as_ref(), Err(error));
                Ok(())
            }
        };
        if discard_reply {
            out.clear();
        }
        let written = tokio::select! {
            biased;
            written = channel.write_all(client, &out) => written,
            // A host that does not read its reply must not keep the agent from exiting.
            () = stop.wait_for_exit(&freezer) => return SessionEnd::Stopped,
        };
        if let Err(error) = written {
            tracing::warn!("error writing to channel: {}", strerror(&error));
        }
        confinement::log_refused();
        session.inbox.traffic += out.len();
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
    let inbox = &mut session.inbox;
    loop {
        if let Some(request) = inbox.next(channel) {
            return Ok(request);
        }
        inbox.drop_fragments(channel);
        let unanswered = |client| inbox.count(client);
        let read = tokio::select! {
            // Bytes that are there are served first: they may be the thaw.
            biased;
            read = channel.read(buffer, &unanswered) => read,
            () = stop.wait_for_exit(&freezer) => return Err(SessionEnd::Stopped),
            () = tokio::time::sleep(IDLE_DELAY), if inbox.traffic > LARGE_REQUEST_BYTES => {
                memory::release_free_heap();
                inbox.traffic = 0;
                continue;
            }
        };
        inbox.enqueue(channel, read.map_err(SessionEnd::Lost)?, buffer);
    }
}
