//! One core on a table: its peers are played by hand.

use bytes::Bytes;
use fulcrum_replication::primary_backup::{Beat, Body, PrimaryBackup};
use fulcrum_replication::{
    CasOutcome, Effect, HardState, Header, Input, LogChange, Message, Options, Replica, Restored, Status,
};
use fulcrum_types::{
    BootId, ConfigVersion, DataId, Entry, Epoch, GroupConfiguration, GroupId, Index, LogPosition, Member, Mode, Mono,
    NodeId, Now, Payload, ReplicatedTime, WriteId,
};
use std::time::Duration;

/// The node under attack; its data has the same number, as that of all nodes here.
pub const ME: u64 = 1;

pub struct Rig {
    pub core: PrimaryBackup,
    pub ms: u64,
    written: WriteId,
}

impl Rig {
    pub fn new(mode: Mode, change: impl FnOnce(&mut Options, &mut Restored)) -> Self {
        let mut options = Options::new(GroupId(1), NodeId(ME), mode);
        options.min_in_sync = 1;
        let mut restored = Restored {
            boot: BootId(100),
            data: DataId(ME),
            hard_state: None,
            compacted: LogPosition::default(),
            compacted_time: ReplicatedTime::default(),
            log: Vec::new(),
            applied: Index::ZERO,
        };
        change(&mut options, &mut restored);
        let ms = 100_000;
        Self {
            core: PrimaryBackup::new(options, restored, moment(ms)),
            ms,
            written: WriteId::ZERO,
        }
    }

    /// One input, and nothing else.
    pub fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(moment(self.ms), input, &mut effects);
        for effect in &effects {
            if let Effect::Write { id, .. } = effect {
                self.written = *id;
            }
        }
        self.core.check_invariants().unwrap();
        effects
    }

    /// One input, then a prompt disk and a prompt state machine.
    pub fn take(&mut self, input: Input) -> Vec<Effect> {
        let mut all = self.give(input);
        loop {
            let through = self.written;
            all.extend(self.give(Input::Persisted { through }));
            let applied = self.to_apply();
            if let Some(through) = applied {
                all.extend(self.give(Input::Applied { through }));
            }
            if applied.is_none() && self.written == through {
                return all;
            }
        }
    }

    fn to_apply(&self) -> Option<Index> {
        let status = self.status();
        (status.applied < status.commit).then_some(status.commit)
    }

    pub fn hear(&mut self, from: u64, epoch: u64, version: u64, body: Body) -> Vec<Effect> {
        let header = Header {
            epoch: Epoch(epoch),
            version: ConfigVersion(version),
            boot: BootId(from * 100),
            data: DataId(from),
            wall_ms: moment(self.ms).wall_ms,
        };
        self.hear_as(from, header, body)
    }

    pub fn hear_as(&mut self, from: u64, header: Header, body: Body) -> Vec<Effect> {
        let message = Message { header, body };
        self.take(Input::Receive {
            from: NodeId(from),
            message,
        })
    }

    /// Time passes in ticks.
    pub fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let mut all = Vec::new();
        for _ in 0..ms / 25 {
            self.ms += 25;
            all.extend(self.take(Input::Tick { disk_healthy: true }));
        }
        all
    }

    /// Time passes until the core asks for a change of configuration, which it is given.
    pub fn win(&mut self) -> Vec<Effect> {
        for _ in 0..400 {
            let effects = self.pass(25);
            if let Some(effects) = self.grant(&effects) {
                return effects;
            }
        }
        panic!("it asks for no change: {:?}", self.status());
    }

    /// The change of configuration asked for, if any, takes effect.
    pub fn grant(&mut self, effects: &[Effect]) -> Option<Vec<Effect>> {
        let (attempt, mut proposal) = effects.iter().find_map(|effect| match effect {
            Effect::CompareAndSwap { attempt, proposal, .. } => Some((*attempt, proposal.clone())),
            _ => None,
        })?;
        proposal.version = proposal.version.next();
        let outcome = CasOutcome::Won(proposal);
        Some(self.take(Input::CasOutcome { attempt, outcome }))
    }

    /// A backup says how much it holds durably, and echoes our clock.
    pub fn acknowledge(&mut self, from: u64, version: u64, persisted: u64) -> Vec<Effect> {
        let clock = self.mono();
        let body = Body::Acknowledge {
            persisted: Index(persisted),
            matched: Index(persisted),
            applied: Index::ZERO,
            echo: clock,
            round: 0,
            own_clock: clock,
            leaving: false,
        };
        let epoch = self.status().epoch.0;
        self.hear(from, epoch, version, body)
    }

    pub fn configure(&mut self, configuration: GroupConfiguration) -> Vec<Effect> {
        self.take(Input::Configuration { configuration })
    }

    pub fn status(&self) -> Status {
        self.core.status(moment(self.ms))
    }

    pub fn mono(&self) -> Mono {
        moment(self.ms).mono
    }
}

pub fn moment(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000_000),
        wall_ms: 1_000_000 + ms,
    }
}

pub fn at(index: u64, epoch: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

pub fn entries(range: std::ops::RangeInclusive<u64>, epoch: u64) -> Vec<Entry> {
    let entry = |index| Entry {
        position: at(index, epoch),
        time: ReplicatedTime(index),
        payload: Payload::Command(Bytes::from(vec![b'x'; 100])),
    };
    range.map(entry).collect()
}

pub fn configuration(version: u64, epoch: u64, primary: u64, in_sync: &[u64]) -> GroupConfiguration {
    let member = |n: &u64| Member {
        node: NodeId(*n),
        data: DataId(*n),
    };
    GroupConfiguration {
        version: ConfigVersion(version),
        epoch: Epoch(epoch),
        primary: Some(NodeId(primary)),
        in_sync: in_sync.iter().map(member).collect(),
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
    }
}

/// A group that nobody has led yet.
pub fn new_group(replicas: &[u64]) -> GroupConfiguration {
    GroupConfiguration {
        version: ConfigVersion(1),
        replicas: replicas.iter().copied().map(NodeId).collect(),
        ..GroupConfiguration::default()
    }
}

/// What a disk holds of a replica that was in good order.
pub fn hard(configuration: GroupConfiguration, commit: u64, led: u64) -> HardState {
    HardState {
        data: DataId(ME),
        epoch: configuration.epoch,
        configuration,
        commit: Index(commit),
        epoch_starts: Vec::new(),
        led: Epoch(led),
        forced: Epoch::ZERO,
    }
}

pub fn append(previous: LogPosition, entries: Vec<Entry>, commit: u64, beat: Beat) -> Body {
    Body::Append {
        previous,
        entries,
        commit: Index(commit),
        held: Index::ZERO,
        beat,
    }
}

/// A beat that asks for a promise and proves nothing.
pub fn beat(clock: u64) -> Beat {
    Beat {
        primary_clock: Mono(clock),
        ..Beat::default()
    }
}

pub fn changes(effects: &[Effect]) -> Vec<&LogChange> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Write { change, .. } => Some(change),
            _ => None,
        })
        .collect()
}

pub const SECOND: Duration = Duration::from_secs(1);
