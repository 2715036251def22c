//! One short run of the tool itself: a cluster of processes is made, hurt, healed and judged, and nothing of it is left.

use fulcrum_chaos::report::Series;
use std::path::Path;
use std::process::Command;

#[test]
fn a_primary_is_killed_and_every_promise_holds() {
    let Some(etcd) = fulcrum_metadata_etcd::testing::program() else {
        return;
    };
    let chaos = Path::new(env!("CARGO_BIN_EXE_fulcrum-chaos"));
    let programs = chaos.parent().unwrap().join("examples");
    assert!(
        programs.join("fulcrum-shard-node").exists(),
        "{} is missing: `cargo test -p fulcrum-chaos` builds it, `--test` alone does not",
        programs.display()
    );
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(chaos)
        .args([
            "--scenario",
            "kill-primary",
            "--runs",
            "1",
            "--seed",
            "1",
            "--nodes",
            "3",
        ])
        .arg("--programs")
        .arg(&programs)
        .arg("--etcd")
        .arg(etcd)
        .arg("--output")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let file = folder.path().join("scenarios/kill-primary.json");
    let read = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}\n{said}", file.display()));
    let series: Series = serde_json::from_slice(&read).unwrap();
    let run = &series.runs[0];
    // How fast it was is not asked here: a machine that runs all tests at once is no measure.
    assert_eq!(run.invalid, None, "{said}");
    assert_eq!(run.violations(), 0, "{said}");
    assert!(run.measured.operations >= 5_000, "{said}");
    assert!(!run.measured.first_acks_ms.is_empty() && run.failovers > 0, "{said}");
    assert!(
        run.checks
            .iter()
            .all(|check| check.judged > 0 || check.name.contains("certificates")),
        "{said}"
    );
    let left = std::fs::read_dir(folder.path()).unwrap().flatten();
    let left: Vec<String> = left
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!left.iter().any(|name| name.starts_with("cluster-")), "{left:?}");
}
