//! One story for each anomaly of transactions: `testscripts/anomalies`.

mod story;

#[test]
fn each_anomaly_ends_as_its_story_says() {
    let stories = story::tell("anomalies", |_, _, _| Ok(()));
    assert!(stories >= 7, "a story for each anomaly");
}
