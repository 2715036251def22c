//! What happens to machines and to what they are sent, and what groups have recorded.

use super::{GROUPS, Printed, Story, number};
use fulcrum_tests::sim::time::{MS, SEC};
use fulcrum_tests::sim::transactions::judge::{is_finished, what_is_left};
use fulcrum_tests::sim::transactions::moments::{Before, InStore, Mishap, Told};
use fulcrum_tests::sim::transactions::questions::Owner;
use fulcrum_tests::sim::world::World;
use fulcrum_types::{Decision, GroupId, NodeId, Resolved, TransactionAnswer, Verdict, Vote};

/// What a coordinator asks and says, as stories name it.
const NAMES: [&str; 6] = [
    "prepare",
    "decide commit",
    "decide abort",
    "resolve",
    "forget",
    "heartbeat",
];

fn known(words: &[&str]) -> Result<&'static str, String> {
    let name = words.join(" ");
    let known = NAMES.into_iter().chain(["answer"]).find(|known| *known == name);
    known.ok_or_else(|| format!("'{name}' is nothing that is asked or said"))
}

impl Story {
    /// What is going to go wrong while a transaction commits.
    pub(super) fn have_in_store(&mut self, mishap: &str) -> Result<(), String> {
        let words: Vec<&str> = mishap.split(' ').collect();
        let (group, operation, mishap) = match words.as_slice() {
            ["its", "coordinator", "dies", "before", effect @ ..] => {
                let (nth, effect) = match effect {
                    ["the", "second", effect @ ..] => (1, effect),
                    ["the", "third", effect @ ..] => (2, effect),
                    effect => (0, effect),
                };
                let doom = (known(effect)?, nth);
                self.world.transactions.coordinators[self.coordinator].dies_before = Some(doom);
                return Ok(());
            }
            [
                "the",
                "primary",
                "of",
                group,
                "dies",
                "before",
                operation @ ..,
                "is",
                moment,
            ] => {
                let before = match *moment {
                    "ordered" => Before::Ordered,
                    "sent" => Before::Sent,
                    "committed" => Before::Committed,
                    "answered" => Before::Answered,
                    other => return Err(format!("'{other}' is no moment")),
                };
                (group, operation, Mishap::Dies(before))
            }
            [operation @ .., "to", group, "is", ms, "ms", "late"] => (group, operation, Mishap::Late(number(ms)? * MS)),
            _ => return Err(format!("'{mishap}' does not happen")),
        };
        let (group, operation) = (self.group(group)?, known(operation)?);
        let one = InStore {
            group,
            operation,
            mishap,
        };
        self.world.transactions.moments.in_store.push(one);
        Ok(())
    }

    /// The primary of a group dies, with all that it has not synced.
    pub(super) fn kill(&mut self, group: &str) -> Printed {
        let group = self.group(group)?;
        let primary = self.primary(group).ok_or("there is no primary")?;
        self.world.die(primary);
        Ok(Vec::new())
    }

    /// The coordinator that was asked last dies; the other one is asked from now on.
    pub(super) fn kill_coordinator(&mut self) -> Printed {
        self.world.kill_coordinator(self.coordinator, "as the story says");
        self.coordinator = 1 - self.coordinator;
        Ok(Vec::new())
    }

    /// What groups have answered since the last look, but to reads, look-ups and heartbeats.
    pub(super) fn answers(&mut self) -> Printed {
        let told = self.world.transactions.moments.told.replace(Vec::new());
        let counts = |one: &Told| NAMES[..5].contains(&one.operation);
        let told: Vec<_> = (told.unwrap_or_default().iter().filter(|one| counts(one)))
            .map(|one| self.in_words(one))
            .collect();
        if told.is_empty() {
            return Ok(vec!["nobody is answered".into()]);
        }
        Ok(told)
    }

    fn in_words(&self, one: &Told) -> String {
        let who = match one.owner {
            Owner::Node(..) => "a group",
            Owner::Coordinator(..) => "the coordinator",
            Owner::Client(..) => "a client",
            Owner::Backup(_) => "a backup",
        };
        let names = GROUPS.into_iter().zip(&self.world.plan.groups);
        let of = names.into_iter().find(|(_, plan)| plan.group == one.group);
        let group = of.map_or("?", |(name, _)| name);
        format!(
            "{group} tells {who}, asked to {}: {}",
            one.operation,
            answer_in_words(&one.answer)
        )
    }

    /// What each group has on record, by its primary.
    pub(super) fn records(&self) -> Printed {
        let mut told = Vec::new();
        for name in GROUPS {
            let group = self.group(name)?;
            match self.primary(group) {
                Some(primary) => told.extend(self.records_at(name, group, primary)?),
                None => told.push(format!("{name} has no primary")),
            }
        }
        if told.is_empty() {
            told.push("nothing is recorded".into());
        }
        Ok(told)
    }

    fn records_at(&self, name: &str, group: GroupId, primary: NodeId) -> Printed {
        let running = self.world.hosts[&primary].node.as_ref().ok_or("it is off")?;
        let left = running.unfinished(group).map_err(|error| error.to_string())?;
        let left = left.ok_or("it is not there")?;
        let mut told = Vec::new();
        for (of, transaction) in &self.transactions {
            let id = transaction.id;
            let verdict = running.verdict_on(group, id).map_err(|error| error.to_string())?;
            let what = match verdict {
                Some(Verdict::Commit(_)) if left.unresolved.contains(&id) => "committed, unresolved".into(),
                Some(Verdict::Commit(_)) => "committed".into(),
                Some(Verdict::Abort { cause, .. }) => format!("aborted ({})", cause.name()),
                None if left.prepared.iter().any(|(one, _)| *one == id) => "prepared".into(),
                None => continue,
            };
            told.push(format!("{name} has {of} {what}"));
        }
        if left.locked_keys > 0 || left.intents {
            let intents = if left.intents { "intents" } else { "no intent" };
            let keys = if left.locked_keys == 1 { "key" } else { "keys" };
            told.push(format!("{name} has {} {keys} locked, and {intents}", left.locked_keys));
        }
        Ok(told)
    }

    /// All machines run again; in the end no replica has anything left of a transaction.
    pub(super) fn heal(&mut self) -> Printed {
        let transactions = &self.world.transactions;
        let waits = transactions.coordinators.iter().any(|one| one.dies_before.is_some());
        if waits || !transactions.moments.in_store.is_empty() {
            return Err("what was to go wrong has not".into());
        }
        self.world.heal();
        let due = self.world.now + 20 * SEC;
        let done = |world: &World| world.is_settled() && world.is_quiet() && is_finished(world);
        while !done(&self.world) {
            if self.world.now >= due || self.world.failure.is_some() {
                return Err(what_is_left(&self.world));
            }
            self.world.run_until(self.world.now + MS);
        }
        Ok(vec!["nothing is left".into()])
    }

    pub(super) fn primary(&self, group: GroupId) -> Option<NodeId> {
        let primary = self.world.metadata.read(group).primary?;
        let status = self.world.status(group, primary)?;
        status.ready.then_some(primary)
    }
}

fn answer_in_words(answer: &TransactionAnswer) -> String {
    match answer {
        TransactionAnswer::Vote(Vote::Prepared { version }) => format!("prepared, version {}", version.0),
        TransactionAnswer::Vote(Vote::Resolved { version }) => format!("resolved, version {}", version.0),
        TransactionAnswer::Vote(Vote::Refused(cause)) => format!("refused ({})", cause.name()),
        TransactionAnswer::Vote(Vote::Decided(decision)) | TransactionAnswer::Decision(decision) => match decision {
            Decision::Committed { .. } => "committed".into(),
            Decision::Aborted(cause) => format!("aborted ({})", cause.name()),
        },
        TransactionAnswer::Resolved(all) => all.iter().map(resolved_in_words).collect::<Vec<_>>().join(", "),
        TransactionAnswer::Done => "done".into(),
        other => format!("{other:?}"),
    }
}

fn resolved_in_words(resolved: &Resolved) -> &'static str {
    match resolved {
        Resolved::Now => "resolved now",
        Resolved::Before => "resolved before",
        Resolved::Nothing => "nothing is here",
    }
}
