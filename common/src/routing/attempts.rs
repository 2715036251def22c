//! The decision table of one request: where to send it, and what to do with what comes back.

use super::view::View;
use fulcrum_types::{Act, GroupId, Level, NodeId, Refusal};
use std::time::Duration;

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// First pause; doubles from try to try.
const PAUSE_MIN: Duration = Duration::from_millis(4);
/// How long a refusal for want of in-sync replicas is retried, from the first one on: a failover heals it within that, an outage does
/// not. The time before, in which nobody led, says nothing of it.
const IN_SYNC_PATIENCE: Duration = Duration::from_secs(3);

/// Whether a refusal of several requests in one may be because of one of them, so that each must be asked by itself.
#[must_use]
pub fn parts(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Invalid { .. } | Refusal::WrongGroup { .. } | Refusal::Locked { .. } | Refusal::HistoryLost { .. }
    )
}

/// What kind of request it is: who can serve it, and whether it may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read at this level.
    Read(Level),
    /// A write. `safe_twice`: it carries an idempotency key.
    Write {
        /// Whether the group recognises a repetition.
        safe_twice: bool,
    },
}

impl Kind {
    fn may_repeat(self) -> bool {
        matches!(self, Kind::Read(_) | Kind::Write { safe_twice: true })
    }

    fn needs_primary(self) -> bool {
        matches!(self, Kind::Write { .. } | Kind::Read(Level::Linearizable))
    }
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node answered with a refusal.
    Refused(Refusal),
    /// The request never left: nothing was applied.
    NotSent(String),
    /// It left and no answer came: it may have been applied.
    Lost(String),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it to this node.
    Send(NodeId),
    /// Wait so long, or until the view changes; then ask again.
    Pause(Duration),
    /// Give this to the caller.
    Fail(Refusal),
}

/// One request under way.
#[derive(Clone, Debug)]
pub struct Attempts {
    group: GroupId,
    kind: Kind,
    /// It stands for several: see [`parts`].
    joint: bool,
    /// Spreads reads over replicas; any number.
    rotation: u64,
    count: u32,
    pauses: u32,
    /// Whether some attempt may have been applied.
    in_doubt: bool,
    hint: Option<NodeId>,
    /// Replicas that said that they cannot serve it, since the last pause.
    unable: Vec<NodeId>,
    /// When a want of in-sync replicas was first told, as time spent.
    short_since: Option<Duration>,
    last: Option<Box<Refusal>>,
    /// What is told if no other replica has kept what is asked for: a log, or the state of a cut.
    gone: Option<Box<Refusal>>,
}

impl Attempts {
    /// A request that was not sent yet.
    #[must_use]
    pub fn new(group: GroupId, kind: Kind, rotation: u64) -> Self {
        Self {
            group,
            kind,
            joint: false,
            rotation,
            count: 0,
            pauses: 0,
            in_doubt: false,
            hint: None,
            unable: Vec::new(),
            short_since: None,
            last: None,
            gone: None,
        }
    }

    /// The same for several requests in one: what may concern a single one of them ends it.
    #[must_use]
    pub fn of_a_joint(self) -> Self {
        Self { joint: true, ..self }
    }

    /// The same for a request that was under way before, in a joint: some attempt of it may have been applied.
    #[must_use]
    pub fn of_doubt(self, in_doubt: bool) -> Self {
        Self { in_doubt, ..self }
    }

    /// Whether some attempt may have been applied.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Attempts so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first step, or the step after a pause.
    pub fn next(&mut self, view: &View) -> Next {
        let Some(node) = self.choose(view) else {
            return self.pause();
        };
        self.count += 1;
        Next::Send(node)
    }

    /// The step after a failed attempt, with `spent` of the deadline used.
    pub fn after(&mut self, view: &View, node: NodeId, failure: Failure, spent: Duration) -> Next {
        self.hint = None;
        match failure {
            Failure::NotSent(reason) => {
                self.last = Some(Box::new(Refusal::Unreachable { reason }));
                self.another(view, node)
            }
            Failure::Lost(reason) => self.lost(view, node, reason),
            Failure::Refused(Refusal::Unknown { reason }) => self.lost(view, node, reason),
            Failure::Refused(refusal) => self.refused(view, node, refusal, spent),
        }
    }

    fn lost(&mut self, view: &View, node: NodeId, reason: String) -> Next {
        let unknown = Refusal::Unknown { reason };
        if !self.kind.may_repeat() {
            return Next::Fail(unknown);
        }
        self.in_doubt |= matches!(self.kind, Kind::Write { .. });
        self.last = Some(Box::new(unknown));
        self.another(view, node)
    }

    fn refused(&mut self, view: &View, node: NodeId, refusal: Refusal, spent: Duration) -> Next {
        if self.joint && parts(&refusal) {
            return Next::Fail(refusal);
        }
        if let Refusal::Compacted { .. } | Refusal::CutGone { .. } = refusal {
            // Replicas let go at different times.
            self.gone = Some(Box::new(refusal));
            return self.another(view, node);
        }
        if let Refusal::Locked { .. } = refusal {
            // The node has waited for the lock already, and must go on doing so.
            self.last = Some(Box::new(refusal));
            self.count += 1;
            return Next::Send(node);
        }
        let act = refusal.act();
        let hint = match &refusal {
            Refusal::NotPrimary { hint } | Refusal::CannotServe { hint, .. } => hint.filter(|hinted| *hinted != node),
            _ => None,
        };
        let final_word = match &refusal {
            Refusal::Overloaded | Refusal::DeadlineExceeded => true,
            Refusal::NotEnoughReplicas { .. } => {
                spent.saturating_sub(*self.short_since.get_or_insert(spent)) >= IN_SYNC_PATIENCE
            }
            _ => !matches!(act, Act::Redirect | Act::Retry),
        };
        self.last = Some(Box::new(refusal));
        if final_word {
            return Next::Fail(self.verdict());
        }
        if act == Act::Redirect && !matches!(self.last.as_deref(), Some(Refusal::WrongGroup { .. })) {
            self.hint = hint;
            return self.another(view, node);
        }
        self.pause()
    }

    /// What the caller is told when its time is up.
    #[must_use]
    pub fn out_of_time(&self) -> Refusal {
        match (self.last.as_deref(), self.in_doubt) {
            (Some(last), true) => Refusal::Unknown {
                reason: format!("the deadline passed; last: {}", last.why()),
            },
            (None | Some(Refusal::Unknown { .. }), false) => Refusal::DeadlineExceeded,
            (Some(last), false) => last.clone(),
            (None, true) => Refusal::Unknown {
                reason: "the deadline passed".into(),
            },
        }
    }

    /// A final refusal, except that an earlier attempt may have been applied after all.
    fn verdict(&self) -> Refusal {
        self.finally(self.last.as_deref().cloned().unwrap_or(Refusal::DeadlineExceeded))
    }

    /// What the caller is told of a final refusal, by whomever: not that nothing was applied, if some attempt may have been.
    #[must_use]
    pub fn finally(&self, refusal: Refusal) -> Refusal {
        if !self.in_doubt {
            return refusal;
        }
        Refusal::Unknown {
            reason: format!("an earlier attempt got lost; then: {}", refusal.why()),
        }
    }

    fn another(&mut self, view: &View, node: NodeId) -> Next {
        if !self.unable.contains(&node) {
            self.unable.push(node);
        }
        match self.choose(view) {
            Some(next) => {
                self.count += 1;
                Next::Send(next)
            }
            None => match self.gone.take() {
                Some(refusal) => Next::Fail(*refusal),
                None => self.pause(),
            },
        }
    }

    fn choose(&self, view: &View) -> Option<NodeId> {
        let able = |node: &NodeId| !self.unable.contains(node);
        if let Some(hint) = self.hint.filter(able) {
            return Some(hint);
        }
        let primary = view.primary(self.group).map(|primary| primary.node);
        let replicas = view.map.replicas(self.group);
        if self.kind.needs_primary() {
            return primary.filter(able).or_else(|| self.rotate(replicas).find(able));
        }
        // A replica first; whoever cannot serve it sends us to the primary, which can.
        let fallback = if self.unable.is_empty() {
            None
        } else {
            primary.filter(able)
        };
        fallback.or_else(|| self.rotate(replicas).find(able))
    }

    fn rotate<'a>(&self, replicas: &'a [NodeId]) -> impl Iterator<Item = NodeId> + use<'a> {
        let count = replicas.len().max(1);
        let start = usize::try_from(self.rotation % count as u64).unwrap_or(0);
        replicas.iter().cycle().skip(start).take(replicas.len()).copied()
    }

    fn pause(&mut self) -> Next {
        let pause = (PAUSE_MIN * 2u32.saturating_pow(self.pauses.min(10))).min(PAUSE_MAX);
        self.pauses += 1;
        self.unable.clear();
        self.hint = None;
        self.rotation = self.rotation.wrapping_add(1);
        Next::Pause(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::KeyspaceOptions;
    use crate::map::{ClusterId, ClusterMap, NodeInfo};
    use crate::routing::{Primary, RoutingTable};
    use fulcrum_types::{Epoch, Index, LogPosition, MapVersion, Mode};
    use std::sync::Arc;

    const EARLY: Duration = Duration::ZERO;

    fn table() -> (RoutingTable, GroupId) {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        for node in 1..=3 {
            let info = NodeInfo {
                address: format!("127.0.0.1:{node}"),
                zone: None,
            };
            map.set_node(NodeId(node), info);
        }
        let options = KeyspaceOptions {
            groups: 1,
            ..KeyspaceOptions::of(Mode::Sync, 3)
        };
        let id = map.add_keyspace("orders", options).unwrap();
        let group = map.groups_of(id).next().unwrap();
        (RoutingTable::new(Arc::new(map.with_version(MapVersion(1)))), group)
    }

    fn led_by(node: u64) -> (Arc<View>, GroupId) {
        let (table, group) = table();
        let primary = Primary {
            node: NodeId(node),
            epoch: Epoch(1),
        };
        table.set_primary(group, primary);
        (table.view(), group)
    }

    fn refused(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }

    const SAFE: Kind = Kind::Write { safe_twice: true };
    const UNSAFE: Kind = Kind::Write { safe_twice: false };

    #[test]
    fn a_write_goes_to_the_primary_and_follows_the_hint() {
        let (view, group) = led_by(2);
        let mut write = Attempts::new(group, SAFE, 0);
        assert_eq!(write.next(&view), Next::Send(NodeId(2)));
        let hinted = refused(Refusal::NotPrimary { hint: Some(NodeId(3)) });
        assert_eq!(write.after(&view, NodeId(2), hinted, EARLY), Next::Send(NodeId(3)));
    }

    #[test]
    fn hints_that_go_in_circles_end_in_a_pause() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, SAFE, 0);
        let mut next = write.next(&view);
        for _ in 0..3 {
            let Next::Send(node) = next else { break };
            let hint = Some(NodeId(node.0 % 3 + 1));
            next = write.after(&view, node, refused(Refusal::NotPrimary { hint }), EARLY);
        }
        assert!(matches!(next, Next::Pause(_)), "{next:?}");
    }

    #[test]
    fn a_write_without_a_key_is_never_sent_twice_once_it_may_have_been_applied() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, UNSAFE, 0);
        write.next(&view);
        let next = write.after(&view, NodeId(1), Failure::Lost("reset".into()), EARLY);
        assert!(matches!(next, Next::Fail(Refusal::Unknown { .. })), "{next:?}");
    }

    #[test]
    fn a_write_that_did_not_leave_is_sent_again_without_a_key() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, UNSAFE, 0);
        write.next(&view);
        let next = write.after(&view, NodeId(1), Failure::NotSent("refused".into()), EARLY);
        assert!(matches!(next, Next::Send(_)), "{next:?}");
    }

    #[test]
    fn once_an_attempt_is_lost_a_later_refusal_does_not_say_that_nothing_was_applied() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, SAFE, 0);
        write.next(&view);
        write.after(&view, NodeId(1), Failure::Lost("reset".into()), EARLY);
        let next = write.after(&view, NodeId(2), refused(Refusal::Overloaded), EARLY);
        assert!(matches!(next, Next::Fail(Refusal::Unknown { .. })), "{next:?}");
        assert_eq!(write.out_of_time().act(), Act::LookUp);
    }

    #[test]
    fn that_the_outcome_is_unknown_is_said_once() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, SAFE, 0);
        write.next(&view);
        write.after(&view, NodeId(1), Failure::Lost("reset".into()), EARLY);
        let unknown = Refusal::Unknown {
            reason: "the lease ran out".into(),
        };
        write.after(&view, NodeId(2), refused(unknown.clone()), EARLY);
        for (told, reason) in [
            (write.out_of_time(), "the deadline passed; last: the lease ran out"),
            (
                write.finally(unknown),
                "an earlier attempt got lost; then: the lease ran out",
            ),
        ] {
            assert_eq!(told, Refusal::Unknown { reason: reason.into() });
            assert_eq!(told.to_string().matches("the outcome is unknown").count(), 1, "{told}");
        }
    }

    #[test]
    fn a_read_tries_a_replica_and_then_the_primary() {
        let (view, group) = led_by(2);
        let replicas = view.map.replicas(group);
        let not_primary = replicas.iter().position(|node| *node != NodeId(2)).unwrap();
        let mut read = Attempts::new(group, Kind::Read(Level::Session), not_primary as u64);
        let Next::Send(first) = read.next(&view) else { panic!() };
        assert_ne!(first, NodeId(2));
        let behind = Refusal::CannotServe {
            level: Level::Session,
            bound: None,
            hint: None,
        };
        assert_eq!(read.after(&view, first, refused(behind), EARLY), Next::Send(NodeId(2)));
    }

    #[test]
    fn reads_spread_over_all_replicas() {
        let (view, group) = led_by(2);
        let mut seen: Vec<_> = (0..3)
            .map(|rotation| Attempts::new(group, Kind::Read(Level::Eventual), rotation).next(&view))
            .map(|next| if let Next::Send(node) = next { node.0 } else { 0 })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn a_want_of_replicas_is_waited_out_only_as_long_as_a_failover_takes() {
        let (view, group) = led_by(1);
        let few = || refused(Refusal::NotEnoughReplicas { have: 1, need: 2 });
        let mut write = Attempts::new(group, SAFE, 0);
        write.next(&view);
        let first = 2 * IN_SYNC_PATIENCE;
        assert!(matches!(write.after(&view, NodeId(1), few(), first), Next::Pause(_)));
        write.next(&view);
        let next = write.after(&view, NodeId(1), few(), first + IN_SYNC_PATIENCE);
        assert_eq!(next, Next::Fail(Refusal::NotEnoughReplicas { have: 1, need: 2 }));
    }

    #[test]
    fn a_lock_was_waited_for_already_so_it_is_asked_again_at_once() {
        let (view, group) = led_by(2);
        let mut write = Attempts::new(group, SAFE, 0);
        write.next(&view);
        let locked = Refusal::Locked {
            by: fulcrum_types::TransactionId::default(),
        };
        for _ in 0..3 {
            let next = write.after(&view, NodeId(2), refused(locked.clone()), EARLY);
            assert_eq!(next, Next::Send(NodeId(2)));
        }
        assert_eq!(write.out_of_time(), locked);
    }

    #[test]
    fn a_joint_ends_with_what_may_concern_one_and_goes_on_after_what_concerns_all() {
        let (view, group) = led_by(2);
        let mut joint = Attempts::new(group, Kind::Read(Level::Linearizable), 0).of_a_joint();
        assert_eq!(joint.next(&view), Next::Send(NodeId(2)));
        let lost = joint.after(&view, NodeId(2), Failure::Lost("reset".into()), EARLY);
        assert!(matches!(lost, Next::Send(_)), "{lost:?}");
        for refusal in [
            Refusal::Locked {
                by: fulcrum_types::TransactionId::default(),
            },
            Refusal::WrongGroup {
                map_version: MapVersion(9),
            },
            Refusal::Invalid {
                reason: "too much at once".into(),
            },
        ] {
            let next = joint.after(&view, NodeId(2), refused(refusal.clone()), EARLY);
            assert_eq!(next, Next::Fail(refusal));
        }
    }

    #[test]
    fn what_the_caller_must_change_is_told_at_once() {
        let (view, group) = led_by(1);
        let mut write = Attempts::new(group, SAFE, 0);
        write.next(&view);
        let invalid = Refusal::Invalid {
            reason: "key is empty".into(),
        };
        assert_eq!(
            write.after(&view, NodeId(1), refused(invalid.clone()), EARLY),
            Next::Fail(invalid)
        );
    }

    #[test]
    fn an_older_map_or_epoch_never_replaces_a_newer_one() {
        let (table, group) = table();
        let newer = Primary {
            node: NodeId(3),
            epoch: Epoch(5),
        };
        table.set_primary(group, newer);
        table.set_primary(
            group,
            Primary {
                node: NodeId(1),
                epoch: Epoch(4),
            },
        );
        assert_eq!(table.view().primary(group), Some(newer));
        let older = ClusterMap::new(ClusterId::new("test").unwrap());
        table.set_map(Arc::new(older));
        assert_eq!(table.view().map.version(), MapVersion(1));
    }

    #[test]
    fn a_log_let_go_by_one_replica_is_looked_for_at_the_others() {
        let (view, group) = led_by(1);
        let mut attempts = Attempts::new(group, Kind::Read(Level::Linearizable), 0);
        let compacted = |kept_after| Refusal::Compacted {
            group,
            after: LogPosition::default(),
            kept_after: Index(kept_after),
        };
        let refused = |kept_after| Failure::Refused(compacted(kept_after));
        assert_eq!(attempts.next(&view), Next::Send(NodeId(1)));
        let Next::Send(second) = attempts.after(&view, NodeId(1), refused(9), EARLY) else {
            panic!("another replica may have kept more")
        };
        let gone = Failure::NotSent("gone".into());
        let Next::Send(third) = attempts.after(&view, second, gone, EARLY) else {
            panic!("another replica may have kept more")
        };
        assert!(third != second && third != NodeId(1));
        assert_eq!(
            attempts.after(&view, third, refused(7), EARLY),
            Next::Fail(compacted(7))
        );
    }
}
