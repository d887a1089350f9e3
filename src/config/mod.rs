//! Options and configuration file (floor 5): what the operator asked for, as a [`Config`].
//!
//! One table ([`options`]) drives the command line ([`getopt`]), the file ([`crate::keyfile`], [`mod@file`]),
//! the help and the dump ([`show`]). The command line is scanned once for `-c`, the file is read,
//! then the command line is applied on top: scalars are replaced, lists add up. Nothing is opened
//! here but the file, and nothing is printed: the caller prints what an [`Action`] or a
//! [`ConfigError`] holds, and logs [`Config::warnings`] once the log is up.

mod file;
pub mod getopt;
pub mod options;
mod show;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::freeze::policy::{self, FreezeLimits, FreezeMode, FreezePolicy, Pattern};
use crate::hooks::locate;
use crate::hooks::settings::HookConfig;
use crate::hooks::sources::vmware;
use crate::keyfile;
use getopt::Found;
use options::{CONF_DIRS, HOOK_FILE, Id, PIDFILE, STATEDIR};

/// What the command line asks for.
#[derive(Debug)]
pub enum Action {
    /// Run the agent.
    Run(Config),
    /// Print [`Config::dump`] and exit. Comes after socket activation is known
    /// ([`Config::use_activated_socket`]).
    DumpConf(Config),
    /// Print this text and exit.
    Help(String),
    /// Print this text and exit.
    Version(String),
    /// Print the names of all commands, one per line, and exit.
    ListCommands,
}

/// How the channel is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// A virtio-serial port.
    VirtioSerial,
    /// A serial line.
    IsaSerial,
    /// A listening Unix socket.
    UnixListen,
    /// A listening vsock.
    VsockListen,
    /// Something else: refused when the channel is to be opened.
    Unknown(String),
}

impl Method {
    /// The method of that name.
    pub fn from_name(name: &str) -> Method {
        match name {
            "virtio-serial" => Method::VirtioSerial,
            "isa-serial" => Method::IsaSerial,
            "unix-listen" => Method::UnixListen,
            "vsock-listen" => Method::VsockListen,
            other => Method::Unknown(other.into()),
        }
    }

    /// The name, as it is given to `-m`.
    pub fn name(&self) -> &str {
        match self {
            Method::VirtioSerial => "virtio-serial",
            Method::IsaSerial => "isa-serial",
            Method::UnixListen => "unix-listen",
            Method::VsockListen => "vsock-listen",
            Method::Unknown(name) => name,
        }
    }

    /// The path that is used when none is given.
    pub fn default_path(&self) -> Option<&'static Path> {
        match self {
            Method::VirtioSerial => Some(Path::new("/dev/virtio-ports/org.qemu.guest_agent.0")),
            Method::IsaSerial => Some(Path::new("/dev/ttyS0")),
            Method::UnixListen | Method::VsockListen | Method::Unknown(_) => None,
        }
    }
}

/// An allow or a block list: the entries of each option that was given, the file's first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RpcList(Vec<Vec<String>>);

impl RpcList {
    /// Adds the entries of one option or key. An empty value adds none; nothing is trimmed.
    fn add(&mut self, value: &str) {
        if !value.is_empty() {
            self.0.push(value.split(',').map(str::to_owned).collect());
        }
    }

    /// Whether no entry was given: then there is no such list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries, as they were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }

    /// Whether `name` is an entry, literally.
    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|entry| entry == name)
    }
}

/// The configuration in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How the channel is made.
    pub method: Method,
    /// Device, socket or `<cid>:<port>`; `None` only when the service manager passed the socket.
    pub path: Option<PathBuf>,
    /// Log file; `None`: stderr.
    pub logfile: Option<PathBuf>,
    /// Pid file, written with `daemon`.
    pub pidfile: PathBuf,
    /// The hook as it was configured; what to run is told by [`Config::hook`].
    pub fsfreeze_hook: Option<PathBuf>,
    /// State directory.
    pub statedir: PathBuf,
    /// Log everything.
    pub verbose: bool,
    /// Go to the background.
    pub daemon: bool,
    /// Reopen a lost channel.
    pub retry_path: bool,
    /// Which filesystems are frozen, and what is an error.
    pub policy: FreezePolicy,
    /// How long a freeze and its steps may take.
    pub limits: FreezeLimits,
    /// Commands that are refused.
    pub block_rpcs: RpcList,
    /// If not empty, the only commands that are answered.
    pub allow_rpcs: RpcList,
    /// What is odd about the configuration, one sentence each, for the log.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            method: Method::VirtioSerial,
            path: None,
            logfile: None,
            pidfile: PIDFILE.into(),
            fsfreeze_hook: None,
            statedir: STATEDIR.into(),
            verbose: false,
            daemon: false,
            retry_path: false,
            policy: FreezePolicy::default(),
            limits: FreezeLimits::default(),
            block_rpcs: RpcList::default(),
            allow_rpcs: RpcList::default(),
            warnings: Vec::new(),
        }
    }
}

impl Config {
    /// The hook to run at freeze and thaw. `None` when there is none, and for `/dev/null`, which
    /// the configuration of RHEL and Fedora documents as the way to switch the hook off.
    pub fn hook(&self) -> Option<&Path> {
        self.fsfreeze_hook
            .as_deref()
            .filter(|hook| *hook != Path::new("/dev/null"))
    }

    /// The service manager passed a listening socket of that kind: it replaces method and path,
    /// wherever they came from.
    pub fn use_activated_socket(&mut self, method: Method) {
        self.method = method;
        self.path = None;
    }

    /// Takes over what VMware's tools.conf says of filesystems, if the hooks' settings use its scripts.
    fn adopt_tools_conf(&mut self) {
        let Some(master) = self.hook() else {
            return;
        };
        // What is wrong with these settings fails the freeze itself.
        let rules = HookConfig::read(&locate::conf_beside(&locate::dir_of(master)));
        let Some(conf) = rules.ok().and_then(|rules| vmware::tools_conf(&rules)) else {
            return;
        };
        match conf {
            Ok(conf) => {
                self.policy.ignore_frozen |= conf.ignore_frozen;
                for glob in conf.exclude {
                    match Pattern::parse(&glob) {
                        Ok(pattern) => self.policy.exclude.push(pattern),
                        Err(why) => self.warnings.push(format!("tools.conf: {why}: ignored")),
                    }
                }
            }
            Err(why) => self.warnings.push(why),
        }
    }

    /// Sets a switch.
    fn switch(&mut self, id: Id, value: bool) {
        match id {
            Id::Daemon => self.daemon = value,
            Id::Verbose => self.verbose = value,
            Id::RetryPath => self.retry_path = value,
            Id::FsfreezeStrict => self.policy.strict = value,
            Id::FsfreezeIgnoreFrozen => self.policy.ignore_frozen = value,
            Id::FsfreezeNormalRcu => self.policy.normal_rcu = value,
            _not_a_switch => {}
        }
    }

    /// Sets a scalar or adds to a list.
    ///
    /// # Errors
    /// The value makes no sense: what is wrong, and what counts instead. Only options of our own
    /// complain; the original takes anything.
    fn set(&mut self, id: Id, value: &OsStr) -> Result<(), String> {
        match id {
            Id::Method => self.method = Method::from_name(&value.to_string_lossy()),
            Id::Path => self.path = Some(value.into()),
            Id::LogFile => self.logfile = Some(value.into()),
            Id::PidFile => self.pidfile = value.into(),
            Id::FsfreezeHook => self.fsfreeze_hook = Some(value.into()),
            Id::StateDir => self.statedir = value.into(),
            Id::BlockRpcs => self.block_rpcs.add(&value.to_string_lossy()),
            Id::AllowRpcs => self.allow_rpcs.add(&value.to_string_lossy()),
            Id::FsfreezeMode => return self.set_mode(&value.to_string_lossy()),
            Id::FsfreezeInclude => return add_patterns(&mut self.policy.include, value),
            Id::FsfreezeExclude => return add_patterns(&mut self.policy.exclude, value),
            Id::FsfreezeOptional => return add_patterns(&mut self.policy.optional, value),
            Id::FsfreezeHoldLimit => {
                return set_limit(
                    &mut self.limits.hold,
                    FreezeLimits::DEFAULT_HOLD_SECONDS,
                    value,
                );
            }
            Id::FsfreezeStepLimit => {
                return set_limit(
                    &mut self.limits.step,
                    FreezeLimits::DEFAULT_STEP_SECONDS,
                    value,
                );
            }
            _takes_no_value => {}
        }
        Ok(())
    }

    fn set_mode(&mut self, value: &str) -> Result<(), String> {
        let mode = FreezeMode::parse(value.trim_ascii());
        self.policy.freeze = mode.unwrap_or_default();
        match mode {
            Some(_) => Ok(()),
            None => Err(format!(
                "has the value '{}', which is none of all, hooks-only and off: all is taken",
                keyfile::shown(value)
            )),
        }
    }
}

/// Adds a comma separated list of patterns; blanks around a pattern do not count.
fn add_patterns(list: &mut Vec<Pattern>, value: &OsStr) -> Result<(), String> {
    let mut wrong = Vec::new();
    let value = value.to_string_lossy();
    for text in value.split(',').map(str::trim_ascii) {
        match Pattern::parse(text) {
            Ok(pattern) => list.push(pattern),
            Err(_) if text.is_empty() => {}
            Err(why) => wrong.push(keyfile::shown(&why.to_string())),
        }
    }
    match wrong[..] {
        [] => Ok(()),
        _ => Err(format!("is ignored where {}", wrong.join(", and where "))),
    }
}

/// Sets a limit; for nonsense the default is taken.
fn set_limit(limit: &mut Option<Duration>, default: u64, value: &OsStr) -> Result<(), String> {
    let value = value.to_string_lossy();
    let read = policy::seconds(&value);
    *limit = match &read {
        Ok(limit) => *limit,
        Err(_) => Some(Duration::from_secs(default)),
    };
    match read {
        Ok(_) => Ok(()),
        Err(why) => Err(format!(
            "has the value '{}', which {why}: {default} is taken",
            keyfile::shown(&value)
        )),
    }
}

/// Why the agent cannot start with this configuration: what to print on which stream. The exit
/// status is [`ConfigError::EXIT_STATUS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// For standard error, line ends included.
    pub stderr: String,
    /// For standard output, line ends included; mostly empty.
    pub stdout: String,
}

impl ConfigError {
    /// The exit status of every such error.
    pub const EXIT_STATUS: u8 = 1;

    fn new(program: &str, text: impl fmt::Display) -> Self {
        ConfigError {
            stderr: format!("{program}: {text}\n"),
            stdout: String::new(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stderr, self.stdout)
    }
}

impl std::error::Error for ConfigError {}

/// Reads the command line (`args`, the program's name first), the environment and the
/// configuration file.
///
/// Call it before the socket of the service manager is taken, which removes the variables that
/// announce it.
///
/// # Errors
/// An option or the file cannot be understood, or a path is missing: the text says what to do.
pub fn parse(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Action, ConfigError> {
    let mut action = parse_in(args, env, &CONF_DIRS.map(Path::new))?;
    if let Action::Run(config) | Action::DumpConf(config) = &mut action {
        config.adopt_tools_conf();
    }
    Ok(action)
}

/// [`parse`] with the configuration directories given.
fn parse_in(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
    dirs: &[&Path],
) -> Result<Action, ConfigError> {
    let (program, args) = match args {
        [program, args @ ..] => (program.to_string_lossy(), args),
        [] => ("qemu-ga".into(), args),
    };
    let found = getopt::scan(args);
    let mut config = Config::default();

    let file = file::choose(named_file(args), env("QGA_CONF").map(PathBuf::from), dirs);
    file::load(&mut config, &file).map_err(|error| ConfigError::new(&program, error))?;

    let mut dump = false;
    for found in found {
        match found {
            Found::Bad(complaint) => {
                return Err(ConfigError {
                    stdout: format!(
                        "Unknown option, try '{program} --help' for more information.\n"
                    ),
                    ..ConfigError::new(&program, complaint)
                });
            }
            Found::Option(Id::Help, _) => return Ok(Action::Help(show::help(&program))),
            Found::Option(Id::Version, _) => return Ok(Action::Version(show::version() + "\n")),
            Found::Option(Id::DumpConf, _) => dump = true,
            Found::Option(Id::BlockRpcs | Id::AllowRpcs, Some(value))
                if value == "help" || value == "?" =>
            {
                return Ok(Action::ListCommands);
            }
            Found::Option(Id::FsfreezeHook, None) => {
                config.fsfreeze_hook = Some(file::first_existing(dirs, HOOK_FILE));
            }
            Found::Option(id, Some(value)) => {
                if let (Err(complaint), Some(spec)) = (config.set(id, &value), options::by_id(id)) {
                    let text = format!("option '--{}' {complaint}", spec.long);
                    config.warnings.push(text);
                }
            }
            Found::Option(id, None) => config.switch(id, true),
        }
    }

    if activated(env) {
        config.path = None;
    } else if config.path.is_none() {
        config.path = config.method.default_path().map(Path::to_owned);
        if config.path.is_none() {
            return Err(ConfigError::new(
                &program,
                format_args!(
                    "must specify a path for this channel: add -p PATH for the method '{}'",
                    config.method.name()
                ),
            ));
        }
    }
    Ok(if dump {
        Action::DumpConf(config)
    } else {
        Action::Run(config)
    })
}

/// The configuration file that these arguments, without the program's name, ask for.
pub fn named_file(args: &[OsString]) -> Option<PathBuf> {
    let mut found = getopt::scan(args).into_iter().rev();
    found.find_map(|found| match found {
        Found::Option(Id::Config, path) => path.map(PathBuf::from),
        _ => None,
    })
}

/// Whether the environment says that the service manager passed sockets to this process
/// (sd_listen_fds(3)): then a path is neither needed nor used.
fn activated(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let number = |name| env(name).and_then(|value| value.to_str()?.parse::<u32>().ok());
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS").is_some_and(|n| n > 0)
}
