//! Questions to other groups, and what becomes of the answers.

use super::group::Group;
use super::shared::{Failure, Shared};
use crate::event::{AskId, Output};
use fulcrum_types::{Answered, GroupId, Now, Operation, Participant, Refusal, TransactionId, TransactionOperation};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why another group is asked.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A participant wants to know what was decided.
    Settle(TransactionId),
    /// The home group tells a participant what was decided.
    Tell { to: Participant, ids: Vec<TransactionId> },
    /// Reads have met intents of this transaction.
    Read(TransactionId),
}

/// The questions of a node that are not answered, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    open: BTreeMap<AskId, GroupId>,
}

impl Questions {
    fn open(&mut self, group: GroupId) -> AskId {
        self.last += 1;
        let ask = AskId(self.last);
        self.open.insert(ask, group);
        ask
    }

    /// Whose question was answered.
    pub(super) fn close(&mut self, ask: AskId) -> Option<GroupId> {
        self.open.remove(&ask)
    }
}

impl Group {
    pub(super) fn ask_group(
        &mut self,
        shared: &mut Shared,
        to: Participant,
        operation: TransactionOperation,
        deadline: Duration,
        purpose: Purpose,
    ) -> AskId {
        let ask = shared.questions.open(self.id);
        self.asking.insert(ask, purpose);
        shared.out.push(Output::Ask {
            ask,
            to,
            operation: Operation::Transaction(operation),
            deadline,
        });
        ask
    }

    /// Another group has answered, or did not in time.
    pub(super) fn answered(
        &mut self,
        shared: &mut Shared,
        now: Now,
        ask: AskId,
        result: Result<Answered, Refusal>,
    ) -> Result<(), Failure> {
        match self.asking.remove(&ask) {
            Some(Purpose::Settle(id)) => self.settled(now.mono, id, result),
            Some(Purpose::Tell { to, ids }) => self.told(to, &ids, &result),
            Some(Purpose::Read(id)) => return self.intent_looked_up(shared, now, ask, id, result),
            None => {}
        }
        Ok(())
    }
}
