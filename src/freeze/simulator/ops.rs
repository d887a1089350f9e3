//! The engine's operations, one step each.

use super::*;
use crate::freeze::report::FilesystemRecord;
use crate::probe::mountinfo::DeviceNumber;

impl FilesystemOps for Simulator {
    type Handle = usize;

    fn survey(&mut self) -> io::Result<Survey> {
        self.step("survey".into(), survey_of)
    }

    fn survey_again(&mut self) -> io::Result<Option<Survey>> {
        self.step("survey again".into(), |world| {
            world.mounted_by_hooks.take().map(|mountpoint| {
                world.mountpoints.push(mountpoint);
                world.frozen.push(false);
                survey_of(world)
            })
        })
    }

    fn open(&mut self, targets: &[Target]) -> Vec<Result<usize, OpenError>> {
        let open = |target: &Target| {
            let name = target.filesystem.name();
            let index = target.filesystem.minor as usize;
            let opened = self.step(format!("open {name}"), |_| index);
            opened.map_err(OpenError::Failed)
        };
        targets.iter().map(open).collect()
    }

    fn dirty_bytes(&mut self) -> Option<u64> {
        let mut world = self.0.borrow_mut();
        if world.dirty.len() > 1 {
            return world.dirty.remove(0);
        }
        world.dirty.first().copied().unwrap_or(Some(0))
    }

    fn flush(&mut self, handles: &[&usize], commits_first: bool) -> Vec<io::Result<()>> {
        let commit = if commits_first { " with a commit" } else { "" };
        let each = |&&index: &&usize| self.step(format!("flush {index}{commit}"), |_| ());
        handles.iter().map(each).collect()
    }

    fn freeze(&mut self, handles: &[&usize]) -> Vec<Option<Timed>> {
        assert!(handles.len() <= self.0.borrow().at_once, "too many at once");
        let done = self.in_parallel("freeze", handles, |world, index| {
            assert!(
                world.in_frozen_section,
                "log lines are not held during a freeze"
            );
            assert!(!world.blocked.contains(&index) && !world.frozen[index]);
            for &(above, below) in &world.under {
                assert!(
                    above != index || !world.frozen[below],
                    "frozen after what it depends on"
                );
            }
            if world.waits_for_frozen(index) {
                world.blocked.push(index);
            } else {
                world.frozen[index] = true;
            }
            Ok(())
        });
        let mut world = self.0.borrow_mut();
        let mut results = Vec::new();
        world.late = Vec::new();
        for (result, &&index) in done.into_iter().zip(handles) {
            let is_blocked = world.blocked.contains(&index);
            results.push((!is_blocked).then(|| timed(result)));
            world.late.extend(is_blocked.then_some(index));
        }
        results
    }

    fn wait_for_freeze(&mut self, wait: FreezeWait) -> Vec<Option<Timed>> {
        let is_last = wait != FreezeWait::Delay;
        let mut world = self.0.borrow_mut();
        let mut results = Vec::new();
        for index in std::mem::take(&mut world.late) {
            let is_blocked = world.blocked.contains(&index);
            if is_blocked && !is_last {
                world.late.push(index);
                results.push(None);
                continue;
            }
            // Given up. The real pool thaws at once what the call freezes later; here the call freezes nothing.
            world.blocked.retain(|&blocked| blocked != index);
            let overdue = Err(io::ErrorKind::TimedOut.into());
            results.push(Some(timed(if is_blocked { overdue } else { Ok(()) })));
        }
        results
    }

    fn thaw(&mut self, handles: &[&usize]) -> Vec<Timed> {
        let done = self.in_parallel("thaw", handles, |world, index| {
            if std::mem::take(&mut world.frozen[index]) {
                world.resume_blocked();
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
        });
        done.into_iter().map(timed).collect()
    }

    fn is_any_frozen(&mut self, handles: &[&usize]) -> bool {
        let world = self.0.borrow();
        handles.iter().any(|&&index| world.frozen[index])
    }

    fn expedite_rcu(&mut self) {
        if self.0.borrow().guardian.is_some() {
            self.step("expedite".into(), |world| world.rcu_expedited = true)
                .ok();
        }
    }

    fn restore_rcu(&mut self) -> io::Result<()> {
        if !self.0.borrow().rcu_expedited {
            return Ok(());
        }
        self.step("restore".into(), |world| world.rcu_expedited = false)
    }
}

impl HookOps for Simulator {
    fn call_hooks(
        &mut self,
        phase: Phase,
        reason: Option<ThawReason>,
        _: &RunInfo,
    ) -> Option<MasterReport> {
        if !self.0.borrow().has_hook {
            return None;
        }
        assert_eq!(reason.is_some(), phase == Phase::Thaw);
        let count = |world: &mut World| match phase {
            Phase::Freeze => {
                world.freeze_hooks += 1;
                world.apply_guardian_event(Event::Request(Request::HooksCalled));
            }
            Phase::Thaw => {
                world.thaw_hooks += 1;
                world.apply_guardian_event(Event::Request(Request::HooksThawed));
            }
        };
        self.leave_frozen_section();
        let result = self.step(format!("hooks {}", phase.as_str()), |world| {
            assert!(
                !world.frozen.contains(&true),
                "hooks run while something is frozen"
            );
            count(world);
        });
        if result.is_err() {
            // The master ran, and failed.
            count(&mut self.0.borrow_mut());
        }
        let failure = result.err().map(|error| error.to_string());
        Some(MasterReport {
            failure,
            hooks: vec![HookRecord::new("/h".into(), phase, HookStatus::Exited(0))],
            elapsed: Duration::ZERO,
            leaves_filesystems: self.0.borrow().leaves_filesystems,
            is_ours: true,
        })
    }

    fn use_hook(&mut self, _: Option<PathBuf>) {}

    fn has_journal(&self) -> bool {
        false
    }
}

impl GuardianOps for Simulator {
    fn start_guardian(&mut self, _: &str) -> io::Result<()> {
        self.step("guard".into(), |world| {
            world.guardian = Some(GuardianState::default());
            world.entrusted = Vec::new();
        })
    }

    fn wait_for_guardian(&mut self) -> io::Result<()> {
        if self.0.borrow().guardian.is_none() {
            return Ok(());
        }
        let ready = self.step("await guardian".into(), |_| ());
        if ready.is_err() {
            self.0.borrow_mut().guardian = None;
        }
        ready
    }

    fn entrust(
        &mut self,
        held: &[HeldFilesystem<'_, usize>],
        _: Option<Duration>,
    ) -> io::Result<()> {
        if self.0.borrow().guardian.is_none() {
            return Err(io::Error::other("there is none"));
        }
        let entrusted = self.step("entrust".into(), |world| {
            world.entrusted = held.iter().map(|held| *held.1).collect();
        });
        if entrusted.is_err() {
            self.0.borrow_mut().guardian = None;
        }
        entrusted
    }

    fn replace_guardian(
        &mut self,
        run: &str,
        held: &[HeldFilesystem<'_, usize>],
        limit: Option<Duration>,
        _: Option<Duration>,
    ) -> io::Result<()> {
        self.start_guardian(run)?;
        self.wait_for_guardian()?;
        self.send_to_guardian(Request::HooksCalled);
        self.entrust(held, limit)
    }

    fn send_to_guardian(&mut self, request: Request) {
        if self.0.borrow().guardian.is_none() {
            return;
        }
        let name = match &request {
            Request::Frozen { .. } => "tell Frozen".into(),
            other => format!("tell {other:?}"),
        };
        let sent = self.step(name, |world| {
            world.apply_guardian_event(Event::Request(request));
        });
        if sent.is_err() {
            self.0.borrow_mut().guardian = None;
        }
    }

    fn poll_guardian(&mut self) -> GuardianNews {
        match self.0.borrow_mut().ended.take() {
            Some(expiry) => GuardianNews::Ended(expiry),
            None => GuardianNews::Nothing,
        }
    }

    fn is_undecided(&self) -> bool {
        true
    }

    fn claim(&mut self, _: bool) -> Claim {
        if let Some(expiry) = self.0.borrow_mut().ended.take() {
            return Claim::Ended(expiry);
        }
        self.send_to_guardian(Request::Claim);
        Claim::Ours(None)
    }

    fn disconnect_guardian(&mut self) {}

    fn release_guardian(&mut self) {
        self.send_to_guardian(Request::Done);
        self.0.borrow_mut().guardian = None;
    }

    fn dismiss_guardian(&mut self) {
        self.send_to_guardian(Request::Done);
        self.0.borrow_mut().guardian = None;
    }

    fn find_guardian(&mut self) -> bool {
        false
    }

    fn legacy(&mut self, _: bool) -> Legacy<usize> {
        let mut world = self.0.borrow_mut();
        if let Some(expiry) = world.ended.take() {
            return Legacy::Ended(expiry);
        }
        match (&world.guardian, &world.reported) {
            (Some(_), Some(report)) => {
                let entrusted = |&number: &usize| Entrusted {
                    number,
                    mountpoint: world.mountpoints[number].to_owned(),
                };
                let inherited = Inherited {
                    version: PROTOCOL_VERSION,
                    filesystems: world.entrusted.iter().map(entrusted).collect(),
                    hook: None,
                    socket_path: SocketPath::default(),
                    report: Box::new(report.clone()),
                    since_ms: 0,
                    left_ms: None,
                };
                Legacy::Freeze(Box::new(inherited), world.entrusted.clone())
            }
            (Some(_), None) => Legacy::Unknown,
            (None, _) => Legacy::Unguarded(world.marker.then(Marker::default)),
        }
    }
}

impl StateOps for Simulator {
    fn mark_frozen(&mut self, _: Marker) -> Result<(), StateError> {
        self.step("mark".into(), |world| world.marker = true)
            .map_err(state_error)
    }

    fn mark_thawed(&mut self) -> Result<bool, StateError> {
        self.step("unmark".into(), |world| std::mem::take(&mut world.marker))
            .map_err(state_error)
    }

    fn mark_expired(&mut self, expiry: &Expiry) -> Result<(), StateError> {
        let expiry = expiry.clone();
        self.step("mark expired".into(), |world| world.expired = Some(expiry))
            .map_err(state_error)
    }

    fn take_expired(&mut self) -> Option<Expiry> {
        let mut world = self.0.borrow_mut();
        let expired = world.expired.clone();
        if !world.keeps_expired {
            world.expired = None;
        }
        expired
    }

    fn reports(&mut self) -> Vec<Report> {
        self.0.borrow().kept.iter().rev().cloned().collect()
    }

    fn store_report(&mut self, report: &Report) -> Result<(), FreezeError> {
        self.step("keep".into(), |world| world.kept.push(report.clone()))
            .map_err(|error| FreezeError::Report(PathBuf::new(), error))
    }
}

impl SnapshotOps for Simulator {
    /// On the root filesystem.
    fn snapshot_device(&mut self) -> Option<DeviceNumber> {
        let world = self.0.borrow();
        let index = world.mountpoints.iter().position(|&name| name == "/")?;
        Some((8, index as u32))
    }

    fn write_snapshot(&mut self, run: &Report) -> Result<(), FreezeError> {
        let mut records = run.filesystems.iter();
        let root = records.find(|record| record.mountpoint == "/");
        assert!(root.is_some_and(FilesystemRecord::is_held), "{run:?}");
        let is_frozen = self.0.borrow().frozen.contains(&true);
        assert!(!is_frozen, "written while something is frozen");
        self.step("write snapshot".into(), |world| {
            world.snapshot = Some(SnapshotState::Frozen);
        })
        .map_err(|error| FreezeError::Snapshot(PathBuf::new(), error))
    }

    fn withdraw_snapshot(&mut self) -> Result<(), FreezeError> {
        if self.0.borrow().snapshot != Some(SnapshotState::Frozen) {
            return Ok(());
        }
        self.step("withdraw snapshot".into(), |world| world.snapshot = None)
            .map_err(|error| FreezeError::Snapshot(PathBuf::new(), error))
    }

    fn finish_snapshot(&mut self, _: &Report) -> Result<(), FreezeError> {
        if !self.steps().iter().any(|step| step == "write snapshot") {
            return Ok(());
        }
        self.step("finish snapshot".into(), |world| {
            world.snapshot = Some(SnapshotState::Finished);
        })
        .map_err(|error| FreezeError::Snapshot(PathBuf::new(), error))
    }
}

impl SystemOps for Simulator {
    fn enter_frozen_section(&mut self, at_once: usize) {
        let mut world = self.0.borrow_mut();
        world.in_frozen_section = true;
        world.at_once = at_once;
    }

    fn leave_frozen_section(&mut self) {
        let mut world = self.0.borrow_mut();
        assert!(
            !world.frozen.contains(&true),
            "logging while something is frozen"
        );
        world.in_frozen_section = false;
    }

    fn release_resources(&mut self) {}

    fn is_stopping(&self) -> bool {
        let world = self.0.borrow();
        world.stops_at.is_some_and(|at| world.steps.len() >= at)
    }

    fn now(&mut self) -> Duration {
        self.0.borrow().clock
    }

    fn wall_clock(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.borrow().clock
    }
}
