//! Any party of a freeze is killed or stopped at any moment: agent, guardian, hook masters, hooks, holder.
//!
//! `QGA_KILL_ROUNDS` says how often, `QGA_KILL_SEED` repeats the choices of a run, though not its timing.

use crate::hook_log::Rig;
use crate::soak::Dice;
use crate::support::{Agent, Disk, Place, in_namespace, is_ours, returned};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ROUNDS: u64 = 30;
const LIMIT: &str = "--fsfreeze-hold-limit=3";
/// The hold limit, one second, and the agent's precedence before the guardian.
const LONGEST_STALL: Duration = Duration::from_millis(4500);
/// How long the host waits for an answer: longer than the hold limit, a hook's limits and a stop take.
const HOST_TIMEOUT: Duration = Duration::from_secs(9);
/// When all processes of a round have ended.
const END_TIMEOUT: Duration = Duration::from_secs(15);

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";
const STATUS: &str = "guest-fsfreeze-status";

const HOOKS: [&str; 3] = ["10-a", "20-hold", "30-c"];
const PLAIN: &str = "\
me=${0##*/}
cd \"${0%/*}/../..\"
echo $me $1 begins >>calls
sleep 0.03
echo $me $1 ends >>calls";
const HOLDER: &str = "\
# qga-hook: type = hold
me=${0##*/}
cd \"${0%/*}/../..\"
echo $me freeze begins >>calls
echo $me freeze ends >>calls
echo ready >&3
read -r reason || reason=alone
echo $me thaw begins >>calls
echo $me thaw ends $reason >>calls";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Agent,
    Guardian,
    AgentAndGuardian,
    FreezeMaster,
    ThawMaster,
    Hook,
    HoldingHook,
    Holder,
}

const PARTIES: [Party; 8] = [
    Party::Agent,
    Party::Guardian,
    Party::AgentAndGuardian,
    Party::FreezeMaster,
    Party::ThawMaster,
    Party::Hook,
    Party::HoldingHook,
    Party::Holder,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    /// SIGCONT follows.
    Stop(Duration),
    /// Until the round ends.
    StopForGood,
}

/// What is done to whom, this long after it has been seen first.
#[derive(Clone, Copy, Debug)]
struct Plan {
    party: Party,
    blow: Blow,
    delay: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
struct Hit {
    when: Option<Instant>,
    pids: Vec<i32>,
}

fn millis(dice: &mut Dice, bound: u64) -> Duration {
    Duration::from_millis(dice.below(bound))
}

impl Plan {
    fn draw(dice: &mut Dice) -> Self {
        let party = PARTIES[usize::try_from(dice.below(8)).expect("small")];
        let is_master = matches!(party, Party::FreezeMaster | Party::ThawMaster);
        let blow = match dice.below(8) {
            // Nobody is left who could end a freeze.
            _ if party == Party::AgentAndGuardian => Blow::Kill,
            0..4 => Blow::Kill,
            // No limit of the agent ends a master of somebody else.
            7 if !is_master => Blow::StopForGood,
            _ => Blow::Stop(millis(dice, 1500)),
        };
        let bound = match party {
            Party::Agent | Party::Guardian | Party::AgentAndGuardian => 700_000,
            Party::Holder | Party::HoldingHook => 400_000,
            Party::FreezeMaster | Party::ThawMaster | Party::Hook => 120_000,
        };
        let delay = Duration::from_micros(dice.below(bound));
        Self { party, blow, delay }
    }

    /// Waits for the party and hits it, unless the round is over before.
    fn carry_out(self, place: &str, agent: i32, is_over: &AtomicBool) -> Hit {
        let find = || match self.party {
            Party::Agent => vec![agent],
            party => {
                let mut found = found(place, party);
                if party == Party::AgentAndGuardian && !found.is_empty() {
                    found.push(agent);
                }
                found
            }
        };
        while find().is_empty() {
            if is_over.load(Relaxed) {
                return Hit::default();
            }
            sleep(Duration::from_millis(1));
        }
        sleep(self.delay);
        let pids = find();
        let signal = match self.blow {
            Blow::Kill => Signal::SIGKILL,
            _ => Signal::SIGSTOP,
        };
        let when = (!pids.is_empty()).then(Instant::now);
        send(&pids, signal);
        if let Blow::Stop(time) = self.blow {
            sleep(time);
            send(&pids, Signal::SIGCONT);
        }
        Hit { when, pids }
    }
}

/// What is gone already needs no signal.
fn send(pids: &[i32], signal: Signal) {
    for &pid in pids {
        kill(Pid::from_raw(pid), signal).ok();
    }
}

/// Processes that an agent of `place` has started, with their command lines.
fn processes(place: &str) -> Vec<(i32, String)> {
    let own = format!("{place}no.conf");
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let read = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let is_own = |text: &[u8]| text == own.as_bytes();
        environment.windows(own.len()).find(|text| is_own(text))?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((pid, line))
    };
    entries.filter_map(read).collect()
}

fn found(place: &str, party: Party) -> Vec<i32> {
    let is_it = |line: &str| {
        let is_hook = |name: &str| line.starts_with("/bin/sh") && line.contains(name);
        match party {
            Party::Agent => false,
            Party::Guardian | Party::AgentAndGuardian => line.contains("guardian"),
            Party::FreezeMaster => line.contains("hook freeze"),
            Party::ThawMaster => line.contains("hook thaw"),
            Party::Hook => is_hook("/10-a") || is_hook("/30-c"),
            Party::HoldingHook => is_hook("/20-hold"),
            Party::Holder => line.contains("hook hold"),
        }
    };
    let all = processes(place).into_iter();
    let mut pids: Vec<i32> = all
        .filter(|(_, line)| is_it(line))
        .map(|(pid, _)| pid)
        .collect();
    if party == Party::Hook {
        pids.truncate(1);
    }
    pids
}

/// What the host got.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Reply(String),
    Closed,
    Silence,
}

fn ask(place: &Place, command: &str) -> Answer {
    let Ok(mut stream) = UnixStream::connect(place.path("sock")) else {
        return Answer::Closed;
    };
    stream.set_read_timeout(Some(HOST_TIMEOUT)).expect("limit");
    if writeln!(stream, "{{\"execute\":\"{command}\"}}").is_err() {
        return Answer::Closed;
    }
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) if line.ends_with('\n') => Answer::Reply(line.trim_end().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Answer::Silence,
        _ => Answer::Closed,
    }
}

/// Writes all the time, and measures how long a write takes.
struct Writer {
    ends: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn on(disk: &Disk) -> Self {
        let file = File::create(disk.path("written")).expect("file");
        let (ends, longest_ms) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, longest) = (ends.clone(), longest_ms.clone());
        let thread = thread::spawn(move || {
            while !stop.load(Relaxed) {
                let start = Instant::now();
                file.write_at(b"x", 0).expect("write");
                let took = start.elapsed().as_millis();
                longest.fetch_max(u64::try_from(took).expect("short"), Relaxed);
                sleep(Duration::from_millis(5));
            }
        });
        Self {
            ends,
            longest_ms,
            thread,
        }
    }

    fn end(self) {
        self.ends.store(true, Relaxed);
        self.thread.join().expect("writer");
    }
}

struct Game {
    rig: Rig,
    other: Disk,
    place: String,
    dice: Dice,
}

/// What a round found wrong.
type Faults = Vec<String>;

impl Game {
    fn agent(&self) -> Agent {
        let hook = format!("-F{}", self.rig.place.name("etc/fsfreeze-hook"));
        self.rig.place.agent(&[&hook, LIMIT])
    }

    fn round(&mut self, plan: Plan, faults: &mut Faults) -> Hit {
        fs::write(self.rig.place.path("calls"), "").expect("clear");
        let hold = match self.dice.below(8) {
            // Without agent and guardian nobody keeps the limit before the successor, which comes after this.
            0 if plan.party != Party::AgentAndGuardian => {
                Duration::from_millis(3000) + millis(&mut self.dice, 1000)
            }
            _ => millis(&mut self.dice, 300),
        };
        let delay = millis(&mut self.dice, 2) * 400 + millis(&mut self.dice, 20);
        let before = self.rig.place.newest_report();
        let writers = [Writer::on(&self.rig.disk), Writer::on(&self.other)];
        let mut agent = self.agent();
        let is_over = Arc::<AtomicBool>::default();
        let killer = {
            let (place, pid, is_over) = (self.place.clone(), agent.pid(), is_over.clone());
            thread::spawn(move || plan.carry_out(&place, pid, &is_over))
        };
        let freeze = ask(&self.rig.place, FREEZE);
        if matches!(&freeze, Answer::Reply(text) if text.contains("return")) {
            sleep(hold);
        }
        let thaw_asked = Instant::now();
        let mut answers = vec![freeze];
        for _ in 0..8 {
            match answers.last() {
                Some(Answer::Reply(text)) if answers.len() > 1 && text.contains("return") => break,
                Some(Answer::Silence) if plan.party == Party::Agent => {
                    agent.signal(Signal::SIGKILL)
                }
                Some(Answer::Silence) => faults.push("the host got no answer".into()),
                Some(Answer::Closed) => sleep(Duration::from_millis(50)),
                _ => {}
            }
            sleep(Duration::from_millis(10));
            if agent.child.try_wait().expect("wait").is_some() {
                sleep(delay);
                agent = self.agent();
                answers.push(ask(&self.rig.place, STATUS));
            }
            answers.push(ask(&self.rig.place, THAW));
        }
        is_over.store(true, Relaxed);
        let hit = killer.join().expect("killer");
        // It may have been the last thing of the round.
        sleep(Duration::from_millis(10));
        if plan.blow == Blow::StopForGood {
            let signal = match plan.party {
                Party::Agent => Signal::SIGKILL,
                _ => Signal::SIGCONT,
            };
            send(&hit.pids, signal);
            sleep(Duration::from_millis(10));
        }
        self.settle(agent, faults);
        let early = |answer: &Answer| matches!(answer, Answer::Reply(text) if text.contains("error") && text.contains("thawed"));
        let is_early = answers.iter().skip(1).any(early);
        let was_lost = |when: Instant| when + Duration::from_millis(50) < thaw_asked;
        let loses = matches!(plan.party, Party::Holder | Party::HoldingHook);
        let is_lost = loses && plan.blow == Blow::Kill && hit.when.is_some_and(was_lost);
        for (writer, disk) in writers.into_iter().zip([&self.rig.disk, &self.other]) {
            // The cheap way to ask: FITHAW of what is not frozen fails.
            if disk.thaw().is_ok() {
                faults.push(format!("{} stays frozen", disk.mountpoint()));
            }
            let longest = Duration::from_millis(writer.longest_ms.load(Relaxed));
            if longest > LONGEST_STALL {
                faults.push(format!("{} was frozen for {longest:?}", disk.mountpoint()));
            }
            writer.end();
        }
        let report = self.rig.place.newest_report();
        let report = report.filter(|new| before.is_none_or(|old| old["id"] != new["id"]));
        let level = report.as_ref().map(|report| report["level"].clone());
        self.judge(plan, &hit, level.as_ref(), is_early || is_lost, faults);
        if !faults.is_empty() {
            faults.push(format!(
                "answers {answers:?}, hold {hold:?}, delay {delay:?}"
            ));
            faults.push(format!(
                "level {level:?}, calls:\n{}",
                self.rig.place.read("calls")
            ));
            faults.push(self.rig.place.read("log"));
            faults.push(fs::read_to_string("/var/log/qga-fsfreeze-hook.log").unwrap_or_default());
            faults.push(report.map_or_else(String::new, |report| report["hooks"].to_string()));
        }
        fs::remove_file(self.rig.place.path("log")).ok();
        fs::remove_file("/var/log/qga-fsfreeze-hook.log").ok();
        hit
    }

    /// All ends by itself.
    fn settle(&self, mut agent: Agent, faults: &mut Faults) {
        let start = Instant::now();
        loop {
            let status = ask(&self.rig.place, STATUS);
            if status == Answer::Reply(returned("\"thawed\"")) {
                break;
            }
            if agent.child.try_wait().expect("wait").is_some() {
                agent = self.agent();
            }
            if start.elapsed() > END_TIMEOUT {
                faults.push(format!("status {status:?}"));
                break;
            }
            sleep(Duration::from_millis(20));
        }
        // Whoever ends what is left of hooks.
        while self.is_busy() && start.elapsed() < END_TIMEOUT {
            sleep(Duration::from_millis(20));
        }
        agent.signal(Signal::SIGTERM);
        let mut left = processes(&self.place);
        while !left.is_empty() && start.elapsed() < END_TIMEOUT {
            sleep(Duration::from_millis(10));
            left = processes(&self.place);
        }
        if !left.is_empty() {
            faults.push(format!("processes are left: {left:?}"));
            let pids: Vec<i32> = left.into_iter().map(|(pid, _)| pid).collect();
            send(&pids, Signal::SIGKILL);
            sleep(Duration::from_millis(100));
        }
        for name in ["state/qga.state.isfrozen", "state/qga.hooks"] {
            let path = self.rig.place.path(name);
            // A journal of no hook is that of a master that found its agent dead.
            let is_due = !name.ends_with("hooks") || self.rig.place.read(name).contains("started");
            if fs::symlink_metadata(&path).is_ok() && is_due {
                faults.push(format!("{name} is left: {}", self.rig.place.read(name)));
            }
            fs::remove_file(path).ok();
        }
        let held = fs::read_dir(self.rig.place.path("state")).expect("state");
        for entry in held.flatten() {
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("qga.hooks."))
            {
                // The socket of a holder that was killed stays.
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    /// Whether anybody beside the agent is at work.
    fn is_busy(&self) -> bool {
        processes(&self.place).len() > 1
    }

    fn judge(
        &self,
        plan: Plan,
        hit: &Hit,
        level: Option<&serde_json::Value>,
        is_lowered: bool,
        faults: &mut Faults,
    ) {
        let calls = self.rig.place.read("calls");
        let was_hit = hit.when.is_some();
        let mut is_lowered = is_lowered;
        for name in HOOKS {
            let own: Vec<&str> = calls
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .collect();
            let count = |what: &str| own.iter().filter(|call| call.starts_with(what)).count();
            let [begun, ended] = ["freeze begins", "freeze ends"].map(count);
            let [thaws, thawed] = ["thaw begins", "thaw ends"].map(count);
            is_lowered |= begun > ended;
            let is_victim = was_hit
                && match plan.party {
                    Party::Hook => name != "20-hold",
                    Party::HoldingHook => name == "20-hold",
                    // Its hook cannot be told.
                    Party::Holder => name == "20-hold" && plan.blow != Blow::Kill,
                    _ => false,
                };
            // What ends in the moment in which its master is killed is told once more.
            let most = 1 + usize::from(was_hit && plan.party == Party::ThawMaster);
            let is_paired = match begun {
                // One that was killed before its first line is told to thaw, too.
                0 => thawed <= most,
                1 if is_victim && thawed == 0 => thaws >= 1 || name == "20-hold",
                1 => (1..=most).contains(&thawed),
                _ => false,
            };
            if !is_paired {
                faults.push(format!(
                    "{name}: {begun} freezes, {thaws} thaws, {thawed} whole"
                ));
            }
            let first_thaw = own.iter().position(|call| call.starts_with("thaw"));
            let last_freeze = own.iter().rposition(|call| call.starts_with("freeze"));
            if first_thaw.is_some_and(|first| last_freeze > Some(first)) {
                faults.push(format!("{name}: thaws before its freeze ended"));
            }
        }
        if is_lowered && level.is_some_and(|level| level == "application") {
            faults.push("the report says application".into());
        }
    }
}

#[test]
fn whoever_is_killed_or_stopped_at_any_moment_all_is_undone() {
    if !is_ours() {
        return; // it has no guardian
    }
    in_namespace(|| {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let rounds = number("QGA_KILL_ROUNDS").unwrap_or(ROUNDS);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = u64::from(now.expect("a clock").subsec_nanos());
        let seed = number("QGA_KILL_SEED").unwrap_or(now);
        // Shown if the test fails.
        println!("seed {seed}");
        let rig = Rig::new();
        let other = Disk::ext4(&rig.place.path("n"));
        rig.hook(HOOKS[0], PLAIN);
        rig.hook(HOOKS[1], HOLDER);
        rig.hook(HOOKS[2], PLAIN);
        let conf = rig.place.path("etc/fsfreeze-hook.conf");
        fs::write(conf, "[hooks]\ntimeout=2\nkill-after=1\n").expect("conf");
        let place = rig.place.name("");
        let mut game = Game {
            rig,
            other,
            place,
            dice: Dice(seed),
        };
        let (mut wrong, mut hits) = (0, [0; PARTIES.len()]);
        for round in 0..rounds {
            let plan = Plan::draw(&mut game.dice);
            let mut faults = Faults::new();
            let hit = game.round(plan, &mut faults);
            let index = PARTIES.iter().position(|&party| party == plan.party);
            hits[index.expect("listed")] += u32::from(hit.when.is_some());
            if !faults.is_empty() {
                wrong += 1;
                println!("round {round}, {plan:?}, {hit:?}: {}", faults.join("\n"));
            }
        }
        println!("{rounds} rounds; hit {PARTIES:?}: {hits:?}; {wrong} went wrong");
        assert_eq!(wrong, 0, "seed {seed}");
    });
}
