//! The one table of options.
//!
//! Everything that has to know an option reads it here: the command line parser, the configuration
//! file, `--help`, `--dump-conf`, and what documents or completes the command line. A new option is
//! one entry here and one arm in [`Config`](super::Config)'s setter.
//!
//! Order of the table = order of the keys in `--dump-conf`, which is fixed, then everything else.

use std::fmt;

/// Which option an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Id {
    /// Go to the background and write a pid file.
    Daemon,
    /// How the channel is made.
    Method,
    /// Device or socket of the channel.
    Path,
    /// Log file instead of stderr.
    LogFile,
    /// Pid file of a daemonized agent.
    PidFile,
    /// Program that is run before a freeze and after a thaw.
    FsfreezeHook,
    /// What a freeze does: filesystems and hooks, hooks alone, nothing.
    FsfreezeMode,
    /// The only filesystems that are frozen.
    FsfreezeInclude,
    /// Filesystems that are not frozen.
    FsfreezeExclude,
    /// Filesystems that may fail to freeze.
    FsfreezeOptional,
    /// A chosen filesystem that cannot freeze is an error.
    FsfreezeStrict,
    /// What others have frozen is passed over.
    FsfreezeIgnoreFrozen,
    /// RCU grace periods are not expedited during a freeze.
    FsfreezeNormalRcu,
    /// How long filesystems stay frozen at most.
    FsfreezeHoldLimit,
    /// How long one step at one filesystem may take.
    FsfreezeStepLimit,
    /// Directory for what has to survive a restart of the agent.
    StateDir,
    /// Log everything.
    Verbose,
    /// Reopen a lost channel.
    RetryPath,
    /// Commands that are refused.
    BlockRpcs,
    /// The only commands that are answered.
    AllowRpcs,
    /// Another configuration file.
    Config,
    /// Show the configuration in effect.
    DumpConf,
    /// Show the version.
    Version,
    /// Show the help.
    Help,
    /// A Windows service action: accepted and without effect on Linux.
    Service,
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// Nothing: a switch on the command line, a boolean in the file.
    Switch,
    /// A value, called by this name in the help.
    Value(&'static str),
    /// A value that counts only when attached (`-F/path`, `--fsfreeze-hook=/path`).
    Attached(&'static str),
    /// A comma separated list; repeated options add up.
    List(&'static str),
}

/// The group of the configuration file in which an option's key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Options that the original has too.
    General,
    /// Options of qemu-ga-rs alone: the original ignores groups that it does not know, so one file
    /// serves both agents.
    Own,
}

impl Group {
    /// Every group whose keys are checked; others are ignored.
    pub const ALL: [Group; 2] = [Group::General, Group::Own];

    /// The name between the brackets.
    pub const fn name(self) -> &'static str {
        match self {
            Group::General => "general",
            Group::Own => "qemu-ga-rs",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.name())
    }
}

/// One option.
#[derive(Debug)]
pub struct Spec {
    /// Which one.
    pub id: Id,
    /// The letter after a single dash.
    pub short: Option<u8>,
    /// The name after two dashes; empty if there is none.
    pub long: &'static str,
    /// Older spellings of `long`: accepted on the command line and, with a warning, in the file.
    pub old: &'static [&'static str],
    /// Group and key in the configuration file; `None`: command line only.
    pub key: Option<(Group, &'static str)>,
    /// What it takes.
    pub arg: Arg,
    /// The default as the help tells it.
    pub default: Option<&'static str>,
    /// What it does, for people; empty hides the option from the help.
    pub help: &'static str,
    /// Whether an abbreviated long option may mean this one. False for options that the original
    /// lacks, so that none of them makes an abbreviation ambiguous that works there.
    pub abbreviable: bool,
}

/// Where the configuration of the agent lives, in the order of preference: Debian's and upstream's
/// directory, then that of RHEL, CentOS and Fedora.
pub const CONF_DIRS: [&str; 2] = ["/etc/qemu", "/etc/qemu-ga"];
/// Name of the configuration file in one of [`CONF_DIRS`].
pub const CONF_FILE: &str = "qemu-ga.conf";
/// Name of the hook in one of [`CONF_DIRS`].
pub const HOOK_FILE: &str = "fsfreeze-hook";
/// The pid file unless another one is named.
pub const PIDFILE: &str = "/var/run/qemu-ga.pid";
/// The state directory unless another one is named.
pub const STATEDIR: &str = "/var/run";

const fn general(id: Id, short: u8, long: &'static str, arg: Arg, help: &'static str) -> Spec {
    Spec {
        id,
        short: Some(short),
        long,
        old: &[],
        key: Some((Group::General, long)),
        arg,
        default: None,
        help,
        abbreviable: true,
    }
}

const fn command_line(id: Id, short: u8, long: &'static str, arg: Arg, help: &'static str) -> Spec {
    Spec {
        key: None,
        ..general(id, short, long, arg, help)
    }
}

const fn own(id: Id, long: &'static str, arg: Arg, help: &'static str) -> Spec {
    Spec {
        id,
        short: None,
        long,
        old: &[],
        key: Some((Group::Own, long)),
        arg,
        default: None,
        help,
        abbreviable: false,
    }
}

/// The table.
pub static OPTIONS: &[Spec] = &[
    Spec {
        key: Some((Group::General, "daemon")),
        ..general(
            Id::Daemon,
            b'd',
            "daemonize",
            Arg::Switch,
            "go to the background once the channel is open, and write a pid file",
        )
    },
    Spec {
        default: Some("virtio-serial"),
        ..general(
            Id::Method,
            b'm',
            "method",
            Arg::Value("METHOD"),
            "how to reach the host: virtio-serial, isa-serial, unix-listen or vsock-listen",
        )
    },
    Spec {
        default: Some(
            "/dev/virtio-ports/org.qemu.guest_agent.0 for virtio-serial, /dev/ttyS0 for \
             isa-serial; the other methods need one",
        ),
        ..general(
            Id::Path,
            b'p',
            "path",
            Arg::Value("PATH"),
            "device, socket or, for vsock-listen, <cid>:<port> of the channel",
        )
    },
    Spec {
        default: Some("standard error"),
        ..general(
            Id::LogFile,
            b'l',
            "logfile",
            Arg::Value("PATH"),
            "append the log to this file",
        )
    },
    Spec {
        default: Some(PIDFILE),
        ..general(
            Id::PidFile,
            b'f',
            "pidfile",
            Arg::Value("PATH"),
            "pid file to write with --daemonize",
        )
    },
    general(
        Id::FsfreezeHook,
        b'F',
        "fsfreeze-hook",
        Arg::Attached("PATH"),
        "run this program with 'freeze' before filesystems are frozen and with 'thaw' after they \
         are thawed; off unless given. Without PATH: /etc/qemu/fsfreeze-hook, or \
         /etc/qemu-ga/fsfreeze-hook if only that exists. PATH must be attached: -F/path",
    ),
    Spec {
        default: Some(STATEDIR),
        ..general(
            Id::StateDir,
            b't',
            "statedir",
            Arg::Value("DIR"),
            "directory for the state that a restart of the agent must find again",
        )
    },
    general(
        Id::Verbose,
        b'v',
        "verbose",
        Arg::Switch,
        "log everything instead of warnings and errors only",
    ),
    general(
        Id::RetryPath,
        b'r',
        "retry-path",
        Arg::Switch,
        "keep trying to open the channel when its device is missing or gets lost",
    ),
    Spec {
        old: &["blacklist"],
        ..general(
            Id::BlockRpcs,
            b'b',
            "block-rpcs",
            Arg::List("LIST"),
            "refuse these commands (comma separated, may be repeated); 'help' lists the commands",
        )
    },
    general(
        Id::AllowRpcs,
        b'a',
        "allow-rpcs",
        Arg::List("LIST"),
        "refuse all commands but these (comma separated, may be repeated); a command that is \
         blocked too stays blocked; 'help' lists the commands",
    ),
    Spec {
        default: Some("all"),
        ..own(
            Id::FsfreezeMode,
            "fsfreeze-mode",
            Arg::Value("MODE"),
            "what a freeze does: all (hooks and filesystems), hooks-only, or off",
        )
    },
    own(
        Id::FsfreezeInclude,
        "fsfreeze-include",
        Arg::List("LIST"),
        "freeze only the filesystems that one of these patterns means (comma separated, may be \
         repeated): /data/* by mountpoint (* crosses slashes), type:xfs by type, dev:/dev/sdb* by \
         device",
    ),
    own(
        Id::FsfreezeExclude,
        "fsfreeze-exclude",
        Arg::List("LIST"),
        "never freeze the filesystems that one of these patterns means, even if the host names \
         them",
    ),
    own(
        Id::FsfreezeOptional,
        "fsfreeze-optional",
        Arg::List("LIST"),
        "go on if one of the filesystems that these patterns mean cannot be opened or frozen",
    ),
    own(
        Id::FsfreezeStrict,
        "fsfreeze-strict",
        Arg::Switch,
        "fail if a chosen filesystem cannot be frozen for its type or because it is covered, \
         instead of leaving it out",
    ),
    own(
        Id::FsfreezeIgnoreFrozen,
        "fsfreeze-ignore-frozen",
        Arg::Switch,
        "leave out what someone else has frozen, instead of failing",
    ),
    own(
        Id::FsfreezeNormalRcu,
        "fsfreeze-normal-rcu",
        Arg::Switch,
        "do not expedite RCU grace periods while freezing: a freeze then blocks writers for tens of \
         milliseconds more per filesystem, but no processor is interrupted for it",
    ),
    Spec {
        default: Some("900"),
        ..own(
            Id::FsfreezeHoldLimit,
            "fsfreeze-hold-limit",
            Arg::Value("SECONDS"),
            "thaw everything if the host has not done so by then; 0: never",
        )
    },
    Spec {
        default: Some("300"),
        ..own(
            Id::FsfreezeStepLimit,
            "fsfreeze-step-limit",
            Arg::Value("SECONDS"),
            "give up a freeze if opening, flushing or freezing one filesystem takes longer; 0: \
             never",
        )
    },
    Spec {
        default: Some("$QGA_CONF, else /etc/qemu/qemu-ga.conf, else /etc/qemu-ga/qemu-ga.conf"),
        ..command_line(
            Id::Config,
            b'c',
            "config",
            Arg::Value("PATH"),
            "read this configuration file; options on the command line come on top of it",
        )
    },
    command_line(
        Id::DumpConf,
        b'D',
        "dump-conf",
        Arg::Switch,
        "show the configuration that results from file and options, in the file's format, and exit",
    ),
    command_line(
        Id::Version,
        b'V',
        "version",
        Arg::Switch,
        "show the version and exit",
    ),
    command_line(
        Id::Help,
        b'h',
        "help",
        Arg::Switch,
        "show this help and exit",
    ),
    Spec {
        long: "",
        ..command_line(Id::Service, b's', "", Arg::Value("ACTION"), "")
    },
];

/// The entry of an option.
pub fn by_id(id: Id) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.id == id)
}

/// The option whose key in `group` is `key`, in its present spelling.
pub fn by_key(group: Group, key: &str) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.key == Some((group, key)))
}

/// The option that has `key` as an older spelling of its key in `group`.
pub fn by_old_key(group: Group, key: &str) -> Option<&'static Spec> {
    OPTIONS
        .iter()
        .find(|spec| spec.key.is_some_and(|(g, _)| g == group) && spec.old.contains(&key))
}
