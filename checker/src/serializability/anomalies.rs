//! Every anomaly planted by hand: found by its name, explained, and passed once the history is put right.

use super::*;
use crate::testing::transaction;
use crate::transactions::Transaction;

/// All transactions overlap, but for those that a test places elsewhere.
const ALL_ALONG: (u64, u64) = (0, 100);

fn during(steps: &str) -> Transaction {
    transaction(ALL_ALONG, steps)
}

fn judge(transactions: &[Transaction]) -> (TransactionHistory, Report) {
    let history: TransactionHistory = transactions.iter().cloned().collect();
    let report = check(&history);
    let expected = brute_force::is_strictly_serializable(transactions);
    let passes = report.verdict() == Verdict::Serializable;
    assert_eq!(passes, report.counts.is_empty());
    assert_eq!(passes, expected, "the definition disagrees: {:?}", report.violations);
    (history, report)
}

#[track_caller]
fn assert_found(anomaly: Anomaly, transactions: &[Transaction]) -> String {
    let (history, report) = judge(transactions);
    let found: Vec<&str> = report.violations.iter().map(|v| v.property).collect();
    assert!(found.contains(&anomaly.name()), "found {found:?}");
    let of_it = |v: &&Violation| v.property == anomaly.name();
    history.describe(report.violations.iter().find(of_it).expect("just seen"))
}

#[track_caller]
fn assert_passes(transactions: &[Transaction]) {
    let (history, report) = judge(transactions);
    let described: Vec<String> = report.violations.iter().map(|v| history.describe(v)).collect();
    assert_eq!(report.verdict(), Verdict::Serializable, "{described:?}");
}

#[test]
fn a_dirty_write_is_found() {
    let crossed = [during("x+1 y+1"), during("x+2 y+2"), during("x=1,2 y=2,1")];
    let text = assert_found(Anomaly::DirtyWrite, &crossed);
    assert!(text.contains("#0 appended 1 to k1/x, behind it #1 2 (ww)"), "{text}");
    assert!(text.contains("#1 appended 2 to k1/y, behind it #0 1 (ww)"), "{text}");
    assert!(text.contains("\n  #0 c1 [0..100] append 1 to k1/x"), "{text}");
    assert_passes(&[during("x+1 y+1"), during("x+2 y+2"), during("x=1,2 y=1,2")]);
}

#[test]
fn a_transaction_within_another_is_a_dirty_write() {
    assert_found(
        Anomaly::DirtyWrite,
        &[during("x+1 x+2"), during("x+3"), during("x=1,3,2")],
    );
    assert_passes(&[during("x+1 x+2"), during("x+3"), during("x=1,2,3")]);
}

#[test]
fn a_read_of_a_failed_transaction_is_found() {
    let text = assert_found(Anomaly::AbortedRead, &[during("x+1").failed(), during("x=1")]);
    assert!(text.contains("#1 read 1 of #0, which failed"), "{text}");
    assert_passes(&[during("x+1").failed(), during("x=")]);
    assert_passes(&[during("x+1"), during("x=1 y=7").failed()]);
}

#[test]
fn an_intermediate_read_is_found() {
    assert_found(Anomaly::IntermediateRead, &[during("x+1 x+2"), during("x=1")]);
    assert_found(
        Anomaly::IntermediateRead,
        &[during("x+1 x+2"), during("x=1"), during("x=1,2")],
    );
    assert_passes(&[during("x+1 x=1 x+2"), during("x=1,2"), during("x=")]);
}

#[test]
fn circular_information_flow_is_found() {
    let text = assert_found(
        Anomaly::CircularInformationFlow,
        &[during("x+1 y=2"), during("y+2 x=1")],
    );
    assert!(text.contains("#1 read k1/x up to 1, appended by #0 (wr)"), "{text}");
    assert_found(
        Anomaly::CircularInformationFlow,
        &[during("x+1 y+1"), during("x+2 y=1"), during("x=2,1")],
    );
    assert_passes(&[during("x+1 y=2"), during("y+2 x="), during("x=1")]);
}

#[test]
fn a_lost_update_is_found() {
    let text = assert_found(
        Anomaly::LostUpdate,
        &[during("x= x+1"), during("x= x+2"), during("x=1,2")],
    );
    assert!(
        text.contains("read k1/x as empty, without 1, appended by #0 (rw)"),
        "{text}"
    );
    assert_found(
        Anomaly::LostUpdate,
        &[during("x= x+1"), during("x= x+2"), during("x=2")],
    );
    assert_passes(&[during("x= x+1"), during("x=1 x+2"), during("x=1,2")]);
    assert_passes(&[during("x= x+1"), during("x= x+2").unknown(), during("x=1")]);
}

#[test]
fn two_updates_of_one_list_that_nobody_reads_again_are_found() {
    let (_, report) = judge(&[during("x= x+1"), during("x= x+2")]);
    assert_eq!(report.counts, [(Anomaly::LostUpdate, 1)].into());
    let (_, report) = judge(&[during("x= x+1"), during("x= x+2"), during("x= x+3"), during("x= x+4")]);
    assert_eq!(report.violations.len(), 1);
    assert_passes(&[during("x= x+1"), during("x+2")]);
}

#[test]
fn read_skew_is_found() {
    let text = assert_found(Anomaly::ReadSkew, &[during("x+1 2-x+1"), during("x= 2-x=1")]);
    // As docs/verification.md shows it.
    let expected = "G-single (read skew): #1 -> #0 -> #1: #1 read k1/x as empty, without 1, appended by #0, which no read \
                    has seen (rw); #1 read k2/x up to 1, appended by #0 (wr)\
                    \n  #1 c1 [0..100] read k1/x: [], read k2/x: [1] -> committed\
                    \n  #0 c1 [0..100] append 1 to k1/x, append 1 to k2/x -> committed";
    assert_eq!(text, expected);
    assert_passes(&[during("x+1 2-x+1"), during("x=1 2-x=1"), during("x= 2-x=")]);
}

#[test]
fn write_skew_is_found() {
    let text = assert_found(Anomaly::WriteSkew, &[during("x= y+1"), during("y= x+1")]);
    assert!(text.contains("appended by #1, which no read has seen (rw)"), "{text}");
    assert_found(
        Anomaly::WriteSkew,
        &[during("x= y+1"), during("y= x+1"), during("x=1 y=1")],
    );
    assert_passes(&[during("x= y+1"), during("y=1 x+1")]);
}

#[test]
fn a_long_fork_is_found() {
    let writes = [during("x+1"), during("y+1")];
    let with = |a: &str, b: &str| [writes[0].clone(), writes[1].clone(), during(a), during(b)];
    let text = assert_found(Anomaly::LongFork, &with("x=1 y=", "x= y=1"));
    assert_eq!(text.matches("(rw)").count(), 2, "{text}");
    assert_passes(&with("x=1 y=", "x=1 y=1"));
}

#[test]
fn a_fork_within_a_larger_knot_is_shown_alone() {
    // From #0 round the fork and back passes #1 twice.
    let knot = [
        during("p= q=1"),
        during("p+1 r+1 s=1 t="),
        during("r=1 m="),
        during("m+1 n+1"),
        during("n=1 k="),
        during("k+1 s+1"),
        during("t+1 q+1"),
    ];
    let (_, report) = judge(&knot);
    let fork = &report.violations[0];
    assert_eq!(fork.property, Anomaly::LongFork.name());
    let places: std::collections::BTreeSet<usize> = fork.operations.iter().copied().collect();
    assert_eq!((fork.operations.len(), places), (5, [1, 2, 3, 4, 5].into()));
}

#[test]
fn a_stale_read_is_found() {
    let writes = [transaction((0, 10), "x+1"), transaction((20, 30), "x+2")];
    let with = |reader| [writes[0].clone(), writes[1].clone(), during("x=1,2"), reader];
    let text = assert_found(Anomaly::RealTime, &with(transaction((40, 50), "x=1")));
    assert!(text.contains("had ended before #3 began (real time)"), "{text}");
    assert_passes(&with(transaction((25, 50), "x=1")));
    assert_passes(&with(transaction((30, 50), "x=1")));
}

#[test]
fn a_read_from_the_future_is_found() {
    assert_found(
        Anomaly::RealTime,
        &[transaction((0, 10), "x=1"), transaction((20, 30), "x+1")],
    );
    assert_passes(&[transaction((0, 20), "x=1"), transaction((20, 30), "x+1")]);
    assert_passes(&[transaction((0, 10), "x=1"), transaction((5, 5), "x+1").unknown()]);
    let unknown_from_the_future = [transaction((0, 10), "x=1"), transaction((20, 0), "x+1").unknown()];
    assert_found(Anomaly::RealTime, &unknown_from_the_future);
}

#[test]
fn an_order_that_real_time_forbids_is_found_over_many_steps() {
    let reader = |x: &str| {
        [
            transaction((0, 10), "x+1"),
            transaction((0, 90), "x=1 y+1"),
            transaction((0, 90), "y=1 z+1"),
            transaction((20, 30), "z=1"),
            transaction((40, 50), x),
        ]
    };
    assert_found(Anomaly::RealTime, &reader("x="));
    assert_passes(&reader("x=1"));
}

#[test]
fn a_lost_append_is_found() {
    let text = assert_found(
        Anomaly::LostAppend,
        &[transaction((0, 10), "x+1"), transaction((20, 30), "x=")],
    );
    assert!(
        text.contains("without 1, appended by #0, which no read has seen"),
        "{text}"
    );
    assert_found(Anomaly::LostAppend, &[during("x+1 x+2"), during("x=2")]);
    assert_passes(&[transaction((0, 10), "x+1").unknown(), transaction((20, 30), "x=")]);
    assert_passes(&[transaction((0, 10), "x+1").failed(), transaction((20, 30), "x=")]);
    assert_passes(&[transaction((0, 10), "x+1"), transaction((10, 30), "x=")]);
}

#[test]
fn each_lost_append_is_named() {
    let lost = [
        transaction((0, 10), "x+1"),
        transaction((0, 10), "y+1"),
        transaction((20, 30), "x= y="),
    ];
    assert_eq!(judge(&lost).1.violations.len(), 2);
}

#[test]
fn incompatible_orders_are_found() {
    let writes = [during("x+1"), during("x+2")];
    let with = |a: &str, b: &str| [writes[0].clone(), writes[1].clone(), during(a), during(b)];
    let text = assert_found(Anomaly::IncompatibleOrders, &with("x=1,2", "x=2"));
    assert!(text.contains("#3 read [2] where #2 read [1, 2]"), "{text}");
    assert_found(Anomaly::IncompatibleOrders, &with("x=1,2", "x=2,1"));
    assert_found(Anomaly::IncompatibleOrders, &[during("x+1 x+2"), during("x=2,1")]);
    assert_passes(&with("x=1,2", "x=1"));
}

#[test]
fn an_unknown_transaction_seen_in_another_order_has_not_failed() {
    let split = [
        during("x+1").unknown(),
        during("x+2").unknown(),
        during("x=1"),
        during("x=2"),
    ];
    assert_eq!(judge(&split).1.counts, [(Anomaly::IncompatibleOrders, 1)].into());
}

#[test]
fn a_duplicate_append_is_found() {
    assert_found(Anomaly::DuplicateAppend, &[during("x+1"), during("x=1,1")]);
    assert_found(
        Anomaly::DuplicateAppend,
        &[during("x+1"), during("x+2"), during("x=1,2,1"), during("x=1,2")],
    );
    assert_passes(&[during("x+1"), during("x+2"), during("x=1,2"), during("x=1")]);
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    assert_found(Anomaly::UnwrittenValue, &[during("x+1"), during("x=1,9")]);
    assert_passes(&[during("x+1"), during("x+9"), during("x=1,9")]);
}

#[test]
fn a_transaction_that_forgets_itself_is_found() {
    assert_found(Anomaly::Internal, &[during("x+1 x=")]);
    assert_found(Anomaly::Internal, &[during("x=1 x+1")]);
    assert_found(Anomaly::Internal, &[during("x= x=1"), during("x+1")]);
    assert_found(Anomaly::Internal, &[during("x+1 x=1,2"), during("x+2")]);
    assert_passes(&[during("x= x+1 x=1 x+2 x=1,2"), during("x=1,2")]);
}

#[test]
fn an_unknown_transaction_counts_once_it_was_seen() {
    let half_seen = |y: &str| [during("x+1 y+1").unknown(), during(&format!("x=1 y={y}"))];
    assert_found(Anomaly::ReadSkew, &half_seen(""));
    assert_passes(&half_seen("1"));
    assert_passes(&[during("x+1 y+1").unknown(), during("x= y=")]);
    let seen_only_by_a_failed_one = [during("x+1 y+1").unknown(), during("x=1 y=").failed(), during("x= y=")];
    assert_passes(&seen_only_by_a_failed_one);
}

#[test]
fn what_an_observed_unknown_transaction_has_seen_is_held_against_it() {
    let chain = |first: Transaction| {
        [
            first,
            during("x=1 y+1").unknown(),
            during("y=1 z+1").unknown(),
            during("z=1"),
        ]
    };
    assert_passes(&chain(during("x+1").unknown()));
    assert_found(Anomaly::AbortedRead, &chain(during("x+1").failed()));
    let (_, report) = judge(&chain(during("x+1").unknown()));
    assert_eq!((report.transactions, report.observed_unknown), (4, 3));
}

#[test]
fn one_key_may_have_an_impossible_element_and_another_a_cycle() {
    let (_, report) = judge(&[
        during("z+1").failed(),
        during("x= y+1"),
        during("y= x+1"),
        during("z=1"),
    ]);
    let expected = [(Anomaly::AbortedRead, 1), (Anomaly::WriteSkew, 1)];
    assert_eq!(report.counts, expected.into());
}

#[test]
fn an_element_appended_twice_by_the_workload_decides_nothing() {
    let history = [during("x+1"), during("x+1").failed(), during("x=1")]
        .into_iter()
        .collect();
    assert!(matches!(check(&history).verdict(), Verdict::Undecided { .. }));
    let elsewhere = [during("x+1 y+2"), during("x+1"), during("x=1 y=3")]
        .into_iter()
        .collect();
    assert!(matches!(check(&elsewhere).verdict(), Verdict::Violation(_)));
}

#[test]
fn no_two_anomalies_share_a_name() {
    let names: std::collections::BTreeSet<&str> = Anomaly::ALL.iter().map(|a| a.name()).collect();
    assert_eq!(names.len(), Anomaly::ALL.len());
}

#[test]
fn an_empty_history_passes() {
    assert_passes(&[]);
}
