//! Properties that hold at every moment, watched while a run goes on. One property a file.
//!
//! | file | property | source |
//! | --- | --- | --- |
//! | [`configurations`] | a group's configurations follow from each other | DESIGN section 5; PacificA |
//! | [`primaries`] | one primary, in one life, an epoch; nothing durable goes back | DESIGN section 5, rules 3 and 4 |
//! | [`agreement`] | what is committed is the same everywhere, for ever | DESIGN section 5: log matching |
//! | [`acknowledgements`] | in `async` nothing is acknowledged in an epoch once a later one has acknowledged | DESIGN section 5, `async` |
//! | [`records`] | a transaction is committed in all its groups or in none, for ever; clients are told so | DESIGN section 7, rules 14, 15 |
//! | [`durable`] | who is said to have made a write durable has | DESIGN section 5, `sync`; rule 5 |
//!
//! What clients were told is judged at the end by `fulcrum-checker`; what one replica can see of itself is asserted by its own
//! `check_invariants`, after every turn.

pub mod acknowledgements;
pub mod agreement;
pub mod configurations;
pub mod durable;
pub mod primaries;
pub mod records;

/// What has to be remembered to judge.
#[derive(Debug, Default)]
pub struct Watch {
    /// Who led which epoch.
    pub primaries: primaries::Primaries,
    /// What was committed.
    pub agreement: agreement::Agreement,
    /// Which epoch acknowledged last.
    pub acknowledgements: acknowledgements::Acknowledgements,
    /// What groups have recorded of transactions.
    pub records: records::Records,
}
