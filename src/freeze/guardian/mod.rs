//! The guardian: a small process that stands by while filesystems are frozen and thaws them when
//! the agent no longer can, because it was killed, stopped or hangs.
//!
//! The agent starts it before the hooks and hands it its open filesystems ([`link`]). From then on
//! whatever happens to the agent, one of the two undoes the freeze, and each hook master is told
//! once: before it thaws, the agent asks the guardian, which either leaves the thaw to it or says
//! that it has already ended the freeze itself. [`machine`] decides, [`process`] acts.
//!
//! | the agent | the guardian |
//! |---|---|
//! | dies before everything was frozen | undoes at once: nobody was told of a freeze |
//! | dies while frozen | goes on holding for its successor, to the hold limit |
//! | stops or hangs while frozen | thaws at the hold limit |
//! | dies or hangs while thawing | finishes the thaw |
//! | dies after it gave up an FIFREEZE that had not answered | thaws what that froze after all |
//!
//! Its door in the state directory serves a successor of the agent and people with questions: the
//! first line of a connection says which. A question never takes the agent's place.

pub mod link;
pub mod machine;
pub mod process;
pub mod question;
mod visitors;

use super::report::Report;
use crate::state::Expiry;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much later than the agent the guardian acts on the hold limit: a healthy agent tells the
/// better story.
pub const COURTESY: Duration = Duration::from_millis(500);

/// How long an agent that has claimed the thaw may take for it.
pub const CLAIM_LIMIT: Duration = Duration::from_secs(60);

/// Where a successor of the agent finds the guardian, in the state directory.
pub fn door(statedir: &Path) -> PathBuf {
    statedir.join("qga.guardian")
}

/// A filesystem in the guardian's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrusted {
    /// Number of the descriptor of its root, inherited.
    pub fd: i32,
    /// Where it is mounted, for messages.
    pub mountpoint: String,
    /// What shares a level is thawed side by side.
    #[serde(default)]
    pub level: usize,
}

/// What the agent tells the guardian; one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The first line: what to stand by for.
    Watch {
        /// In the order of freezing.
        filesystems: Vec<Entrusted>,
        /// The hook master, if there is one.
        hook: Option<PathBuf>,
        /// The agent's state directory.
        statedir: PathBuf,
        /// Number of a descriptor, inherited, that hangs up when the hook master that was told to
        /// freeze has ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        freezing: Option<i32>,
    },
    /// The hook master is about to be told to freeze.
    HooksCalled,
    /// Everything is frozen, for at most so many milliseconds; `None`: without limit.
    Frozen {
        /// The hold limit.
        limit_ms: Option<u64>,
        /// The run so far, for whoever ends it.
        report: Box<Report>,
    },
    /// May the agent thaw?
    Claim,
    /// The hook master has been started with thaw; it says so itself.
    HooksThawed,
    /// FIFREEZE of this filesystem has not answered yet; its number as in [`Entrusted::fd`].
    Late(i32),
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
pub enum Word {
    /// It stands by, or has given up its door.
    Ready,
    /// The thaw is the agent's. A successor gets the run so far.
    Yours(Option<Box<Report>>),
    /// It has ended the freeze itself.
    Ended(Expiry),
    /// How things stand.
    Standing(Box<Standing>),
    /// Said before the hooks are told: what it has thawed for somebody who wanted that, and what
    /// went wrong.
    Thawed {
        /// Mountpoints, in the order of thawing.
        filesystems: Vec<String>,
        /// One line each.
        failures: Vec<String>,
    },
    /// It does not end the freeze now, for this reason.
    Refused(String),
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

/// What the guardian knows of a freeze.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// How far the run is.
    pub stage: Stage,
    /// Mountpoints in the order of freezing.
    pub filesystems: Vec<String>,
    /// An agent is at the other end of the line.
    pub has_agent: bool,
    /// How long everything has been frozen, in seconds.
    pub held: Option<f64>,
    /// Seconds until the hold limit; `None`: there is none, or not yet.
    pub left: Option<f64>,
    /// The run so far; `None` before everything is frozen.
    pub report: Option<Box<Report>>,
}

/// Who thaws.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The agent; with the run so far if it was a predecessor's.
    Ours(Option<Box<Report>>),
    /// Nobody any more: the freeze was ended.
    Ended(Expiry),
}
