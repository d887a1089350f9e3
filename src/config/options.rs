//! The one table of the agent's options. An entry holds all that is known of an option. The command line, the file,
//! `--help`, `--dump-conf`, the manual pages, CONFIGURATION.md, the sample file and the completions read it here.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use super::values::{self, add_patterns, set_limit, set_mode, set_path, set_unless_off};
use super::{Config, Method};
use crate::cli::{Arg, HELP, OptionSpec, ValueKind};
use crate::commands::profile::{self, ProfileName};
use crate::freeze::policy::FreezeLimits;
use crate::freeze::snapshot::DEFAULT_PATH as DEFAULT_SNAPSHOT;

/// The group of the configuration file in which an option's key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Options that the original has too.
    General,
    /// Options of qemu-ga-rs alone: the original ignores unknown groups, so one file serves both agents.
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

/// What an option does.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// Sets a boolean.
    Switch {
        /// Sets it.
        set: fn(&mut Config, bool),
        /// Its value.
        get: fn(&Config) -> bool,
    },
    /// Replaces a value, or adds to a list.
    Value {
        /// Sets it. The error says what is wrong, and what is used instead; the original's options accept anything.
        set: fn(&mut Config, &OsStr) -> Result<(), String>,
        /// Its value as it is written in the file; `None`: there is none.
        get: fn(&Config) -> Option<Vec<u8>>,
    },
    /// Names the configuration file.
    ConfigFile,
    /// Shows the configuration in effect.
    DumpConf,
    /// Shows the version.
    Version,
    /// Shows the help.
    Help,
    /// None. A Windows service action is accepted, as the original does.
    Nothing,
}

/// One option of the agent.
#[derive(Debug)]
pub struct AgentOption {
    /// Group and key in the configuration file; `None`: command line only.
    pub key: Option<(Group, &'static str)>,
    /// Options that the original lacks are not `abbreviable`: they would make its abbreviations ambiguous.
    pub spec: OptionSpec,
    /// What it does.
    pub effect: Effect,
}

impl AgentOption {
    const fn default(self, words: &'static str) -> Self {
        Self {
            spec: self.spec.default(words),
            ..self
        }
    }

    const fn key(self, key: Option<(Group, &'static str)>) -> Self {
        Self { key, ..self }
    }

    const fn old(self, old: &'static [&'static str]) -> Self {
        Self {
            spec: OptionSpec { old, ..self.spec },
            ..self
        }
    }
}

/// In the order of preference: the directory of Debian and upstream, then that of RHEL, CentOS and Fedora.
pub const CONF_DIRS: [&str; 2] = ["/etc/qemu", "/etc/qemu-ga"];
/// Name of the configuration file in one of [`CONF_DIRS`].
pub const CONF_FILE: &str = "qemu-ga.conf";
/// Name of the hook in one of [`CONF_DIRS`].
pub const HOOK_FILE: &str = "fsfreeze-hook";
pub(crate) const PIDFILE: &str = "/var/run/qemu-ga.pid";
pub(crate) const STATEDIR: &str = "/var/run";

pub(crate) const METHODS: &[&str] = &["virtio-serial", "isa-serial", "unix-listen", "vsock-listen"];

type Taken = (Arg, Effect);

const fn switch(set: fn(&mut Config, bool), get: fn(&Config) -> bool) -> Taken {
    (Arg::Switch, Effect::Switch { set, get })
}

const fn value(
    arg: Arg,
    set: fn(&mut Config, &OsStr) -> Result<(), String>,
    get: fn(&Config) -> Option<Vec<u8>>,
) -> Taken {
    (arg, Effect::Value { set, get })
}

/// An option that the original has too, with its long name as the key.
const fn general(short: u8, long: &'static str, help: &'static str, taken: Taken) -> AgentOption {
    let (arg, effect) = taken;
    AgentOption {
        key: Some((Group::General, long)),
        spec: OptionSpec {
            abbreviable: true,
            ..OptionSpec::new(long, arg, help).short(short)
        },
        effect,
    }
}

const fn command_line(
    short: u8,
    long: &'static str,
    help: &'static str,
    taken: Taken,
) -> AgentOption {
    general(short, long, help, taken).key(None)
}

const fn own(long: &'static str, help: &'static str, taken: Taken) -> AgentOption {
    let (arg, effect) = taken;
    AgentOption {
        key: Some((Group::Own, long)),
        spec: OptionSpec::new(long, arg, help),
        effect,
    }
}

const FILE: Arg = Arg::Value("PATH", ValueKind::File);
const SECONDS: Arg = Arg::Value("SECONDS", ValueKind::Seconds);
const COMMANDS: Arg = Arg::List("LIST", ValueKind::CommandName);
const PATTERNS: Arg = Arg::List("LIST", ValueKind::Pattern);

/// Keys in the order in which `--dump-conf` writes them, which is fixed; then options without a key.
pub static OPTIONS: &[AgentOption] = &[
    general(
        b'd',
        "daemonize",
        "go to the background once the channel is open, and write a pid file",
        switch(|config, on| config.daemon = on, |config| config.daemon),
    )
    .key(Some((Group::General, "daemon"))),
    general(
        b'm',
        "method",
        "how to reach the host: virtio-serial, isa-serial, unix-listen or vsock-listen",
        value(
            Arg::Value("METHOD", ValueKind::Words(METHODS)),
            |config, name| {
                config.method = Method::from_name(&name.to_string_lossy());
                Ok(())
            },
            |config| Some(config.method.name().into()),
        ),
    )
    .default("virtio-serial"),
    general(
        b'p',
        "path",
        "device, socket or, for vsock-listen, <cid>:<port> of the channel",
        value(
            FILE,
            |config, path| set_path(&mut config.path, path),
            |config| values::path(config.path.as_deref()),
        ),
    )
    .default(
        "/dev/virtio-ports/org.qemu.guest_agent.0 for virtio-serial, /dev/ttyS0 for isa-serial; \
         the other methods need one",
    ),
    general(
        b'l',
        "logfile",
        "append the log to this file",
        value(
            FILE,
            |config, path| set_path(&mut config.logfile, path),
            |config| values::path(config.logfile.as_deref()),
        ),
    )
    .default("standard error"),
    general(
        b'f',
        "pidfile",
        "pid file to write with --daemonize",
        value(
            FILE,
            |config, path| {
                config.pidfile = path.into();
                Ok(())
            },
            |config| values::path(Some(&config.pidfile)),
        ),
    )
    .default(PIDFILE),
    general(
        b'F',
        "fsfreeze-hook",
        "run this program with 'freeze' before filesystems are frozen and with 'thaw' after they \
         are thawed; off unless given. Without PATH: /etc/qemu/fsfreeze-hook, or \
         /etc/qemu-ga/fsfreeze-hook if only that exists. PATH must be attached: -F/path",
        value(
            Arg::Attached("PATH", ValueKind::File),
            |config, path| set_path(&mut config.fsfreeze_hook, path),
            |config| values::path(config.fsfreeze_hook.as_deref()),
        ),
    ),
    general(
        b't',
        "statedir",
        "directory for the state that a restart of the agent must find again",
        value(
            Arg::Value("DIR", ValueKind::Directory),
            |config, path| {
                config.statedir = PathBuf::from(path);
                Ok(())
            },
            |config| values::path(Some(&config.statedir)),
        ),
    )
    .default(STATEDIR),
    general(
        b'v',
        "verbose",
        "log everything instead of warnings and errors only",
        switch(|config, on| config.verbose = on, |config| config.verbose),
    ),
    general(
        b'r',
        "retry-path",
        "keep trying to open the channel when its device is missing or gets lost",
        switch(
            |config, on| config.retry_path = on,
            |config| config.retry_path,
        ),
    ),
    general(
        b'b',
        "block-rpcs",
        "refuse these commands (comma separated, may be repeated); 'help' lists the commands",
        value(
            COMMANDS,
            |config, list| {
                config.block_rpcs.add(&list.to_string_lossy());
                Ok(())
            },
            |config| values::reversed(&config.block_rpcs),
        ),
    )
    .old(&["blacklist"]),
    general(
        b'a',
        "allow-rpcs",
        "refuse all commands but these (comma separated, may be repeated); a command that is \
         blocked too stays blocked; 'help' lists the commands",
        value(
            COMMANDS,
            |config, list| {
                config.allow_rpcs.add(&list.to_string_lossy());
                Ok(())
            },
            |config| values::reversed(&config.allow_rpcs),
        ),
    ),
    own(
        "profile",
        "refuse the commands outside of this set: full (all), no-exec (no programs, files, passwords or \
         keys), query (what changes nothing), backup (freeze, thaw and report; the agent also gives up \
         the rights that this does not need), or auto (backup in a confidential guest, else full). \
         --allow-rpcs and --block-rpcs refuse more",
        value(
            Arg::Value("NAME", ValueKind::Words(profile::NAMES)),
            |config, name| {
                config.profile = ProfileName(name.to_string_lossy().trim_ascii().to_owned());
                Ok(())
            },
            |config| Some(config.profile.0.clone().into_bytes()),
        ),
    )
    .default("full"),
    own(
        "fsfreeze-mode",
        "what a freeze does: all (hooks and filesystems), hooks-only, or off",
        value(
            Arg::Value("MODE", ValueKind::Words(&["all", "hooks-only", "off"])),
            |config, mode| set_mode(&mut config.policy.freeze, mode),
            |config| Some(config.policy.freeze.name().into()),
        ),
    )
    .default("all"),
    own(
        "fsfreeze-include",
        "freeze only the filesystems that one of these patterns means (comma separated, may be \
         repeated): /data/* by mountpoint (* crosses slashes), type:xfs by type, dev:/dev/sdb* by \
         device",
        value(
            PATTERNS,
            |config, list| add_patterns(&mut config.policy.include, list),
            |config| values::patterns(&config.policy.include),
        ),
    ),
    own(
        "fsfreeze-exclude",
        "never freeze the filesystems that one of these patterns means, even if the host names \
         them",
        value(
            PATTERNS,
            |config, list| add_patterns(&mut config.policy.exclude, list),
            |config| values::patterns(&config.policy.exclude),
        ),
    ),
    own(
        "fsfreeze-optional",
        "go on if one of the filesystems that these patterns mean cannot be opened or frozen",
        value(
            PATTERNS,
            |config, list| add_patterns(&mut config.policy.optional, list),
            |config| values::patterns(&config.policy.optional),
        ),
    ),
    own(
        "fsfreeze-strict",
        "fail if a chosen filesystem cannot be frozen for its type or because it is covered, \
         instead of leaving it out",
        switch(
            |config, on| config.policy.strict = on,
            |config| config.policy.strict,
        ),
    ),
    own(
        "fsfreeze-ignore-frozen",
        "leave out what someone else has frozen, instead of failing",
        switch(
            |config, on| config.policy.ignore_frozen = on,
            |config| config.policy.ignore_frozen,
        ),
    ),
    own(
        "fsfreeze-normal-rcu",
        "do not expedite RCU grace periods while freezing: a freeze then blocks writers for tens of \
         milliseconds more per filesystem, but no processor is interrupted for it",
        switch(
            |config, on| config.policy.normal_rcu = on,
            |config| config.policy.normal_rcu,
        ),
    ),
    own(
        "fsfreeze-hold-limit",
        "thaw everything if the host has not done so by then; 0: never",
        value(
            SECONDS,
            |config, time| {
                let default = FreezeLimits::DEFAULT_HOLD_SECONDS;
                set_limit(&mut config.limits.hold, default, time)
            },
            |config| values::seconds(config.limits.hold),
        ),
    )
    .default("900"),
    own(
        "fsfreeze-step-limit",
        "give up a freeze if opening, flushing or freezing one filesystem takes longer; 0: \
         never",
        value(
            SECONDS,
            |config, time| {
                let default = FreezeLimits::DEFAULT_STEP_SECONDS;
                set_limit(&mut config.limits.step, default, time)
            },
            |config| values::seconds(config.limits.step),
        ),
    )
    .default("300"),
    own(
        "snapshot-file",
        "before a freeze write here what a copy of the disk is worth, if this file's filesystem is \
         frozen, too; its directory must exist; off: write none",
        value(
            FILE,
            |config, path| set_unless_off(&mut config.snapshot_file, path),
            |config| values::path_or_off(config.snapshot_file.as_deref()),
        ),
    )
    .default(DEFAULT_SNAPSHOT),
    own(
        "restore-hooks",
        "directory of the programs that run once in a machine that was started from a copy; off: \
         run none",
        value(
            Arg::Value("DIR", ValueKind::Directory),
            |config, path| set_unless_off(&mut config.restore_hooks, path),
            |config| values::path_or_off(config.restore_hooks.as_deref()),
        ),
    )
    .default("restore-hook.d in /etc/qemu or /etc/qemu-ga"),
    command_line(
        b'c',
        "config",
        "read this configuration file; options on the command line come on top of it",
        (FILE, Effect::ConfigFile),
    )
    .default("$QGA_CONF, else /etc/qemu/qemu-ga.conf, else /etc/qemu-ga/qemu-ga.conf"),
    command_line(
        b'D',
        "dump-conf",
        "show the configuration that results from file and options, in the file's format, and exit",
        (Arg::Switch, Effect::DumpConf),
    ),
    command_line(
        b'V',
        "version",
        "show the version and exit",
        (Arg::Switch, Effect::Version),
    ),
    command_line(b'h', HELP.long, HELP.help, (Arg::Switch, Effect::Help)),
    command_line(
        b's',
        "",
        "",
        (Arg::Value("ACTION", ValueKind::Text), Effect::Nothing),
    ),
];

/// For [`crate::cli::scan`], whose results are indexes of [`OPTIONS`].
pub(super) fn specs() -> Vec<&'static OptionSpec> {
    OPTIONS.iter().map(|option| &option.spec).collect()
}

pub(crate) fn by_key(group: Group, key: &str) -> Option<&'static AgentOption> {
    OPTIONS
        .iter()
        .find(|option| option.key == Some((group, key)))
}

pub(crate) fn by_old_key(group: Group, key: &str) -> Option<&'static AgentOption> {
    OPTIONS.iter().find(|option| {
        option.key.is_some_and(|(g, _)| g == group) && option.spec.old.contains(&key)
    })
}
