//! What isolation forbids, one anomaly a test, at the level of one machine or two.

use super::*;

/// Two transactions write the same two keys, each in two groups: what is there afterwards is all one's or all the other's.
#[test]
fn dirty_write() {
    let mut groups = [Bench::new(Limits::default()), Bench::new(Limits::default())];
    assert_eq!(groups[0].prepare(id(1), part().put("x", "1")), prepared(1));
    assert_eq!(groups[1].prepare(id(2), part().put("y", "2")), prepared(1));
    assert_eq!(
        groups[1].prepare(id(1), part().put("y", "1")),
        blocked(id(2)),
        "the older waits"
    );
    let dies = refused(AbortCause::Conflict { with: id(1) });
    assert_eq!(
        groups[0].prepare(id(2), part().put("x", "2")),
        dies,
        "the younger dies: no deadlock"
    );
    groups.iter_mut().for_each(|group| {
        group.abort(id(2));
    });
    assert_eq!(groups[1].prepare(id(1), part().put("y", "1")), prepared(4));
    groups.iter_mut().for_each(|group| {
        group.commit(id(1));
    });
    assert_eq!(groups[0].get("x").unwrap().0, "1");
    assert_eq!(groups[1].get("y").unwrap().0, "1");
}

/// Nobody sees what is not committed, and what was aborted was never there.
#[test]
fn dirty_read() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("x", "old"));
    bench.prepare(id(1), part().put("x", "dirty"));
    assert_eq!(bench.get("x").unwrap().0, "old");
    assert_eq!(
        bench.machine.scan(&bench.store, b"", b"", 10, 1000).unwrap().rows[0]
            .1
            .value,
        "old"
    );
    bench.abort(id(1));
    assert_eq!(bench.get("x"), Some(("old".into(), 1)));
}

/// Two read the same value and write what they made of it: only one can commit.
#[test]
fn lost_update() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("x", "10"));
    let add = |value| part().read("x", 1).put("x", value);
    assert_eq!(bench.prepare(id(1), add("11")), prepared(2));
    assert_eq!(bench.transact(T, id(2), add("12")), blocked(id(1)));
    bench.commit(id(1));
    let cause = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    assert_eq!(
        bench.transact(T, id(2), add("12")),
        voted(Vote::Decided(Decision::Aborted(cause)))
    );
    assert_eq!(bench.get("x").unwrap().0, "11");
}

/// One that read x before and y after another's commit to both cannot commit on it.
#[test]
fn read_skew() {
    let mut groups = [Bench::new(Limits::default()), Bench::new(Limits::default())];
    let mut each = |work: &mut dyn FnMut(&mut Bench)| groups.iter_mut().for_each(work);
    each(&mut |group| {
        group.write(T, None, put("k", "1"));
    });
    let (x_before, y_after) = (1, 2);
    each(&mut |group| {
        group.prepare(id(1), part().put("k", "2"));
    });
    each(&mut |group| {
        group.commit(id(1));
    });
    let no = refused(AbortCause::ReadInvalidated { group: GROUP, read: 0 });
    assert_eq!(groups[0].prepare(id(2), part().read("k", x_before)), no);
    assert_eq!(groups[1].prepare(id(2), part().read("k", y_after)), prepared(4));
}

/// Two read both keys and write one each: what is read is locked, so that one of them must give up.
#[test]
fn write_skew() {
    let mut groups = [Bench::new(Limits::default()), Bench::new(Limits::default())];
    assert_eq!(groups[0].prepare(id(1), part().put("x", "off")), prepared(1));
    assert_eq!(groups[1].prepare(id(1), part().read("y", 0)), prepared(1));
    let dies = refused(AbortCause::Conflict { with: id(1) });
    assert_eq!(groups[0].prepare(id(2), part().read("x", 0)), dies);
    assert_eq!(groups[1].prepare(id(2), part().put("y", "off")), dies);
    // In one group as well, with the commit in between.
    let mut bench = Bench::new(Limits::default());
    assert_eq!(
        bench.transact(T, id(1), part().read("y", 0).put("x", "off")),
        one_group_commit(id(1), 1)
    );
    let cause = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    assert_eq!(
        bench.transact(T, id(2), part().read("x", 0).put("y", "off")),
        voted(Vote::Decided(Decision::Aborted(cause)))
    );
}

/// Without read locks it would be there.
#[cfg(feature = "planted-bugs")]
#[test]
fn write_skew_needs_read_locks_to_be_prevented() {
    let mut bench = Bench::new(Limits::default());
    bench
        .machine
        .plant(crate::node::Bugs::of(crate::node::Bug::ReleaseReadLocksEarly));
    assert_eq!(bench.prepare(id(1), part().read("y", 0)), prepared(1));
    assert_eq!(
        bench.prepare(id(2), part().put("y", "off")),
        prepared(2),
        "it should die"
    );
}

/// Two write one key each, two others read both: they must not see them in opposite orders. Whoever saw one write without the
/// other holds what it read until it has committed, so the other write is not there yet for anybody.
#[test]
fn long_fork() {
    let mut groups = [Bench::new(Limits::default()), Bench::new(Limits::default())];
    // The first reader saw x = 1 (version 1) and no y.
    groups[0].write(T, None, put("x", "1"));
    assert_eq!(groups[0].prepare(id(1), part().read("x", 1)), prepared(2));
    assert_eq!(groups[1].prepare(id(1), part().read("y", 0)), prepared(1));
    // y is written only after that. The second reader, who claims to have seen y = 1 and no x, cannot be right about x.
    assert_eq!(groups[1].write(T, None, put("y", "1")), blocked(id(1)));
    groups.iter_mut().for_each(|group| {
        group.commit(id(1));
    });
    groups[1].write(T, None, put("y", "1"));
    let no = refused(AbortCause::ReadInvalidated { group: GROUP, read: 0 });
    let y = groups[1].version("y");
    assert_eq!(groups[1].prepare(id(2), part().read("y", y)), prepared(5));
    assert_eq!(groups[0].prepare(id(2), part().read("x", 0)), no);
}

/// Scans are not validated, as documented: a key that comes up in a range that was scanned goes unnoticed, unless a key that
/// stands for the range was read and written.
#[test]
fn phantom_is_possible_and_a_key_for_the_range_prevents_it() {
    let mut bench = Bench::new(Limits::default());
    assert!(
        bench
            .machine
            .scan(&bench.store, b"r/", b"r0", 10, 1000)
            .unwrap()
            .rows
            .is_empty()
    );
    bench.transact(T, id(1), part().put("r/new", "1"));
    assert_eq!(
        bench.transact(T, id(2), part().put("sum", "0")),
        one_group_commit(id(2), 2),
        "the phantom"
    );
    bench.transact(T, id(3), part().put("r/other", "1").put("r", "changed"));
    let cause = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    assert_eq!(
        bench.transact(T, id(4), part().read("r", 0).put("sum", "0")),
        voted(Vote::Decided(Decision::Aborted(cause)))
    );
}

/// The version of a value that is gone is a version, too: a delete and a new value in between are noticed.
#[test]
fn absence_does_not_recur() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("x", "1"));
    bench.write(T, None, delete("x"));
    let gone = bench.version("x");
    assert_eq!(gone, 2);
    let absent = |version| {
        let mut wanted = part().put("y", "1");
        wanted.0.reads.push(ReadCheck {
            key: "x".into(),
            version: Version(version),
            exists: false,
        });
        wanted
    };
    assert_eq!(bench.transact(T, id(1), absent(gone)), one_group_commit(id(1), 3));
    bench.write(T, None, put("x", "2"));
    bench.write(T, None, delete("x"));
    let cause = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    assert_eq!(
        bench.transact(T, id(2), absent(gone)),
        voted(Vote::Decided(Decision::Aborted(cause)))
    );
}
