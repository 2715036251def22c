//! What the bank's clients asked, when, and what they were told.

use crate::transactions::{TransactionKey, TransactionOutcome};
use crate::violation::Violation;
use fulcrum_types::ClientId;
use std::fmt;

/// An account: a key whose value is a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Where it is kept.
    pub key: TransactionKey,
    /// Its balance before all transfers.
    pub opening: i64,
}

/// What was asked, and what came of it. Accounts are named by their place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Move an amount, in one transaction.
    Transfer {
        /// From this account,
        from: usize,
        /// to this one.
        to: usize,
        /// How much.
        amount: u64,
        /// Whether it was done. A transfer that the application declined, for want of money say, has failed.
        outcome: TransactionOutcome,
    },
    /// Read all accounts, in one read-only transaction that was answered.
    Statement {
        /// The balances in the order of the accounts; `None` for a key without a value.
        balances: Vec<Option<i64>>,
    },
}

/// One transaction of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankOperation {
    /// Whose it is.
    pub client: ClientId,
    /// When its first request was sent.
    pub invoked: u64,
    /// When its client was told the outcome, if it was.
    pub returned: Option<u64>,
    /// What it was.
    pub call: Call,
}

/// One client's transactions, written by that client alone.
#[derive(Clone, Debug)]
pub struct BankLog {
    client: ClientId,
    operations: Vec<BankOperation>,
}

/// Names a transfer that has begun, until its outcome is written down.
#[derive(Debug)]
#[must_use = "a transfer whose outcome is not written down counts as unknown"]
pub struct TransferTicket(usize);

impl BankLog {
    /// An empty log.
    #[must_use]
    pub const fn new(client: ClientId) -> Self {
        BankLog {
            client,
            operations: Vec::new(),
        }
    }

    /// Writes down that a transfer begins. Attempts under ids of their own may be one transfer here, if all but the last
    /// are known to have failed.
    pub fn begin(&mut self, now: u64, from: usize, to: usize, amount: u64) -> TransferTicket {
        let call = Call::Transfer {
            from,
            to,
            amount,
            outcome: TransactionOutcome::Unknown,
        };
        self.push(now, None, call);
        TransferTicket(self.operations.len() - 1)
    }

    /// Writes down how it ended.
    pub fn end(&mut self, ticket: TransferTicket, now: u64, ended: TransactionOutcome) {
        let operation = &mut self.operations[ticket.0];
        operation.returned = (ended != TransactionOutcome::Unknown).then_some(now);
        if let Call::Transfer { outcome, .. } = &mut operation.call {
            *outcome = ended;
        }
    }

    /// Writes down what a read-only transaction over all accounts has seen.
    pub fn statement(&mut self, begun: u64, now: u64, balances: Vec<Option<i64>>) {
        self.push(begun, Some(now), Call::Statement { balances });
    }

    fn push(&mut self, invoked: u64, returned: Option<u64>, call: Call) {
        self.operations.push(BankOperation {
            client: self.client,
            invoked,
            returned,
            call,
        });
    }
}

/// The bank: its accounts, and all that was asked of it in the order in which it began.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    operations: Vec<BankOperation>,
}

impl Ledger {
    /// Joins what the clients wrote down.
    ///
    /// # Panics
    /// If a transfer names an account that is not there: the recorder is wrong, and no judgement would mean anything.
    #[must_use]
    pub fn merge(accounts: Vec<Account>, logs: impl IntoIterator<Item = BankLog>) -> Self {
        Ledger::of(accounts, logs.into_iter().flat_map(|log| log.operations).collect())
    }

    pub(super) fn of(accounts: Vec<Account>, mut operations: Vec<BankOperation>) -> Self {
        let is_known = |o: &BankOperation| match o.call {
            Call::Transfer { from, to, .. } => from.max(to) < accounts.len(),
            Call::Statement { .. } => true,
        };
        assert!(
            operations.iter().all(is_known),
            "a transfer names an account that is not there"
        );
        operations.sort_by_key(|o| (o.invoked, o.returned.unwrap_or(u64::MAX), o.client));
        Ledger { accounts, operations }
    }

    /// The accounts.
    #[must_use]
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The operations, in the order in which they began.
    #[must_use]
    pub fn operations(&self) -> &[BankOperation] {
        &self.operations
    }

    /// The violation with its operations written out, one a line.
    #[must_use]
    pub fn describe(&self, violation: &Violation) -> String {
        violation.with_lines(|place| self.operations.get(place).map(|operation| self.line(operation)))
    }

    /// The name of an account for people.
    pub(super) fn name(&self, account: usize) -> String {
        let known = self.accounts.get(account).map(|a| a.key.to_string());
        known.unwrap_or_else(|| format!("account {account}"))
    }

    fn line(&self, operation: &BankOperation) -> String {
        match &operation.call {
            Call::Transfer { from, to, .. } => {
                format!("{operation} ({} to {})", self.name(*from), self.name(*to))
            }
            Call::Statement { .. } => operation.to_string(),
        }
    }
}

impl fmt::Display for BankOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}..", self.client, self.invoked)?;
        match self.returned {
            Some(end) => write!(f, "{end}] ")?,
            None => f.write_str("?] ")?,
        }
        match &self.call {
            Call::Transfer {
                from,
                to,
                amount,
                outcome,
            } => {
                write!(f, "transfer {amount} from {from} to {to} -> ")?;
                f.write_str(match outcome {
                    TransactionOutcome::Committed => "committed",
                    TransactionOutcome::Failed => "failed",
                    TransactionOutcome::Unknown => "unknown",
                })
            }
            Call::Statement { balances } => {
                let total: i128 = balances.iter().flatten().map(|b| i128::from(*b)).sum();
                write!(f, "statement of {} accounts, total {total}", balances.len())
            }
        }
    }
}
