//! Faults strike and end here. Each strike draws a kind among those that the plan allows, a victim and a duration.

use super::faults::Fault;
use super::network::{Endpoint, Quality};
use super::time::{MS, SEC, Time, US};
use super::world::{Happening, World, rate};
use fulcrum_shard_node::event::Event;
use fulcrum_types::{BootId, Fsync, GroupId, NodeId};

/// The end of a fault.
#[derive(Debug)]
pub enum Relief {
    /// These directions of links work again.
    Mend(Vec<(Endpoint, Endpoint)>),
    /// The network is as planned again.
    Calm,
    /// The disk is as fast as planned again.
    Speed(NodeId),
}

impl World {
    /// A fault strikes, and the next one is planned.
    pub(super) fn strike(&mut self) {
        if !self.hostile {
            return;
        }
        let drains = self.plan.drains && self.nemesis.percent(25);
        let drawn = if drains {
            Some(Fault::Drain)
        } else {
            self.nemesis.pick(&self.plan.faults)
        };
        if let Some(fault) = drawn {
            let lasts = self.nemesis.skewed(20 * MS, self.plan.fault_max);
            self.inflict(fault, lasts);
        }
        let pause = self.nemesis.skewed(10 * MS, self.plan.fault_every);
        self.queue.at(self.now + pause, Happening::Strike);
    }

    fn inflict(&mut self, fault: Fault, lasts: Time) {
        let node = self.victim();
        match fault {
            Fault::Crash => self.crash(node, lasts),
            Fault::CrashAll => self.crash_all(lasts),
            Fault::Wipe => self.wipe(node, lasts),
            Fault::Pause => self.pause(node, lasts),
            Fault::Isolate => self.isolate(node, lasts),
            Fault::Split => self.split(lasts),
            Fault::OneWay => self.cut_one_way(node, lasts),
            Fault::Link => self.cut_link(node, lasts),
            Fault::Storm => self.storm(lasts),
            Fault::DiskStall => self.stall_disk(node, lasts),
            Fault::DiskSlow => self.slow_disk(node, lasts),
            Fault::ClockRate => self.change_rate(node),
            Fault::WallJump => self.jump_wall(node),
            Fault::MetadataOutage => self.metadata_outage(lasts),
            Fault::MetadataCut => self.cut_metadata(node, lasts),
            Fault::HandOver => self.hand_over(),
            Fault::Drain => self.drain(node, lasts),
        }
    }

    /// Often a primary, else any node.
    fn victim(&mut self) -> NodeId {
        let any = self.nemesis.one_of(&self.plan.nodes);
        let group = self.any_group();
        let primary = self.metadata.read(group).primary.filter(|_| self.nemesis.percent(50));
        primary.unwrap_or(any)
    }

    fn any_group(&mut self) -> GroupId {
        let place = self.nemesis.below(self.plan.groups.len() as u64) as usize;
        self.plan.groups[place].group
    }

    fn crash(&mut self, node: NodeId, lasts: Time) {
        // Without a sync before each acknowledgement, what a crash may take is what a lost disk may.
        let may = self.plan.fsync == Fsync::Always || self.may_be_wiped(node);
        if self.hosts[&node].node.is_none() || !may {
            return;
        }
        self.struck(Fault::Crash, || format!("{node}"));
        self.power_off(node, lasts);
    }

    /// A node is told to stop, as by SIGTERM, and does so a while later, whether its groups have let it go by then or not.
    fn drain(&mut self, node: NodeId, lasts: Time) {
        let may = self.plan.fsync == Fsync::Always || self.may_be_wiped(node);
        if self.hosts[&node].node.is_none() || !may {
            return;
        }
        self.struck(Fault::Drain, || format!("{node}"));
        self.deliver(node, Event::Drain);
        let at = self.now + self.nemesis.skewed(MS, lasts);
        self.queue.at(at, Happening::Stop(node, self.hosts[&node].boot));
    }

    /// A drained node stops, unless it has died before. It starts again also when all else heals: it would keep away for good.
    pub(super) fn stop(&mut self, node: NodeId, boot: BootId) {
        let may = self.plan.fsync == Fsync::Always || self.may_be_wiped(node);
        if !self.hosts[&node].lives(boot) {
            return;
        }
        let away = if self.hostile { self.plan.fault_max } else { 20 * MS };
        let lasts = self.nemesis.skewed(MS, away);
        if may {
            return self.power_off(node, lasts);
        }
        self.queue.at(self.now + lasts, Happening::Stop(node, boot));
    }

    fn crash_all(&mut self, lasts: Time) {
        if self.plan.fsync != Fsync::Always {
            return;
        }
        self.struck(Fault::CrashAll, || "every node".into());
        for node in self.plan.nodes.clone() {
            let wait = self.nemesis.skewed(MS, lasts);
            self.power_off(node, wait);
        }
    }

    /// A machine dies and loses some of what it had not synced; it starts again after a while.
    pub fn power_off(&mut self, node: NodeId, lasts: Time) {
        self.note_crash_points(node);
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let unsynced = host.disk.unsynced();
        let survivors = self.nemesis.below(unsynced as u64 + 1) as usize;
        host.lose_power(survivors);
        if self.nemesis.percent(50) {
            // Not only the process: the machine boots, and its monotonic clock begins anew. What it showed in the last life may
            // lie far ahead, or so near that old readings pass for new ones.
            let behind = self.nemesis.skewed(0, 1_000 * SEC);
            host.clock.reboot(self.now, behind);
        }
        host.off_at = Some(self.now);
        if self.plan.fsync != Fsync::Always {
            host.wiped_in = Some(host.boot);
            self.watch.primaries.forget(node);
        }
        if survivors < unsynced {
            self.record.reached("unsynced batches lost in a crash");
        }
        self.record.event(self.now, &[40, node.0, survivors as u64], || {
            format!("{node} is off, {survivors} of {unsynced} unsynced batches survive")
        });
        self.queue.at(self.now + lasts, Happening::Start(node));
    }

    fn wipe(&mut self, node: NodeId, lasts: Time) {
        if !self.may_be_wiped(node) {
            return;
        }
        self.struck(Fault::Wipe, || format!("{node}"));
        self.wipe_now(node, lasts);
    }

    /// Cuts these directions and mends them later, now and then one by one ("swizzle", FoundationDB).
    fn cut(&mut self, links: Vec<(Endpoint, Endpoint)>, lasts: Time) {
        for (from, to) in &links {
            self.network.cut(*from, *to);
        }
        if !self.nemesis.percent(25) {
            return self.queue.at(self.now + lasts, Happening::Relief(Relief::Mend(links)));
        }
        for link in links {
            let at = self.now + self.nemesis.range(lasts / 2, lasts);
            self.queue.at(at, Happening::Relief(Relief::Mend(vec![link])));
        }
    }

    /// The end of a fault.
    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Mend(links) => {
                for (from, to) in &links {
                    self.network.mend(*from, *to);
                }
                self.record
                    .event(self.now, &[41, links.len() as u64], || "links are mended".into());
            }
            Relief::Calm if self.hostile => self.network.quality = self.plan.quality,
            Relief::Calm => {}
            Relief::Speed(node) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.slow = 1;
                }
            }
        }
    }

    /// Stands still; what arrives meanwhile waits.
    pub fn pause(&mut self, node: NodeId, lasts: Time) {
        let until = self.now + lasts;
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.node.is_some()) else {
            return;
        };
        host.paused_until = host.paused_until.max(until);
        self.struck(Fault::Pause, || format!("{node} for {} ms", lasts / MS));
    }

    /// Cuts a node off from the other nodes, in half of the cases from the clients, too.
    pub fn isolate(&mut self, node: NodeId, lasts: Time) {
        self.struck(Fault::Isolate, || format!("{node} for {} ms", lasts / MS));
        let one = Endpoint::Node(node);
        let mut others: Vec<Endpoint> = self
            .plan
            .nodes
            .iter()
            .filter(|n| **n != node)
            .map(|n| Endpoint::Node(*n))
            .collect();
        if self.nemesis.percent(30) {
            others.extend(self.outsiders());
        }
        if self.nemesis.percent(30) {
            others.push(Endpoint::Metadata);
        }
        self.cut(others.iter().flat_map(|o| [(one, *o), (*o, one)]).collect(), lasts);
    }

    /// Who asks nodes and is none.
    fn outsiders(&self) -> Vec<Endpoint> {
        let clients = self.lanes.len() + self.transactions.clients.len();
        let clients = (0..clients as u64).map(Endpoint::Client);
        let coordinators = (0..self.transactions.coordinators.len() as u64).map(Endpoint::Coordinator);
        clients.chain(coordinators).collect()
    }

    fn split(&mut self, lasts: Time) {
        let mut ends: Vec<Endpoint> = self.plan.nodes.iter().map(|n| Endpoint::Node(*n)).collect();
        ends.extend(self.outsiders());
        let side: Vec<bool> = ends.iter().map(|_| self.nemesis.percent(50)).collect();
        let links = links_between(&ends, |a, b| side[a] != side[b]);
        self.struck(Fault::Split, || format!("{side:?} for {} ms", lasts / MS));
        self.cut(links, lasts);
    }

    fn cut_one_way(&mut self, node: NodeId, lasts: Time) {
        let deaf = self.nemesis.percent(50);
        let one = Endpoint::Node(node);
        let others = self
            .plan
            .nodes
            .iter()
            .filter(|n| **n != node)
            .map(|n| Endpoint::Node(*n));
        let links = others.map(|o| if deaf { (o, one) } else { (one, o) }).collect();
        self.struck(Fault::OneWay, || {
            format!("{node} is {} for {} ms", if deaf { "deaf" } else { "mute" }, lasts / MS)
        });
        self.cut(links, lasts);
    }

    fn cut_link(&mut self, node: NodeId, lasts: Time) {
        let other = self.nemesis.one_of(&self.plan.nodes);
        if other == node {
            return;
        }
        let (a, b) = (Endpoint::Node(node), Endpoint::Node(other));
        self.struck(Fault::Link, || format!("{node} and {other} for {} ms", lasts / MS));
        self.cut(vec![(a, b), (b, a)], lasts);
    }

    fn storm(&mut self, lasts: Time) {
        let calm = self.plan.quality;
        self.network.quality = Quality {
            loss_ppm: self.nemesis.range(50_000, 500_000) as u32,
            duplicate_ppm: self.nemesis.range(0, 300_000) as u32,
            straggler_ppm: self.nemesis.range(0, 300_000) as u32,
            straggler_max: calm.straggler_max.max(SEC / 2),
            fifo: false,
            ..calm
        };
        self.struck(Fault::Storm, || format!("for {} ms", lasts / MS));
        self.queue.at(self.now + lasts, Happening::Relief(Relief::Calm));
    }

    /// The disk does nothing for a while.
    pub fn stall_disk(&mut self, node: NodeId, lasts: Time) {
        let until = self.now + lasts;
        if let Some(host) = self.hosts.get_mut(&node) {
            host.stalled_until = host.stalled_until.max(until);
        }
        self.struck(Fault::DiskStall, || format!("{node} for {} ms", lasts / MS));
    }

    fn slow_disk(&mut self, node: NodeId, lasts: Time) {
        let times = self.nemesis.range(2, 50);
        if let Some(host) = self.hosts.get_mut(&node) {
            host.slow = times;
        }
        self.struck(Fault::DiskSlow, || {
            format!("{node} {times} times for {} ms", lasts / MS)
        });
        self.queue.at(self.now + lasts, Happening::Relief(Relief::Speed(node)));
    }

    fn change_rate(&mut self, node: NodeId) {
        let ppm = rate(&mut self.nemesis, self.plan.rate_ppm);
        if let Some(host) = self.hosts.get_mut(&node) {
            host.clock.set_rate(self.now, ppm);
        }
        self.struck(Fault::ClockRate, || format!("{node} {ppm} ppm"));
    }

    fn jump_wall(&mut self, node: NodeId) {
        let hours = 3_600_000;
        let spans = [100, 1_000, 100_000, hours, 5 * hours];
        let far = self.plan.odd_clocks.contains(&node);
        let span = self.nemesis.one_of(if far { &spans } else { &spans[..2] });
        let offset = rate(&mut self.nemesis, span);
        if let Some(host) = self.hosts.get_mut(&node) {
            host.clock.set_wall_offset(offset);
        }
        self.struck(Fault::WallJump, || format!("{node} is {offset} ms off"));
    }

    /// Nobody reaches the metadata store for a while.
    pub fn metadata_outage(&mut self, lasts: Time) {
        self.metadata.outage_until = self.metadata.outage_until.max(self.now + lasts);
        self.struck(Fault::MetadataOutage, || format!("for {} ms", lasts / MS));
    }

    fn cut_metadata(&mut self, node: NodeId, lasts: Time) {
        let (node_end, store) = (Endpoint::Node(node), Endpoint::Metadata);
        let links = match self.nemesis.below(3) {
            0 => vec![(node_end, store)],
            1 => vec![(store, node_end)],
            _ => vec![(node_end, store), (store, node_end)],
        };
        self.struck(Fault::MetadataCut, || format!("{node} for {} ms", lasts / MS));
        self.cut(links, lasts);
    }

    fn hand_over(&mut self) {
        let group = self.any_group();
        let configuration = self.metadata.read(group);
        let (Some(primary), in_sync) = (configuration.primary, configuration.in_sync.clone()) else {
            return;
        };
        let to = self
            .nemesis
            .pick(&in_sync)
            .map(|m| m.node)
            .filter(|_| self.nemesis.percent(50));
        if self.hosts[&primary].node.is_none() {
            return;
        }
        self.struck(Fault::HandOver, || format!("{group} from {primary} to {to:?}"));
        self.deliver(primary, Event::HandOver { group, to });
        if self.nemesis.percent(50) {
            let lasts = self.nemesis.skewed(20 * MS, self.plan.fault_max);
            let at = self.now + self.nemesis.skewed(US, 20 * MS);
            self.queue.at(at, Happening::Isolate(primary, lasts));
        }
    }
}

fn links_between(ends: &[Endpoint], apart: impl Fn(usize, usize) -> bool) -> Vec<(Endpoint, Endpoint)> {
    let pairs = (0..ends.len()).flat_map(|a| (0..ends.len()).map(move |b| (a, b)));
    pairs
        .filter(|(a, b)| a != b && apart(*a, *b))
        .map(|(a, b)| (ends[a], ends[b]))
        .collect()
}
