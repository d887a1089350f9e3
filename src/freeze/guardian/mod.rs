//! The guardian: a small process that thaws when the agent cannot, because it was killed, was stopped or hangs.
//!
//! The agent starts it when a freeze begins, and sends it the descriptors of the filesystems before the first FIFREEZE.
//! Agent and guardian share a token, and only the process that takes it thaws. So one of the two undoes the freeze
//! whatever happens to the other, neither waits for the other, and each hook master gets one thaw. [`state`] decides,
//! `server` acts. docs/architecture.md describes the protocol.
//!
//! | the agent | the guardian |
//! |---|---|
//! | dies before everything is frozen | undoes at once: the host has no answer yet |
//! | dies while frozen | keeps the freeze for the next agent, until the hold limit or until its marker is removed |
//! | stops or hangs while freezing or frozen | thaws at the hold limit |
//! | dies or hangs while thawing | finishes the thaw |
//! | dies after it gave up an FIFREEZE that had not returned | thaws what that call froze |
//!
//! If the guardian dies, the agent starts another one, also while frozen. Clients of its socket are the next agent and
//! the tools for people (`qemu-ga status`, `thaw`). A request of a tool never replaces the agent.

pub(crate) mod client;
mod hooks;
pub(crate) mod limits;
mod pending_clients;
mod progress;
pub(crate) mod server;
pub mod state;
pub(crate) mod status_client;
pub(crate) mod thaw;
mod undo;

use super::report::Report;
use crate::ipc::Connection;
use crate::state::Expiry;
use crate::state::writer::GUARDIAN_SOCKET;
use crate::sys::guardian::SocketPath;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An agent of another version uses [`Request::Claim`] alone, which all versions answer, and thaws by the mount table.
pub(crate) const PROTOCOL_VERSION: u32 = 2;

/// How much later than the agent the guardian acts on the hold limit: the agent's report of the thaw is more complete.
pub(crate) const AGENT_REPORT_GRACE: Duration = Duration::from_millis(500);

/// Until the thaw hooks start.
pub(crate) const THAW_CLAIM_TIMEOUT: Duration = Duration::from_secs(60);

/// For all thaw hooks together, when no client waits for the reply.
pub(crate) const THAW_HOOKS_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) fn socket_path(statedir: &Path) -> PathBuf {
    statedir.join(GUARDIAN_SOCKET)
}

/// Returns also the guardian's process id; `None` without a guardian.
fn connect(statedir: &Path) -> io::Result<Option<(Connection, i32)>> {
    let connection = match UnixStream::connect(socket_path(statedir)) {
        Ok(stream) => Connection::from(stream),
        Err(error) => {
            return match error.kind() {
                // A guardian that was killed leaves its socket file; a connect(2) to it is refused.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let pid = connection.trusted_peer()?.pid();
    Ok(Some((connection, pid)))
}

/// A filesystem that the guardian holds open. The descriptor of its root is sent with the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrusted {
    /// Index in the report; agent and guardian name the filesystem by it.
    pub(crate) number: usize,
    pub(crate) mountpoint: String,
}

/// What the agent sends to the guardian before the first FIFREEZE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrustment {
    /// In freeze order.
    pub(crate) filesystems: Vec<Entrusted>,
    /// The guardian switches expedited RCU grace periods off if the agent dies while it freezes.
    pub(crate) expedites_rcu: bool,
    /// From now to the hold limit; `None`: no limit.
    pub(crate) limit_ms: Option<u64>,
}

/// State that a replacement of a guardian that died starts with. The freeze hooks have been called by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub(crate) entrustment: Entrustment,
    /// When everything was frozen, on CLOCK_MONOTONIC; `None`: the agent still freezes.
    pub(crate) since_ms: Option<u64>,
}

/// A request to the guardian, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The agent's first line. With it come the [`Token`](crate::sys::fds::Token) of the thaw, a pipe that hangs up
    /// when the freezing hook master has ended, the listening socket if there is one, and the roots of `replaces`.
    Watch {
        /// Program of the hook master; `None`: no hooks are called.
        hook: Option<PathBuf>,
        /// The agent's state directory.
        statedir: PathBuf,
        /// The snapshot file; `None`: there is none.
        #[serde(default)]
        snapshot: Option<PathBuf>,
        /// Path of the listening socket; `None`: the state directory cannot be written.
        socket_path: Option<SocketPath>,
        /// Id of the run, as in the report and in the journal of hooks.
        run: String,
        /// This guardian replaces one that died.
        replaces: Option<Box<Replaced>>,
    },
    /// The hook master has been started with `freeze`; its process writes this, so that the credentials carry its id.
    HooksCalled,
    /// The filesystems that are about to be frozen; the descriptor of each root is sent with it.
    Filesystems(Entrustment),
    /// Everything is frozen.
    Frozen {
        /// The report so far, which the process that ends the run completes.
        report: Box<Report>,
        /// The order of freezing. It differs from the plan's where an FIFREEZE waited for another filesystem.
        order: Vec<usize>,
        /// When everything was frozen, on CLOCK_MONOTONIC.
        since_ms: u64,
    },
    /// An agent without the token asks for the right to thaw.
    Claim,
    /// The agent is about to take the token and to thaw; there is no response. If the agent dies or hangs before it
    /// starts the thaw hooks, the guardian finishes the thaw, at the latest after [`THAW_CLAIM_TIMEOUT`].
    Claimed {
        /// The host did not ask for the thaw: the next guest-fsfreeze-thaw reports that the freeze ended early.
        is_early: bool,
    },
    /// The hook master has been started with `thaw`; written by its process, as [`Request::HooksCalled`] is.
    HooksThawed,
    /// FIFREEZE of the filesystem with this number has not returned yet.
    Late(usize),
    /// The run is over, except for filesystems whose FIFREEZE has not returned. The agent thaws them when it returns;
    /// the guardian does if the agent dies before. From here on another guardian may use the socket path.
    Linger,
    /// Nothing is left to do.
    Done,
    /// First line of an agent that takes the place of a dead one.
    Succeed,
    /// First line of a tool that asks for the status; the connection closes after the response.
    Status,
    /// First line of a tool that ends the freeze.
    End,
}

/// A response of the guardian, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The guardian has started, has the filesystems, or has closed its socket.
    Ready,
    /// The freeze, for the next agent, which the guardian treats as its agent from here on. The descriptors sent with
    /// it are the token, the listening socket, then the root of each filesystem.
    Freeze(Box<Inherited>),
    /// The agent may thaw. The next agent gets the report so far.
    Yours(Option<Box<Report>>),
    /// The guardian has ended the freeze.
    Ended(Expiry),
    /// The status of the freeze.
    Standing(Box<FreezeStatus>),
    /// The guardian has thawed the filesystems and is about to call the thaw hooks.
    Thawed(Thawed),
    /// The guardian does not end the freeze now; the reason.
    Refused(String),
}

/// Result of FITHAW of all filesystems.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thawed {
    /// In thaw order.
    pub(crate) filesystems: Vec<String>,
    /// One line each.
    pub(crate) failures: Vec<String>,
}

/// The freeze of a dead agent, as its guardian sends it to the next agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inherited {
    pub(crate) version: u32,
    /// In the order in which they were frozen.
    pub(crate) filesystems: Vec<Entrusted>,
    /// As it was called with `freeze`; the next agent may be configured with another one, or none.
    pub(crate) hook: Option<PathBuf>,
    pub(crate) socket_path: SocketPath,
    pub(crate) report: Box<Report>,
    /// When everything was frozen, on CLOCK_MONOTONIC.
    pub(crate) since_ms: u64,
    /// Until the hold limit; `None`: no limit.
    pub(crate) left_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    Freezing,
    Frozen,
    Thawing,
}

impl Stage {
    /// For a tool that asks for the end of the freeze at a stage at which the guardian does not end it.
    pub(crate) fn refusal(self) -> Response {
        let text = match self {
            Self::Freezing => "the agent is still freezing",
            Self::Frozen | Self::Thawing => "the agent is thawing already",
        };
        Response::Refused(text.to_owned())
    }
}

/// What the agent does, by its last request; the names are those of the stages in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Activity {
    Flush,
    FreezeHooks,
    FlushAgain,
    Freeze,
    Held,
    Thaw,
    ThawHooks,
}

/// Response to [`Request::Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FreezeStatus {
    pub(crate) stage: Stage,
    pub(crate) filesystems: Vec<String>,
    pub(crate) has_agent: bool,
    /// `None`: from a guardian of an older version.
    #[serde(default)]
    pub(crate) activity: Option<Activity>,
    #[serde(default)]
    pub(crate) activity_seconds: f64,
    /// Seconds from the last FIFREEZE to the begin of the thaw, or to now.
    pub(crate) held: Option<f64>,
    /// Seconds until the hold limit; `None`: no limit, or before [`Request::Filesystems`].
    pub(crate) left: Option<f64>,
    /// `None` before everything is frozen.
    pub(crate) report: Option<Box<Report>>,
}

/// Which process thaws.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Claim {
    /// A guardian of another version sends the report so far.
    Ours(Option<Box<Report>>),
    /// Neither: the freeze was ended.
    Ended(Expiry),
}
