//! The guardian: a small process that stands by while filesystems are frozen and thaws them when
//! the agent no longer can, because it was killed, stopped or hangs.
//!
//! The agent starts it when a freeze begins, and sends it its open filesystems before it freezes them
//! ([`client`]). From then on whatever happens to the agent, one of the two undoes the freeze, and each
//! hook master is told once: both share a token, and only who takes it thaws, so that neither waits for
//! the other. [`state`] decides, [`server`] acts, [`thaw`] thaws.
//!
//! | the agent | the guardian |
//! |---|---|
//! | dies before everything was frozen | undoes at once: nobody was told of a freeze |
//! | dies while frozen | holds for its successor, to the hold limit or until its marker is removed |
//! | stops or hangs while freezing or frozen | thaws at the hold limit |
//! | dies or hangs while thawing | finishes the thaw |
//! | dies after it gave up an FIFREEZE that had not answered | thaws what that froze after all |
//!
//! If the guardian dies, the agent starts another one, also while frozen. The listening socket in the
//! state directory, which the agent makes before the freeze, serves a successor of the agent and people
//! with questions: the first line of a connection says which. A question never takes the agent's place.

pub mod client;
mod hooks;
mod pending_clients;
mod progress;
pub mod server;
pub mod state;
pub mod status_client;
pub mod thaw;

use super::report::Report;
use crate::ipc::Connection;
use crate::state::Expiry;
use crate::sys::guardian::SocketPath;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the protocol, in what a guardian hands to a successor. One that knows another version asks
/// with [`Request::Claim`] alone, which all versions answer, and thaws by the mount table.
pub const PROTOCOL_VERSION: u32 = 2;

/// How much later than the agent the guardian acts on the hold limit: a healthy agent tells the
/// better story.
pub const AGENT_REPORT_GRACE: Duration = Duration::from_millis(500);

/// How long an agent that thaws may take until it starts the hooks.
pub const THAW_CLAIM_TIMEOUT: Duration = Duration::from_secs(60);

/// How long all thaw hooks together may take when nobody waits for their answer.
pub const THAW_HOOKS_TIMEOUT: Duration = Duration::from_secs(300);

/// Where a successor of the agent finds the guardian, in the state directory.
pub fn socket_path(statedir: &Path) -> PathBuf {
    statedir.join("qga.guardian")
}

/// A line to the guardian in `statedir` and its process id; `None` if there is none.
fn connect(statedir: &Path) -> io::Result<Option<(Connection, i32)>> {
    let line = match UnixStream::connect(socket_path(statedir)) {
        Ok(line) => Connection::from(line),
        Err(error) => {
            return match error.kind() {
                // A door that a killed guardian left refuses.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            };
        }
    };
    let pid = line.trusted_peer()?.pid();
    Ok(Some((line, pid)))
}

/// A filesystem in the guardian's hands. The descriptor of its root comes beside the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrusted {
    /// By this number the agent speaks of it: its place in the report.
    pub number: usize,
    /// Where it is mounted, for messages.
    pub mountpoint: String,
}

/// What a guardian has in its hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrustment {
    /// In the order of freezing.
    pub filesystems: Vec<Entrusted>,
    /// The agent expedites RCU grace periods while it freezes; should it die meanwhile, that is
    /// switched off.
    pub expedites_rcu: bool,
    /// All is thawed so many milliseconds from now; `None`: without limit.
    pub limit_ms: Option<u64>,
}

/// What a guardian is started into that takes the place of one that died. The hooks have been told to freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The filesystems.
    pub entrustment: Entrustment,
    /// Since when everything is frozen: milliseconds of CLOCK_MONOTONIC; `None`: it is not yet.
    pub since_ms: Option<u64>,
}

/// What the agent tells the guardian; one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The first line: what to stand by for. Beside it: the [`Token`](crate::sys::fds::Token) of the thaw,
    /// a descriptor that hangs up when the hook master that was told to freeze has ended, the listening
    /// socket, if there is one, and the roots of the filesystems of `replaces`.
    Watch {
        /// The hook master, if there is one.
        hook: Option<PathBuf>,
        /// The agent's state directory.
        statedir: PathBuf,
        /// Where the socket listens; `None`: the state directory cannot be written.
        socket_path: Option<SocketPath>,
        /// The run's id, as in the report and the journal of hooks.
        run: String,
        /// It takes the place of another one.
        replaces: Option<Box<Replaced>>,
    },
    /// The hook master has been started with freeze; it says so itself, so that it is known by its
    /// process id.
    HooksCalled,
    /// What is about to be frozen, each with the descriptor of its root.
    Filesystems(Entrustment),
    /// Everything is frozen.
    Frozen {
        /// The run so far, for whoever ends it.
        report: Box<Report>,
        /// The filesystems in the order in which they were frozen, by their numbers: where one waited for
        /// another it is not that of the plan.
        order: Vec<usize>,
        /// When that was: milliseconds of CLOCK_MONOTONIC, which all processes share.
        since_ms: u64,
    },
    /// May the agent thaw?
    Claim,
    /// The agent is about to take the token and to thaw; no answer is expected. Should it die or hang before it
    /// starts the hooks, the guardian finishes the thaw, at the latest after [`THAW_CLAIM_TIMEOUT`].
    Claimed {
        /// It was not asked to: the next thaw is to hear that the freeze was ended before it.
        is_early: bool,
    },
    /// The hook master has been started with thaw; it says so itself.
    HooksThawed,
    /// FIFREEZE of this filesystem has not answered yet; by its number.
    Late(usize),
    /// The run is over but for what is late. The agent takes that back when it succeeds after all, unless it dies
    /// first. From here on another guardian may be at the door.
    Linger,
    /// Nothing is left to do.
    Done,
    /// The first line of an agent that takes the place of a dead one.
    Succeed,
    /// The first line of somebody who asks how things stand; the line ends with the answer.
    Status,
    /// The first line of somebody who wants the freeze ended now.
    End,
}

/// What the guardian answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// It stands by, has the filesystems, or has given up its door.
    Ready,
    /// To a successor, who is the agent from here on. Beside it: the token, the listening socket through
    /// which it came, then the root of each filesystem.
    Freeze(Box<Inherited>),
    /// The thaw is the agent's. A successor gets the run so far.
    Yours(Option<Box<Report>>),
    /// It has ended the freeze itself.
    Ended(Expiry),
    /// How things stand.
    Standing(Box<FreezeStatus>),
    /// Said before the hooks are told: what it has thawed by itself, and what went wrong.
    Thawed {
        /// Mountpoints, in the order of thawing.
        filesystems: Vec<String>,
        /// One line each.
        failures: Vec<String>,
    },
    /// It does not end the freeze now, for this reason.
    Refused(String),
}

/// A freeze that an agent leaves to its successor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inherited {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// In the order in which they were frozen.
    pub filesystems: Vec<Entrusted>,
    /// The hook master that was told to freeze; the successor's own may be another one, or none.
    pub hook: Option<PathBuf>,
    /// Where the socket listens.
    pub socket_path: SocketPath,
    /// The run so far.
    pub report: Box<Report>,
    /// Since when everything is frozen: milliseconds of CLOCK_MONOTONIC.
    pub since_ms: u64,
    /// Milliseconds until the hold limit; `None`: without limit.
    pub left_ms: Option<u64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Not everything is frozen yet.
    Freezing,
    /// Everything is.
    Frozen,
    /// The agent has begun to thaw.
    Thawing,
}

impl Stage {
    /// Why a person's wish to end the freeze is refused at this stage.
    pub fn refusal(self) -> Response {
        let text = match self {
            Self::Freezing => "the agent is still freezing",
            Self::Frozen | Self::Thawing => "the agent is thawing already",
        };
        Response::Refused(text.to_owned())
    }
}

/// What the agent is doing, as far as it has said so; the names are those of the stages in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// It opens and flushes filesystems.
    Flush,
    /// It has called the hook master with freeze.
    FreezeHooks,
    /// The hook master has ended: it flushes what hooks wrote.
    FlushAgain,
    /// It freezes filesystems.
    Freeze,
    /// Everything is frozen.
    Held,
    /// It thaws filesystems.
    Thaw,
    /// It has called the hook master with thaw.
    ThawHooks,
}

/// What the guardian knows of a freeze.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FreezeStatus {
    /// How far the run is.
    pub stage: Stage,
    /// Mountpoints in the order of freezing.
    pub filesystems: Vec<String>,
    /// An agent is at the other end of the line.
    pub has_agent: bool,
    /// What the agent is doing; `None`: the guardian is of an older version.
    #[serde(default)]
    pub activity: Option<Activity>,
    /// How long it has been doing that, in seconds.
    #[serde(default)]
    pub activity_seconds: f64,
    /// How long everything was frozen until the agent began to thaw, or until now, in seconds.
    pub held: Option<f64>,
    /// Seconds until the hold limit; `None`: there is none, or not yet.
    pub left: Option<f64>,
    /// The run so far; `None` before everything is frozen.
    pub report: Option<Box<Report>>,
}

/// Who thaws.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The agent; with the run so far if a guardian of another version had it for its successor.
    Ours(Option<Box<Report>>),
    /// Nobody any more: the freeze was ended.
    Ended(Expiry),
}
