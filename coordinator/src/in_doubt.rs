//! What is not finished: every group is asked, and what they say is put together. Nothing of it goes through the core.

use crate::coordinator::Coordinator;
use fulcrum_common::auth::Caller;
use fulcrum_common::routing::Groups;
use fulcrum_types::{
    Answer, Answered, GroupId, InDoubt, ListInDoubt, Mode, Operation, Participant, Pending, Refusal, TransactionAnswer,
    TransactionInfo, TransactionOperation,
};
use futures::StreamExt;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Most that are listed, and how many if nobody says.
const LISTED_MAX: u32 = 1_000;
/// Groups that are asked at a time.
const AT_ONCE: usize = 32;
/// A group that has not answered by then counts as silent: the others' answers are not to be lost with its.
const PATIENCE: Duration = Duration::from_secs(2);

impl Coordinator {
    /// Transactions that are not finished, by what all groups say that the caller sees; the oldest first.
    ///
    /// # Errors
    /// No such keyspace, or one that takes part in no transactions; overload. Groups that do not answer are named in the list.
    pub async fn list(&self, request: ListInDoubt, caller: &Caller, until: Instant) -> Result<InDoubt, Refusal> {
        let groups = self.asked_groups(request.keyspace.as_deref(), caller)?;
        let _one_of_few = self.lists().try_acquire().map_err(|_| Refusal::Overloaded)?;
        let half = until.saturating_duration_since(Instant::now()) / 2;
        let (door, patience) = (self.groups(), half.min(PATIENCE));
        let answers = groups.into_iter().map(|to| ask(door.clone(), to, patience));
        let mut answers = futures::stream::iter(answers).buffer_unordered(AT_ONCE);
        let limit = if request.limit == 0 { LISTED_MAX } else { request.limit };
        let limit = limit.min(LISTED_MAX) as usize;
        let wanted = |info: &TransactionInfo| request.unresolved || info.pending == Pending::InDoubt;
        let mut list = InDoubt::default();
        while let Some((group, answer)) = answers.next().await {
            let Some(found) = answer else {
                list.silent.push(group);
                continue;
            };
            let found = found.into_iter().filter(wanted).map(|info| (group, info));
            list.transactions.extend(found);
            // No more is kept than will be told, however many groups there are.
            list.transactions
                .sort_by_key(|(group, info)| (Reverse(info.age), info.id, *group));
            list.transactions.truncate(limit);
        }
        list.silent.sort_unstable();
        Ok(list)
    }

    fn asked_groups(&self, keyspace: Option<&str>, caller: &Caller) -> Result<Vec<Participant>, Refusal> {
        let map = self.map();
        let Some(name) = keyspace else {
            let mut groups: Vec<Participant> = map.transactional_groups().collect();
            groups.retain(|group| map.keyspace(group.keyspace).is_some_and(|one| caller.sees(&one.name)));
            return Ok(groups);
        };
        let keyspace = map.keyspace_by_name(name).ok_or_else(|| Refusal::UnknownKeyspace {
            keyspace: name.to_owned(),
        })?;
        if keyspace.options.mode != Mode::Sync {
            return Err(Refusal::NoTransactions {
                keyspace: keyspace.name.clone(),
                mode: keyspace.options.mode,
            });
        }
        let mut groups: Vec<Participant> = map.transactional_groups().collect();
        groups.retain(|group| group.keyspace == keyspace.id);
        Ok(groups)
    }
}

/// What a group says; nothing if it is silent.
async fn ask(door: Arc<dyn Groups>, to: Participant, patience: Duration) -> (GroupId, Option<Vec<TransactionInfo>>) {
    // All of them: what is in doubt must not be crowded out by what is only unresolved.
    let operation = Operation::Transaction(TransactionOperation::List { limit: u32::MAX });
    let asked = door.ask(to, operation, patience);
    let found = match tokio::time::timeout(patience, asked).await {
        Ok(Ok(Answered {
            answer: Answer::Transaction(TransactionAnswer::List(found)),
            ..
        })) => Some(found),
        Ok(Err(refusal)) => {
            tracing::debug!(group = %to.group, %refusal, "a group does not tell what is in doubt");
            None
        }
        Ok(Ok(_)) | Err(_) => None,
    };
    (to.group, found)
}
