//! Command line and configuration file (floor 5), as a [`Config`].
//!
//! One table ([`options`]) drives the command line ([`getopt`]), the file ([`mod@file`]), the help and the dump
//! ([`show`]). The command line is scanned once for `-c`, the file is read, then the command line is applied on top:
//! scalars are replaced, lists add up. Nothing is opened here but the file, and nothing is printed: the caller prints
//! the text of an [`Action`] or a [`ConfigError`], and logs [`Config::warnings`] when the log works. `app` starts the
//! agent with this, and the tools read the running agent's configuration by it.

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

use crate::freeze::policy::{FreezeLimits, FreezeMode, FreezePolicy, Pattern};
use crate::hooks::locate;
use crate::hooks::settings::HookConfig;
use crate::hooks::sources::vmware;
use crate::keyfile;
use crate::transport;
use getopt::Found;
use options::{CONF_DIRS, HOOK_FILE, Id, PIDFILE, STATEDIR};

/// What the command line requests.
#[derive(Debug)]
pub enum Action {
    /// Run the agent.
    Run(Config),
    /// Print [`Config::dump`] and exit, after [`Config::use_activated_socket`].
    DumpConf(Config),
    /// Print this text and exit.
    Help(String),
    /// Print this text and exit.
    Version(String),
    /// Print the names of all commands, one per line, and exit.
    ListCommands,
}

/// The kind of channel to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// A virtio-serial port.
    VirtioSerial,
    /// A serial port.
    IsaSerial,
    /// A listening Unix socket.
    UnixListen,
    /// A listening vsock.
    VsockListen,
    /// Refused when the channel is opened, not before: `--dump-conf` shows it, as with QEMU's agent.
    Unknown(String),
}

impl Method {
    pub(crate) fn from_name(name: &str) -> Method {
        match name {
            "virtio-serial" => Method::VirtioSerial,
            "isa-serial" => Method::IsaSerial,
            "unix-listen" => Method::UnixListen,
            "vsock-listen" => Method::VsockListen,
            other => Method::Unknown(other.into()),
        }
    }

    /// The name for `-m`.
    pub fn name(&self) -> &str {
        match self {
            Method::VirtioSerial => "virtio-serial",
            Method::IsaSerial => "isa-serial",
            Method::UnixListen => "unix-listen",
            Method::VsockListen => "vsock-listen",
            Method::Unknown(name) => name,
        }
    }

    pub(crate) fn default_path(&self) -> Option<&'static Path> {
        match self {
            Method::VirtioSerial => Some(Path::new("/dev/virtio-ports/org.qemu.guest_agent.0")),
            Method::IsaSerial => Some(Path::new("/dev/ttyS0")),
            Method::UnixListen | Method::VsockListen | Method::Unknown(_) => None,
        }
    }
}

/// A list of commands to allow or block: the entries of each option that was given, those of the file first. The
/// options are kept apart because the dump reverses each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RpcList(Vec<Vec<String>>);

impl RpcList {
    /// Adds the entries of one option or key. An empty value adds none; nothing is trimmed.
    fn add(&mut self, value: &str) {
        if !value.is_empty() {
            self.0.push(value.split(',').map(str::to_owned).collect());
        }
    }

    /// The entries as they were given, for the dump.
    fn entries(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }

    /// All names: the entries without the blanks around them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(str::trim_ascii)
    }
}

/// The configuration in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The kind of channel to the host.
    pub method: Method,
    /// Device, socket or `<cid>:<port>`; `None` only if the service manager passed the socket.
    pub(crate) path: Option<PathBuf>,
    /// `None`: standard error.
    pub(crate) logfile: Option<PathBuf>,
    /// Written only with `daemon`.
    pub(crate) pidfile: PathBuf,
    /// The hook as configured; [`Config::hook`] is the one to run.
    pub(crate) fsfreeze_hook: Option<PathBuf>,
    pub(crate) statedir: PathBuf,
    pub(crate) verbose: bool,
    pub(crate) daemon: bool,
    /// Reopen a lost channel.
    pub(crate) retry_path: bool,
    pub(crate) policy: FreezePolicy,
    pub(crate) limits: FreezeLimits,
    /// Commands that are refused.
    pub(crate) block_rpcs: RpcList,
    /// If not empty, the only commands that are allowed.
    pub(crate) allow_rpcs: RpcList,
    /// Mistakes that do not keep the agent from starting, one line each, for the log.
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
    /// The hook to run at freeze and thaw. `None` also for `/dev/null`, which the configuration file of RHEL and Fedora
    /// documents as the way to switch the hook off.
    pub(crate) fn hook(&self) -> Option<&Path> {
        self.fsfreeze_hook
            .as_deref()
            .filter(|hook| *hook != Path::new("/dev/null"))
    }

    /// A listening socket that the service manager passed replaces method and path, whatever has set them.
    pub(crate) fn use_activated_socket(&mut self, method: Method) {
        self.method = method;
        self.path = None;
    }

    /// Applies the settings for filesystems in VMware's tools.conf, if the hooks' settings use its scripts: who
    /// migrates expects his exclusions to hold.
    fn apply_tools_conf(&mut self) {
        let Some(master) = self.hook() else {
            return;
        };
        // An error in these settings is not reported here: the hook master reports it and fails the freeze.
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
                        Err(why) => self.warnings.push(format!("tools.conf: {why}; ignored")),
                    }
                }
            }
            Err(why) => self.warnings.push(why),
        }
    }

    fn set_switch(&mut self, id: Id, value: bool) {
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
    /// The value is invalid: why, and what is used instead. Only options of our own have this error; QEMU's agent
    /// accepts any value of its options.
    fn set_value(&mut self, id: Id, value: &OsStr) -> Result<(), String> {
        let text = value.to_string_lossy();
        match id {
            Id::Method => self.method = Method::from_name(&text),
            Id::Path => self.path = Some(value.into()),
            Id::LogFile => self.logfile = Some(value.into()),
            Id::PidFile => self.pidfile = value.into(),
            Id::FsfreezeHook => self.fsfreeze_hook = Some(value.into()),
            Id::StateDir => self.statedir = value.into(),
            Id::BlockRpcs => self.block_rpcs.add(&text),
            Id::AllowRpcs => self.allow_rpcs.add(&text),
            Id::FsfreezeMode => {
                let mode = FreezeMode::parse(text.trim_ascii());
                // Also after an earlier, valid value: more is frozen rather than less.
                self.policy.freeze = mode.unwrap_or_default();
                return mode
                    .map(drop)
                    .ok_or_else(|| "is none of all, hooks-only and off; using all".into());
            }
            Id::FsfreezeInclude => return add_patterns(&mut self.policy.include, &text),
            Id::FsfreezeExclude => return add_patterns(&mut self.policy.exclude, &text),
            Id::FsfreezeOptional => return add_patterns(&mut self.policy.optional, &text),
            Id::FsfreezeHoldLimit => {
                let default = FreezeLimits::DEFAULT_HOLD_SECONDS;
                return set_limit(&mut self.limits.hold, default, &text);
            }
            Id::FsfreezeStepLimit => {
                let default = FreezeLimits::DEFAULT_STEP_SECONDS;
                return set_limit(&mut self.limits.step, default, &text);
            }
            _takes_no_value => {}
        }
        Ok(())
    }

    /// Applies the options of the command line; an action if one of them asks for it.
    fn apply_command_line(
        &mut self,
        found: Vec<Found>,
        program: &str,
        dirs: &[&Path],
    ) -> Result<Option<Action>, ConfigError> {
        for found in found {
            match found {
                Found::Bad(text) => {
                    return Err(ConfigError {
                        stdout: format!(
                            "Unknown option, try '{program} --help' for more information.\n"
                        ),
                        ..ConfigError::new(program, text)
                    });
                }
                Found::Option(Id::Help, _) => return Ok(Some(Action::Help(show::help(program)))),
                Found::Option(Id::Version, _) => {
                    return Ok(Some(Action::Version(show::version() + "\n")));
                }
                Found::Option(Id::BlockRpcs | Id::AllowRpcs, Some(value))
                    if value == "help" || value == "?" =>
                {
                    return Ok(Some(Action::ListCommands));
                }
                Found::Option(Id::FsfreezeHook, None) => {
                    self.fsfreeze_hook = Some(file::first_existing(dirs, HOOK_FILE));
                }
                Found::Option(id, Some(value)) => {
                    if let (Err(why), Some(spec)) = (self.set_value(id, &value), options::by_id(id))
                    {
                        let value = keyfile::excerpt(&value.to_string_lossy());
                        self.warnings.push(format!("--{}={value} {why}", spec.long));
                    }
                }
                Found::Option(id, None) => self.set_switch(id, true),
            }
        }
        Ok(None)
    }
}

/// Adds a comma-separated list of patterns; blanks around a pattern are ignored.
fn add_patterns(list: &mut Vec<Pattern>, value: &str) -> Result<(), String> {
    let mut faults = Vec::new();
    for text in value.split(',').map(str::trim_ascii) {
        match Pattern::parse(text) {
            Ok(pattern) => list.push(pattern),
            // An empty list, or a comma at its end.
            Err(_) if text.is_empty() => {}
            Err(why) => faults.push(keyfile::excerpt(&why.to_string())),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("is partly ignored: {}", faults.join(", ")))
}

/// Sets a limit, to its default if the value is invalid: without a limit a freeze could last indefinitely.
fn set_limit(limit: &mut Option<Duration>, default: u64, value: &str) -> Result<(), String> {
    let parsed = keyfile::parse_time_limit(value);
    *limit = parsed.clone().unwrap_or(Some(Duration::from_secs(default)));
    parsed
        .map(drop)
        .map_err(|why| format!("{why}; using {default}"))
}

/// Why the agent cannot start with this configuration: what to print on which stream, line ends included. The exit
/// status is [`ConfigError::EXIT_STATUS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub(crate) stderr: String,
    /// Mostly empty.
    pub(crate) stdout: String,
}

impl ConfigError {
    pub(crate) const EXIT_STATUS: u8 = 1;

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

/// Reads the command line (`args`, the program's name first), the environment and the configuration file.
///
/// Call it before [`crate::sys::activation::receive`], which removes the variables that announce a socket.
///
/// # Errors
/// An option or the file cannot be understood, or a path is missing.
pub fn parse(
    args: &[OsString],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Action, ConfigError> {
    let mut action = parse_in(args, env, &CONF_DIRS.map(Path::new))?;
    if let Action::Run(config) | Action::DumpConf(config) = &mut action {
        config.apply_tools_conf();
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
    let dumps = found
        .iter()
        .any(|found| matches!(found, Found::Option(Id::DumpConf, _)));
    let mut config = Config::default();
    let file = file::choose(named_file(args), env("QGA_CONF").map(PathBuf::from), dirs);
    // Before the options, which are applied on top of it.
    file::load(&mut config, &file).map_err(|error| ConfigError::new(&program, error))?;
    if let Some(action) = config.apply_command_line(found, &program, dirs)? {
        return Ok(action);
    }
    // The variables decide here; the socket itself is received later.
    if is_activated(env) {
        config.path = None;
    } else if config.path.is_none() {
        let path = config.method.default_path().ok_or_else(|| {
            let text = match &config.method {
                // No path would make it work.
                Method::Unknown(name) => transport::unknown_method(name),
                method => format!(
                    "must specify a path for this channel: add -p PATH for the method '{}'",
                    method.name()
                ),
            };
            ConfigError::new(&program, text)
        })?;
        config.path = Some(path.to_owned());
    }
    Ok(if dumps {
        Action::DumpConf(config)
    } else {
        Action::Run(config)
    })
}

/// The configuration file that these arguments, without the program's name, ask for.
pub(crate) fn named_file(args: &[OsString]) -> Option<PathBuf> {
    let mut found = getopt::scan(args).into_iter().rev();
    found.find_map(|found| match found {
        Found::Option(Id::Config, path) => path.map(PathBuf::from),
        _ => None,
    })
}

/// Whether the environment says that the service manager passed sockets to this process (sd_listen_fds(3)): then a path
/// is neither needed nor used.
fn is_activated(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let number = |name| env(name).and_then(|value| value.to_str()?.parse::<u32>().ok());
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS").is_some_and(|n| n > 0)
}
