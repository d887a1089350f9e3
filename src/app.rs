//! Floor 6: wiring. From the command line to a running agent, in the documented order: options, socket activation,
//! marker, log, state, channel, daemon, service.

use crate::agent::{self, Session, confinement, pidfile::PidFile};
use crate::child::launcher::{self, Permissions};
use crate::cli::MISTAKE_STATUS;
use crate::commands::authentication::{self, AccessToken, Authentication};
use crate::commands::profile::Profile;
use crate::commands::{self, Context, access, exec::Children, file::Files};
use crate::config::{self, Action, Config, ConfigError, Method};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::freeze::Freezer;
use crate::freeze::engine::Engine;
use crate::freeze::guardian;
use crate::freeze::linux::LinuxOps;
use crate::freeze::restored::{self, StartCheck};
use crate::freeze::snapshot::SnapshotFile;
use crate::hooks::{self, restore::RESTORED};
use crate::ipc::Connection;
use crate::logging::{self, LogError, LogOptions};
use crate::probe::System;
use crate::state::StateDir;
use crate::state::writer::{self, WritableFiles};
use crate::sys::activation::{self, Activated};
use crate::sys::daemon::{self, Side};
use crate::sys::journal;
use crate::sys::syslog::{Severity, Syslog};
use crate::sys::{fds, localtime, memory, process, strerror};
use crate::tools::{self, args::Tool};
use crate::transport::{Address, ChannelError, Endpoint, VsockAccess};
use nix::fcntl::Flock;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The tools: a word as the first argument makes the program one of them instead of the agent.
pub static TOOLS: [Tool; 9] = [
    tools::plan::TOOL,
    tools::check::TOOL,
    tools::report::TOOL,
    tools::log::TOOL,
    tools::status::TOOL,
    tools::thaw::TOOL,
    tools::inspect::TOOL,
    tools::hook::TOOL,
    tools::selftest::TOOL,
];

/// Runs the program and returns its exit status.
pub fn main() -> u8 {
    abort_on_panic();
    localtime::apply_tzdir();
    let args: Vec<OsString> = std::env::args_os().collect();
    let words = args.get(1..).unwrap_or_default();
    match words.first().and_then(|word| word.to_str()) {
        Some("guardian") => return guardian::server::cli(),
        Some(launcher::WORD) => return launcher::cli(write_files),
        Some("help") => return help(&args),
        Some("hook") => {
            if words.get(1).is_some_and(|word| word == RESTORED) {
                return restored::cli(&words[2..]);
            }
            if let Some(status) = hooks::helper(&words[1..]) {
                return status;
            }
        }
        _ => {}
    }
    if let Some((tool, rest)) = tools::args::find(&TOOLS, words) {
        return tool.run_cli(rest);
    }
    // A mistyped tool must not start an agent, which as root would take the host's channel. Later operands are ignored as
    // the original ignores them: `-F PATH`, for one.
    if let Some(word) = words
        .first()
        .filter(|word| !word.is_empty() && !word.as_bytes().starts_with(b"-"))
    {
        return unknown_command(&word.to_string_lossy());
    }
    match config::parse(&args, &|name| std::env::var_os(name)) {
        Ok(action) => act(action),
        Err(error) => {
            print(&mut io::stderr(), &error.stderr);
            print(&mut io::stdout(), &error.stdout);
            ConfigError::EXIT_STATUS
        }
    }
}

fn help(args: &[OsString]) -> u8 {
    let mut words = args[2..].to_vec();
    words.retain(|word| word != "--help" && word != "-h");
    match tools::args::help_of(&TOOLS, &words) {
        Ok(Some(text)) => print(&mut io::stdout(), &text),
        Ok(None) => act(Action::Help(config::help(&args[0].to_string_lossy()))),
        Err(mistake) => {
            print(
                &mut io::stderr(),
                &format!("qemu-ga help: {mistake}; run \"qemu-ga help\" for a list of the tools\n"),
            );
            MISTAKE_STATUS
        }
    }
}

fn unknown_command(word: &str) -> u8 {
    let remedy = did_you_mean(word, TOOLS.iter().map(Tool::word).chain(["help"]))
        .unwrap_or_else(|| "run \"qemu-ga --help\" for a list".into());
    complain(&format_args!("unknown command '{word}'; {remedy}"));
    MISTAKE_STATUS
}

/// A panic must end a debug build as it ends a release build, whose profile has `panic = "abort"`.
fn abort_on_panic() {
    if cfg!(debug_assertions) {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            tell(info);
            std::process::abort();
        }));
    }
}

fn act(action: Action) -> u8 {
    match action {
        Action::Help(text) => {
            let tools = tools::args::summaries(&TOOLS);
            print(&mut io::stdout(), &format!("{text}\n{tools}"))
        }
        Action::Version(text) => print(&mut io::stdout(), &text),
        Action::ListCommands => {
            let names: String = commands::all()
                .iter()
                .map(|c| format!("{}\n", c.name))
                .collect();
            print(&mut io::stdout(), &names)
        }
        Action::DumpConf(mut config) => match activation::receive() {
            Ok(activated) => {
                log_activation(&mut config, activated.as_ref());
                for warning in &config.warnings {
                    print(&mut io::stderr(), &format!("qemu-ga: {warning}\n"));
                }
                u8::from(io::stdout().write_all(&config.dump()).is_err())
            }
            Err(error) => complain(&error),
        },
        Action::Run(config) => match activation::receive() {
            Ok(activated) => run(config, activated),
            Err(error) => complain(&error),
        },
    }
}

/// Returns 1 if the text cannot be written: there is nowhere else to report that.
fn print(stream: &mut dyn Write, text: &str) -> u8 {
    u8::from(stream.write_all(text.as_bytes()).is_err())
}

fn complain(error: &dyn std::fmt::Display) -> u8 {
    print(&mut io::stderr(), &format!("qemu-ga: {error}\n"));
    1
}

fn log_activation(config: &mut Config, activated: Option<&Activated>) {
    match activated {
        Some(Activated::Unix(_)) => config.use_activated_socket(Method::UnixListen),
        Some(Activated::Vsock(_)) => config.use_activated_socket(Method::VsockListen),
        None => {}
    }
}

fn run(mut config: Config, activated: Option<Activated>) -> u8 {
    log_activation(&mut config, activated.as_ref());
    let state = StateDir::new(&config.statedir);
    let inherited = match state.is_marked_frozen() {
        Ok(inherited) => inherited,
        Err(error) => return complain(&error),
    };
    if let Err(error) = open_log(&config, inherited) {
        return complain(&error);
    }
    if inherited {
        // The log holds its lines back already; a person at the console must see why.
        complain(&format_args!(
            "an earlier instance left filesystems frozen ({} exists): only the freeze family, \
             guest-sync, guest-ping and guest-info answer until guest-fsfreeze-thaw",
            state.marker().display()
        ));
    } else if let Err(error) = state.prepare() {
        return fail_start(&error);
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for unknown in access::unknown_names("allow-rpcs", config.allow_rpcs.names()) {
        tracing::warn!("{unknown}");
    }
    // The command that was meant would stay allowed.
    if let Some(unknown) = access::unknown_names("block-rpcs", config.block_rpcs.names()).first() {
        return fail_start(unknown);
    }
    let profile = match Profile::find(&config.profile, &System::host()) {
        Ok(profile) => profile,
        Err(unknown) => return fail_start(&unknown),
    };
    let token = match access_token(&config, activated.as_ref()) {
        Ok(token) => token,
        Err(error) => return fail_start(&error),
    };
    // Before the channel, which a second agent would take from the first.
    match state.lock() {
        Ok(lock) => {
            let snapshot = config.snapshot_file.clone().map(SnapshotFile::from);
            let prepared = Prepared {
                config,
                profile,
                token,
                state,
                snapshot,
                inherited,
            };
            serve(prepared, lock, activated)
        }
        Err(error) if inherited => complain(&error),
        Err(error) => fail_start(&error),
    }
}

fn open_log(config: &Config, inherited: bool) -> Result<(), LogError> {
    let mut syslog = Syslog::connect("qemu-ga");
    logging::init(LogOptions {
        logfile: config.logfile.clone(),
        verbose: config.verbose,
        frozen: inherited,
        audit: Some(Box::new(move |when, text| {
            syslog.send_at(when, Severity::Info, text)
        })),
        journal: Some(Box::new(|priority, when, text, fields| {
            journal::send("qemu-ga", priority, when, text, fields)
        })),
    })
}

fn access_token(
    config: &Config,
    activated: Option<&Activated>,
) -> Result<Option<AccessToken>, Diagnostic> {
    let Some(file) = &config.vsock_token_file else {
        return Ok(None);
    };
    let on_vsock = match activated {
        Some(activated) => matches!(activated, Activated::Vsock(_)),
        None => config.method == Method::VsockListen,
    };
    if on_vsock {
        return AccessToken::read(file).map(Some);
    }
    tracing::warn!("{}", authentication::token_without_vsock());
    Ok(None)
}

fn fail_start(error: &dyn std::fmt::Display) -> u8 {
    tracing::error!("{error}");
    tracing::error!("error initializing guest agent");
    1
}

/// What an agent starts with.
struct Prepared {
    config: Config,
    profile: Profile,
    token: Option<AccessToken>,
    state: StateDir,
    snapshot: Option<SnapshotFile>,
    /// An earlier agent has left filesystems frozen.
    inherited: bool,
}

fn serve(prepared: Prepared, mut lock: Option<Flock<File>>, activated: Option<Activated>) -> u8 {
    let Prepared {
        config,
        state,
        inherited,
        ..
    } = &prepared;
    memory::share_heap();
    if let Err(error) = fds::raise_limit() {
        tracing::debug!("the limit of open files stays: {}", strerror(&error));
    }
    let signals = process::restore_signals().and_then(|()| agent::block_signals());
    if let Err(error) = signals {
        return fail_start(&format_args!("cannot hold back signals: {error}"));
    }
    let first = match open_channel(config, activated) {
        Ok(first) => first,
        Err(status) => return status,
    };
    let mut pidfile = None;
    if config.daemon {
        // A lock goes by the name of the process that took it.
        drop(lock.take());
        match daemon::fork_daemon() {
            Ok(Side::Parent) => return 0,
            Ok(Side::Child) => {}
            Err(error) => return fail_start(&format_args!("cannot fork: {error}")),
        }
        match state.lock() {
            Ok(taken) => lock = taken,
            Err(error) => return fail_start(&error),
        }
        if let Err(text) = become_daemon(config, *inherited, &mut pidfile) {
            return fail_start(&text);
        }
    }
    if prepared.profile.is_confined() {
        if let Err(error) = confine(&prepared) {
            return fail_start(&error);
        }
    }
    let reopen = config.retry_path.then(|| {
        let config = config.clone();
        move || Endpoint::open(address(&config, None))
    });
    let deferred_pidfile = (config.daemon && *inherited).then(|| config.pidfile.clone());
    let session = session(prepared);
    let ended = serve_forever(session, first, reopen, deferred_pidfile);
    drop(lock);
    match ended {
        Ok(()) => 0,
        Err(error) => fail_start(&format_args!("{error:#}")),
    }
}

/// Starts the launcher, and gives up what the profile `backup` does not need.
fn confine(prepared: &Prepared) -> Result<(), String> {
    let Prepared { config, state, .. } = prepared;
    // The hook master of a freeze that an earlier agent left is not always the configured one.
    let inherited = state.read_marker().and_then(|marker| marker.hook);
    let hooks: Vec<PathBuf> = config
        .hook()
        .map(Into::into)
        .into_iter()
        .chain(inherited)
        .collect();
    start_launcher(prepared, hooks).map_err(|error| {
        let why = strerror(&error);
        format!("cannot start the launcher of hooks and guardian: {why}")
    })?;
    let is_socket = config.method == Method::UnixListen;
    let made = [
        config.snapshot_file.as_deref(),
        // A socket that is opened again replaces the one before.
        config
            .path
            .as_deref()
            .filter(|_| is_socket && config.retry_path),
    ];
    let own = confinement::OwnFiles {
        directories: made
            .into_iter()
            .filter_map(|path| Some(path?.parent()?.to_owned()))
            .collect(),
        files: config
            .logfile
            .iter()
            .chain(config.path.iter().filter(|_| config.retry_path))
            .cloned()
            .collect(),
        readable: state.path().to_owned(),
    };
    for warning in confinement::confine(&own) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn start_launcher(prepared: &Prepared, hooks: Vec<PathBuf>) -> io::Result<()> {
    let Prepared {
        config,
        state,
        snapshot,
        ..
    } = prepared;
    let restored = snapshot.as_ref();
    let restored = restored.map(|file| restored::arguments(file, config.restore_hooks.as_deref()));
    let statedir = state.path().to_owned();
    let limits = guardian::limits::Limits {
        hooks: hooks.clone(),
        statedir: statedir.clone(),
        snapshot: config.snapshot_file.clone(),
    };
    let permissions = Permissions {
        hooks: hooks.clone(),
        restored,
        env: hooks::invoke::fixed_environment(state.path()),
        guardian_env: limits.to_env()?,
    };
    let (ours, theirs) = UnixStream::pair()?;
    launcher::start(&permissions, theirs)?;
    let files = WritableFiles {
        statedir,
        hooks,
        pidfile: config.daemon.then(|| config.pidfile.clone()),
    };
    writer::start(ours, &files)
}

/// In the launcher.
fn write_files(agent: Connection) {
    let mut syslog = Syslog::connect("qemu-ga");
    let mut log = |why: &str| {
        syslog
            .send(Severity::Warning, &format!("warning: {why}"))
            .ok();
    };
    // An agent that has ended needs nothing more.
    writer::serve(agent, &mut log).ok();
}

/// Opens the channel. `None`: it is opened later; the error is the exit status.
fn open_channel(config: &Config, activated: Option<Activated>) -> Result<Option<Endpoint>, u8> {
    match Endpoint::open(address(config, activated)) {
        Ok(endpoint) => Ok(Some(endpoint)),
        Err(error) if config.retry_path => {
            tracing::warn!("{error}");
            Ok(None)
        }
        Err(error) => {
            tracing::error!("{error}");
            tracing::error!("failed to create guest agent channel");
            tracing::error!("failed to initialize guest agent channel");
            tracing::error!("error initializing guest agent");
            Err(1)
        }
    }
}

fn session(prepared: Prepared) -> Session {
    let Prepared {
        config,
        profile,
        token,
        state,
        snapshot,
        inherited,
    } = prepared;
    let allow = config.allow_rpcs.names().map(str::to_owned).collect();
    let block = config.block_rpcs.names().map(str::to_owned).collect();
    let hook = config.hook().map(ToOwned::to_owned);
    let (policy, limits) = (config.policy, config.limits);
    let files = Files::new(state.clone());
    let ops = LinuxOps::new(
        state,
        hook,
        snapshot.clone(),
        limits.step,
        policy.normal_rcu,
    );
    let freezer = Freezer::new(Engine::new(ops, inherited, policy, limits));
    // While a freeze of an earlier agent goes on, hooks that write would block.
    let check = snapshot.clone().filter(|_| !freezer.is_frozen());
    let check = check.and_then(|file| StartCheck::new(file, config.restore_hooks.clone()));
    let context = Context {
        freezer,
        snapshot,
        policy: access::AccessPolicy::new(profile, allow, block),
        authentication: Authentication::with(token),
        files,
        children: Children::default(),
    };
    Session::new(context, check)
}

fn serve_forever(
    mut session: Session,
    first: Option<Endpoint>,
    reopen: Option<impl Fn() -> Result<Endpoint, ChannelError>>,
    deferred_pidfile: Option<PathBuf>,
) -> anyhow::Result<()> {
    let freezer = session.context().freezer.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tracing::debug!(
        "guest agent {} started, protocol {}",
        crate::version::AGENT_VERSION,
        crate::version::PROTOCOL_VERSION
    );
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = agent::run(session, first, reopen) => ended,
            never = hold_pidfile_after_thaw(freezer.clone(), deferred_pidfile) => match never {},
        }
    });
    freezer.update_status();
    confinement::log_refused();
    ended
}

/// Makes the pid file of an agent that started frozen, and holds it until dropped.
async fn hold_pidfile_after_thaw(freezer: Freezer, path: Option<PathBuf>) -> Infallible {
    let mut held = None;
    if let Some(path) = path {
        freezer.thawed().await;
        match PidFile::create(&path) {
            Ok(pidfile) => held = Some(pidfile),
            Err(error) => tracing::error!("{error}"),
        }
    }
    let never = std::future::pending().await;
    drop(held);
    never
}

/// An agent that starts frozen writes its pid file after the thaw: the directory may be frozen.
fn become_daemon(
    config: &Config,
    inherited: bool,
    pidfile: &mut Option<PidFile>,
) -> Result<(), String> {
    if !inherited {
        *pidfile = Some(PidFile::create(&config.pidfile).map_err(|e| e.to_string())?);
    }
    daemon::detach().map_err(|e| format!("cannot become a daemon: {}", strerror(&e)))
}

fn address(config: &Config, activated: Option<Activated>) -> Address {
    let access = VsockAccess {
        cids: config.vsock_allow_cid.clone(),
        authenticate: config.vsock_token_file.is_some(),
    };
    if let Some(activated) = activated {
        return Address::Activated(activated, access);
    }
    let path = config.path.clone().unwrap_or_default();
    match &config.method {
        Method::VirtioSerial => Address::Virtio(path),
        Method::IsaSerial => Address::Serial(path),
        Method::UnixListen => Address::Unix(path),
        Method::VsockListen => Address::Vsock(path.to_string_lossy().into_owned(), access),
        Method::Unknown(name) => Address::Unknown(name.clone()),
    }
}
