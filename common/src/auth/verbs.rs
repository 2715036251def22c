//! What operators do: the verbs that need `admin`, and are written down.

/// A verb of operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Makes a keyspace.
    CreateKeyspace,
    /// Drops one, with its data.
    DropKeyspace,
    /// Makes another replica of a group the primary.
    Promote,
    /// Starts a group from what is left.
    ForceStart,
    /// Empties a node, or calls that off.
    DrainNode,
    /// Changes how patient the cluster is.
    SetPlacement,
    /// Has a transaction aborted unless it is decided.
    ResolveTransaction,
    /// Makes a cut through all groups, of which a backup is made.
    BeginBackup,
    /// Reads a group of a cut.
    ReadBackup,
    /// Has a cut kept for longer.
    KeepBackup,
    /// Has it kept no longer.
    EndBackup,
    /// Makes a token.
    CreateToken,
    /// Lists the tokens.
    ListTokens,
    /// Changes the rights of one.
    SetTokenRights,
    /// Makes one good for nothing.
    RevokeToken,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::CreateKeyspace,
        Self::DropKeyspace,
        Self::Promote,
        Self::ForceStart,
        Self::DrainNode,
        Self::SetPlacement,
        Self::ResolveTransaction,
        Self::BeginBackup,
        Self::ReadBackup,
        Self::KeepBackup,
        Self::EndBackup,
        Self::CreateToken,
        Self::ListTokens,
        Self::SetTokenRights,
        Self::RevokeToken,
    ];

    /// As it is written down.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verb::CreateKeyspace => "keyspace.create",
            Verb::DropKeyspace => "keyspace.drop",
            Verb::Promote => "failover.promote",
            Verb::ForceStart => "failover.force",
            Verb::DrainNode => "node.drain",
            Verb::SetPlacement => "placement.set",
            Verb::ResolveTransaction => "txn.resolve",
            Verb::BeginBackup => "backup.begin",
            Verb::ReadBackup => "backup.read",
            Verb::KeepBackup => "backup.keep",
            Verb::EndBackup => "backup.end",
            Verb::CreateToken => "token.create",
            Verb::ListTokens => "token.list",
            Verb::SetTokenRights => "token.rights",
            Verb::RevokeToken => "token.revoke",
        }
    }

    /// Whether `admin` in one keyspace is enough; else it has to be in all. What a transaction or a node concerns is not one
    /// keyspace, a cut goes through all that take part in transactions, and who gives out rights must have them all.
    #[must_use]
    pub const fn is_of_one_keyspace(self) -> bool {
        match self {
            Verb::CreateKeyspace | Verb::DropKeyspace | Verb::Promote | Verb::ForceStart => true,
            Verb::DrainNode
            | Verb::SetPlacement
            | Verb::ResolveTransaction
            | Verb::BeginBackup
            | Verb::ReadBackup
            | Verb::KeepBackup
            | Verb::EndBackup
            | Verb::CreateToken
            | Verb::ListTokens
            | Verb::SetTokenRights
            | Verb::RevokeToken => false,
        }
    }
}
