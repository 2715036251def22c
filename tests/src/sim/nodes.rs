//! What machines do: start, tick, take turns with their disks and the network, and die.

use super::host::Asker;
use super::network::Endpoint;
use super::plan::Profile;
use super::record::words_of;
use super::time::{MS, Time, US};
use super::transactions::moments::Before;
use super::transactions::questions::Owner;
use super::world::{Happening, World};
use crate::invariants::durable;
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_replication::{Message, Options};
use fulcrum_shard_node::event::{Event, Observation, Output, RequestId};
use fulcrum_shard_node::node::Cores;
use fulcrum_shard_node::storage::{MemoryDisk, StorageError};
use fulcrum_types::{Answer, Answered, BootId, Fsync, GroupId, Mode, NodeId, Receipt, Refusal, Role};
use std::collections::VecDeque;

impl World {
    /// A machine starts, unless it runs.
    pub(super) fn start(&mut self, node: NodeId) {
        if self.hosts[&node].node.is_some() {
            return;
        }
        self.check_disk(node);
        self.boots += 1;
        let boot = BootId(self.boots);
        if let Err(reason) = self.boot(node, boot) {
            return self.fail("start", format!("{node} cannot start: {reason}"));
        }
        self.record.event(self.now, &[10, node.0, boot.0], || {
            format!("{node} starts its life {boot}")
        });
        self.queue.at(self.now, Happening::Tick(node, boot));
        for group in self.groups_on(node) {
            self.queue.at(self.now + MS, Happening::Lookup(node, boot, group));
        }
    }

    fn boot(&mut self, node: NodeId, boot: BootId) -> Result<(), StorageError> {
        let (template, planted) = (self.plan.options.clone(), self.planted);
        let cores: Cores = Box::new(move |options, restored, now| {
            let options = Options {
                group: options.group,
                node: options.node,
                ..template.clone()
            };
            let mut core = PrimaryBackup::new(options, restored, now);
            planted.plant_in_core(&mut core);
            Box::new(core)
        });
        let Some(host) = self.hosts.get_mut(&node) else {
            return Ok(());
        };
        host.boot(self.now, boot, cores, planted)?;
        self.deliver(node, Event::Map(self.plan.map.clone()));
        Ok(())
    }

    pub(super) fn groups_on(&self, node: NodeId) -> Vec<GroupId> {
        self.plan
            .groups
            .iter()
            .filter(|g| g.replicas.contains(&node))
            .map(|g| g.group)
            .collect()
    }

    /// A node's timer.
    pub(super) fn tick(&mut self, node: NodeId, boot: BootId) {
        let host = &self.hosts[&node];
        if !host.lives(boot) {
            return;
        }
        let overdue = host
            .at_disk
            .is_some_and(|(_, since)| self.now - since > self.plan.sync_overdue());
        let every = host.clock.true_span(self.plan.tick);
        let waiting = host.inbox.iter().any(|i| matches!(i, Event::Tick { .. }));
        if !waiting {
            self.deliver(node, Event::Tick { disk_healthy: !overdue });
        }
        self.queue.at(self.now + every, Happening::Tick(node, boot));
    }

    /// A message between replicas arrives.
    pub(super) fn peer(&mut self, from: NodeId, to: NodeId, group: GroupId, message: Message) {
        if self.hosts[&to].node.is_some() {
            self.deliver(to, Event::Peer { from, group, message });
        }
    }

    /// Puts something into a node's inbox and plans a turn, if none is.
    pub(super) fn deliver(&mut self, node: NodeId, event: Event) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        host.inbox.push_back(event);
        if !host.busy {
            host.busy = true;
            let at = self.now + host.rng.skewed(US, 200 * US);
            self.queue.at(at, Happening::Turn(node, host.boot));
        }
    }

    /// A turn: all of the inbox is handled at one moment. Now and then the end of the turn comes much later.
    pub(super) fn turn(&mut self, node: NodeId, boot: BootId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.lives(boot)) else {
            return;
        };
        if host.paused_until > self.now {
            return self.queue.at(host.paused_until, Happening::Turn(node, boot));
        }
        let now = host.now(self.now);
        let inbox = std::mem::take(&mut host.inbox);
        let Some(running) = &mut host.node else {
            return;
        };
        let mut outputs = Vec::new();
        for (number, event) in (1..).zip(inbox) {
            self.record
                .event(self.now, &words(node, &event), || format!("{node} <- {event:?}"));
            running.handle(now, event);
            // As the event loop does, more rarely.
            if number % 8 == 0 {
                running.release(now, &mut outputs);
            }
        }
        self.watch_transactions(node);
        self.put_out(node, outputs);
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.lives(boot)) else {
            return;
        };
        let stalls = self.hostile && host.rng.ppm(self.plan.turn_stall_ppm);
        if !stalls {
            return self.end_turn(node, boot);
        }
        let lease = self.plan.options.lease.as_nanos() as Time;
        // Mostly short; now and then long enough for another to take over meanwhile.
        let span = if host.rng.percent(30) {
            host.rng.range(lease, 4 * lease)
        } else {
            host.rng.skewed(MS, lease)
        };
        let at = self.now + span;
        host.read_early = Some(now);
        self.record.reached("turn that stalled in the middle");
        self.queue.at(at, Happening::EndTurn(node, boot));
    }

    /// The turn ends: the node says what is to be done.
    pub(super) fn end_turn(&mut self, node: NodeId, boot: BootId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.lives(boot)) else {
            return;
        };
        if let (Some(early), Some(running)) = (host.read_early.take(), &mut host.node) {
            // A loop may take requests in after it has read its clock: what they are answered is checked by a fresh reading.
            let (late, rest): (VecDeque<Event>, _) = std::mem::take(&mut host.inbox)
                .into_iter()
                .partition(|event| matches!(event, Event::Request { .. }));
            host.inbox = rest;
            for event in late {
                self.record
                    .event(self.now, &words(node, &event), || format!("{node} <- (late) {event:?}"));
                running.handle(early, event);
            }
        }
        let now = host.now(self.now);
        let mut outputs = Vec::new();
        let again = host
            .node
            .as_mut()
            .is_some_and(|running| running.end_turn(now, &mut outputs));
        self.watch_node(node);
        if self.dies_of_turn(node, Before::Sent) {
            return;
        }
        self.put_out(node, outputs);
        if self.dies_of_turn(node, Before::Committed) {
            return;
        }
        self.plan_sync(node);
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.lives(boot)) else {
            return;
        };
        host.busy = again || !host.inbox.is_empty();
        if host.busy {
            let at = self.now + host.rng.skewed(US, 200 * US);
            self.queue.at(at, Happening::Turn(node, boot));
        }
    }

    fn put_out(&mut self, node: NodeId, outputs: Vec<Output>) {
        if self.dies_of_answer(node, &outputs) {
            return;
        }
        for output in outputs {
            self.output(node, output);
        }
    }

    fn output(&mut self, node: NodeId, output: Output) {
        match output {
            Output::Send { to, group, message } => {
                let [a, b, c, d, e, f] = words_of(&message);
                self.record
                    .event(self.now, &[11, node.0, to.0, group.0, a, b, c, d, e, f], || {
                        format!("{node} -> {to} {group} {message:?}")
                    });
                let (from_end, to_end) = (Endpoint::Node(node), Endpoint::Node(to));
                self.transmit(from_end, to_end, || {
                    Some(Happening::Peer {
                        from: node,
                        to,
                        group,
                        message: message.clone(),
                    })
                });
            }
            Output::Reply { id, result } => self.send_reply(node, id, result),
            Output::CompareAndSwap {
                group,
                attempt,
                expected,
                proposal,
            } => {
                self.send_swap(node, group, attempt, expected, proposal);
            }
            Output::Ask {
                ask,
                to,
                operation,
                deadline,
            } => {
                let host = &self.hosts[&node];
                let span = host.clock.true_span(deadline.as_nanos() as Time);
                let owner = Owner::Node(node, host.boot, ask);
                self.ask_group(owner, to, operation, span);
            }
            Output::ReadConfiguration { group } => {
                let boot = self.hosts[&node].boot;
                self.look_up(node, boot, group);
            }
            Output::ReadLease { group, node: of } => self.look_for_lease(node, group, of),
            Output::Observed(observation) => self.observed(node, &observation),
            Output::Fatal { reason } => self.fail("node stopped", format!("{node}: {reason}")),
        }
    }

    /// The disk of a node that a receipt names; none if what it held may be gone for a good reason.
    fn witness(&self, receipt: &Receipt, node: NodeId) -> Option<&MemoryDisk> {
        let host = self.hosts.get(&node).filter(|h| h.wiped_in.is_none())?;
        // In `async` a later primary may have lost it since.
        let same_epoch = || {
            self.status(receipt.group, node)
                .is_some_and(|s| s.epoch == receipt.epoch)
        };
        (self.plan.mode == Mode::Sync || same_epoch()).then_some(&host.disk)
    }

    fn send_reply(&mut self, node: NodeId, id: RequestId, result: Result<Answered, Refusal>) {
        match self.asker(node, id) {
            Some(Asker::Joint(number)) => self.answer_joint(node, number, result),
            Some(asker) => self.send_reply_to(node, asker, result),
            None => {}
        }
    }

    /// An answer leaves for one who asked.
    pub(super) fn send_reply_to(&mut self, node: NodeId, asker: Asker, result: Result<Answered, Refusal>) {
        if let Ok(Answered {
            answer: Answer::Written(_),
            receipt,
        }) = &result
        {
            if self.plan.mode == Mode::Async && self.plan.profile != Profile::BeyondBound {
                let verdict = self.watch.acknowledgements.check(receipt.group, receipt.epoch, node);
                self.must("acknowledgements", verdict);
            }
            // Every tenth: it reads whole logs.
            if self.plan.fsync == Fsync::Always && self.rng.percent(10) {
                let verdict = durable::check(receipt, |n| self.witness(receipt, n));
                self.must("durable", verdict);
            }
        }
        let to = match asker {
            Asker::Lane(asker) => Endpoint::Client(asker.lane as u64),
            Asker::Joint(_) => return,
            Asker::Question { number, .. } => match self.transactions.questions.asked_from(number) {
                Some(end) => end,
                None => return,
            },
        };
        let from = Endpoint::Node(node);
        self.transmit(from, to, || {
            Some(Happening::Reply {
                from: node,
                asker,
                result: result.clone(),
            })
        });
    }

    fn observed(&mut self, node: NodeId, observation: &Observation) {
        let what = match observation {
            Observation::RoleChanged { .. } => "change of role",
            Observation::TookOver { .. } => "take-over",
            Observation::CertificateOpened { .. } => "loss certificate",
            Observation::DivergenceRecorded { .. } => "divergence recorded",
            Observation::SnapshotInstalled { .. } => "snapshot installed",
            Observation::SnapshotStarted { .. } => "snapshot sent",
            Observation::Rebuilding { .. } => "replica rebuilt",
            Observation::NewData { .. } => "new data id",
            Observation::LockWaited { cut: true, .. } => "wait for a lock cut",
            Observation::LockWaited { cut: false, .. } => "wait for a lock",
            Observation::TransactionResolved { on_its_own: true, .. } => "doubt ended on its own",
            Observation::TransactionContradicted { group, id } => {
                let reason = format!("{node} was told that {id} is aborted, which is committed in {group}");
                return self.fail("transactions (contradicted)", reason);
            }
            _ => return,
        };
        self.record.reached(what);
        self.record
            .event(self.now, &[12, node.0], || format!("{node}: {observation:?}"));
    }

    /// Watches invariants of one node.
    fn watch_node(&mut self, node: NodeId) {
        let host = &self.hosts[&node];
        let Some(running) = &host.node else {
            return;
        };
        let now = host.now(self.now);
        let mut verdict = match running.status().stopped.first_key_value() {
            Some((group, reason)) => Err(format!("{node} stopped {group}: {reason}")),
            None => Ok(()),
        };
        for plan in &self.plan.groups {
            if let (Ok(()), Some(status)) = (&verdict, running.group_status(plan.group, now)) {
                verdict = self.watch.primaries.check(plan.group, node, host.boot, &status);
            }
        }
        self.must("primaries", verdict);
        self.watch_transactions(node);
    }

    /// If a batch waits at the disk and is not under way, it is from now on.
    fn plan_sync(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let Some((id, _)) = host.disk.pending() else {
            return;
        };
        if host.at_disk.is_some_and(|(at, _)| at == id) {
            return;
        }
        host.at_disk = Some((id, self.now));
        let takes = host.rng.skewed(self.plan.disk.sync_min, self.plan.disk.sync_max) * host.slow;
        let at = host.stalled_until.max(self.now) + takes;
        self.queue.at(at, Happening::DiskDone(node, host.boot));
    }

    /// The disk has done a batch, unless it stalled meanwhile.
    pub(super) fn disk_done(&mut self, node: NodeId, boot: BootId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.lives(boot)) else {
            return;
        };
        if host.stalled_until > self.now {
            return self.queue.at(host.stalled_until, Happening::DiskDone(node, boot));
        }
        host.at_disk = None;
        if let Some(done) = host.disk.complete() {
            self.deliver(node, Event::BatchDone(done));
        }
        self.plan_sync(node);
    }

    /// Where a node is that is about to crash.
    pub(super) fn note_crash_points(&mut self, node: NodeId) {
        let host = &self.hosts[&node];
        let Some(running) = &host.node else {
            return;
        };
        let mut points = Vec::new();
        let now = host.now(self.now);
        points.push(if host.at_disk.is_some() {
            "during a sync"
        } else {
            "with an idle disk"
        });
        for plan in &self.plan.groups {
            let Some(status) = running.group_status(plan.group, now) else {
                continue;
            };
            points.push(match (status.role, status.ready) {
                (Role::Primary, true) => "as primary",
                (Role::Primary, false) => "as primary taking over",
                (Role::Backup, _) => "as backup",
                (Role::Learner, _) => "as learner",
            });
            if status.peers.iter().any(|p| p.snapshot) {
                points.push("while sending a snapshot");
            }
        }
        points.into_iter().for_each(|point| self.record.crash_point(point));
        self.note_rows_of_node(node);
    }
}

/// What identifies an event in the hash.
fn words(node: NodeId, event: &Event) -> [u64; 4] {
    let (kind, a, b) = match event {
        Event::BatchDone(done) => (0, done.id.0, 0),
        Event::Tick { disk_healthy } => (1, u64::from(*disk_healthy), 0),
        Event::Peer { from, group, message } => (
            2,
            from.0,
            words_of(message)
                .into_iter()
                .fold(group.0, |h, w| h.wrapping_mul(31).wrapping_add(w)),
        ),
        Event::Request { id, .. } => (3, id.0, 0),
        Event::Configuration { group, configuration } => (4, group.0, configuration.version.0),
        Event::CasOutcome { group, attempt, .. } => (5, group.0, attempt.0),
        Event::Answered { ask, result } => (7, ask.0, u64::from(result.is_ok())),
        _ => (6, 0, 0),
    };
    [node.0, kind, a, b]
}
