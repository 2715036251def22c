//! Conversions of a cut as routers give it out, and take it back.

use super::{Malformed, v1};
use fulcrum_types::{Cut, CutId, CutPoint, GroupId, KeyspaceId, Participant, ReplicatedTime};

/// Where a cut goes through its groups, as the wire has it.
#[must_use]
pub fn points_to_wire(cut: &Cut) -> Vec<v1::cut::Group> {
    let point = |(at, point): (&Participant, &CutPoint)| v1::cut::Group {
        keyspace: at.keyspace.0,
        id: at.group.0,
        at: Some(point.position.into()),
        time_ms: point.time.0,
    };
    cut.points.iter().map(point).collect()
}

/// A cut from the wire.
///
/// # Errors
/// The field that is missing.
pub fn cut_from_wire(wire: &v1::Cut) -> Result<Cut, Malformed> {
    let point = |group: &v1::cut::Group| {
        let at = Participant {
            keyspace: KeyspaceId(group.keyspace),
            group: GroupId(group.id),
        };
        let point = CutPoint {
            position: group.at.ok_or_else(|| Malformed::missing("cut.group.at"))?.into(),
            time: ReplicatedTime(group.time_ms),
        };
        Ok((at, point))
    };
    Ok(Cut {
        id: CutId(wire.id),
        points: wire.groups.iter().map(point).collect::<Result<_, Malformed>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Epoch, Index, LogPosition};

    #[test]
    fn a_cut_comes_back_as_it_was_given_out() {
        let at = |group| Participant {
            keyspace: KeyspaceId(1),
            group: GroupId(group),
        };
        let point = |index| CutPoint {
            position: LogPosition {
                epoch: Epoch(2),
                index: Index(index),
            },
            time: ReplicatedTime(index * 10),
        };
        let cut = Cut {
            id: CutId(7),
            points: [(at(3), point(4)), (at(5), point(6))].into(),
        };
        let mut wire = v1::Cut {
            id: 7,
            groups: points_to_wire(&cut),
            ..v1::Cut::default()
        };
        assert_eq!(cut_from_wire(&wire), Ok(cut));
        wire.groups[0].at = None;
        assert!(cut_from_wire(&wire).is_err());
    }
}
