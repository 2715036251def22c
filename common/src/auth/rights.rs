//! The one place that decides: [`authorize`]. Pure.

use crate::limits::MAX_NAME_BYTES;
use fulcrum_types::{Refusal, Right};
use std::fmt;
use std::str::FromStr;

/// Where a right holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In all keyspaces, and for what belongs to none: nodes, placement, tokens.
    All,
    /// In the keyspace of that name, whether it exists by now or not.
    Keyspace(String),
}

/// A right, and where it holds: `orders:read`, `*:admin`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// What.
    pub right: Right,
}

impl Scope {
    /// All keyspaces, as they are written.
    pub const ALL: &str = "*";

    /// From a name or `*`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            Self::ALL => Scope::All,
            name => Scope::Keyspace(name.to_owned()),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Scope::All => Self::ALL,
            Scope::Keyspace(name) => name,
        }
    }

    /// Whether a right that holds here holds for `wanted`; `*` is covered by `*` alone.
    fn covers(&self, wanted: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Keyspace(name) => name == wanted,
        }
    }
}

impl Grant {
    /// Everything.
    #[must_use]
    pub const fn of_root() -> Self {
        Self {
            scope: Scope::All,
            right: Right::Admin,
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scope.name(), self.right)
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scope, right) = text
            .rsplit_once(':')
            .filter(|(scope, _)| !scope.is_empty())
            .ok_or_else(|| format!("'{text}' is no right in a keyspace: write orders:read or '*:admin'"))?;
        Ok(Self {
            scope: Scope::of(scope),
            right: right.parse()?,
        })
    }
}

/// Whether these grants allow `right` in the keyspace of that name, or in all of them (`*`).
pub(super) fn allows(grants: &[Grant], keyspace: &str, right: Right) -> bool {
    let does = |grant: &Grant| grant.scope.covers(keyspace) && grant.right.covers(right);
    grants.iter().any(does)
}

/// The same, with what is told to who may not.
///
/// # Errors
/// None of them does: the refusal repeats what was asked for, and says nothing else.
pub fn authorize(grants: &[Grant], keyspace: &str, right: Right) -> Result<(), Refusal> {
    if allows(grants, keyspace, right) {
        return Ok(());
    }
    // Callers say what they like, and this goes into logs: what can be no name is cut, and breaks no line.
    let shown = keyspace.chars().take(MAX_NAME_BYTES).flat_map(char::escape_debug);
    Err(Refusal::Denied {
        scope: shown.collect(),
        right,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `held` allows read, write and admin in a keyspace.
    fn allowed(held: &[&str], keyspace: &str) -> [bool; 3] {
        let grants: Vec<Grant> = held.iter().map(|grant| grant.parse().unwrap()).collect();
        Right::ALL.map(|right| authorize(&grants, keyspace, right).is_ok())
    }

    #[test]
    fn what_is_allowed() {
        const NONE: [bool; 3] = [false; 3];
        const READ: [bool; 3] = [true, false, false];
        const WRITE: [bool; 3] = [false, true, false];
        const BOTH: [bool; 3] = [true, true, false];
        const ALL: [bool; 3] = [true; 3];
        let table: [(&[&str], [[bool; 3]; 3]); 9] = [
            // Held, and what that allows in `a`, in `b`, in all.
            (&[], [NONE, NONE, NONE]),
            (&["a:read"], [READ, NONE, NONE]),
            (&["a:write"], [WRITE, NONE, NONE]),
            (&["a:admin"], [ALL, NONE, NONE]),
            (&["a:read", "b:write"], [READ, WRITE, NONE]),
            (&["a:read", "a:write"], [BOTH, NONE, NONE]),
            (&["*:read"], [READ, READ, READ]),
            (&["*:read", "a:write"], [BOTH, READ, READ]),
            (&["*:admin"], [ALL, ALL, ALL]),
        ];
        for (held, [in_a, in_b, in_all]) in table {
            assert_eq!(allowed(held, "a"), in_a, "{held:?} in a");
            assert_eq!(allowed(held, "b"), in_b, "{held:?} in b");
            assert_eq!(allowed(held, "*"), in_all, "{held:?} in all");
        }
        assert_eq!(allowed(&["a:admin"], "ab"), NONE, "a name is not a prefix");
        assert_eq!(allowed(&["a:admin"], ""), NONE);
    }

    #[test]
    fn a_refusal_names_what_was_asked_for_and_nothing_else() {
        let held = ["secret-plans:read".parse().unwrap()];
        let refused = authorize(&held, "orders", Right::Write).unwrap_err().to_string();
        assert!(refused.contains("'orders:write'"), "{refused}");
        assert!(!refused.contains("secret-plans"), "{refused}");
    }

    #[test]
    fn what_can_be_no_keyspace_forges_no_line_of_a_log_and_fills_none() {
        let forged = format!(
            "a\n2026-01-01T00:00:00Z INFO fulcrum::audit: line={{}}{}",
            "x".repeat(1 << 20)
        );
        let refused = authorize(&[], &forged, Right::Read).unwrap_err().to_string();
        assert!(
            !refused.contains('\n') && refused.contains("'a\\n2026"),
            "{refused:.200}"
        );
        assert!(refused.len() < 500, "{}", refused.len());
    }

    #[test]
    fn grants_are_read_as_they_are_written() {
        for text in ["orders:read", "*:admin", "a:b:write"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        for text in ["orders", ":read", "orders:", "orders:all", ""] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }
}
