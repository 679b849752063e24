//! Every scenario of the repository on real hosts, with agent and collector as their packaged units.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

/// Share of the scenarios whose root cause must come first. May only rise, up to 1.
const RIGHT_FIRST_MIN: f64 = 0.75;
/// Share of the scenarios in which something wrong may be said with confidence. May only fall, down to 0.
const CONFIDENTLY_WRONG_MAX: f64 = 0.2;

#[test]
fn scenarios_are_answered_rightly_and_controls_are_left_alone() {
    let as_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/as-root");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "why502-agent", "-p", "why502-collector"])
        .status()
        .unwrap();
    assert!(built.success());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let output = Command::new(as_root)
        .arg(env!("CARGO_BIN_EXE_bench"))
        .args(["--format", "json", "--jobs", &cores.clamp(1, 4).to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no result: {error}\n{said}"));
    let total = &report["total"];
    let scenarios = report["scenarios"].as_array().unwrap();
    let skipped: Vec<_> = scenarios.iter().filter(|s| !s["skipped"].is_null()).collect();
    assert!(skipped.is_empty() && scenarios.len() > 40, "skipped {skipped:?}\n{said}");
    assert_eq!(total["false_incidents"], 0, "{said}");
    assert!(total["right_first"].as_f64().unwrap() >= RIGHT_FIRST_MIN, "{said}");
    assert!(total["confidently_wrong"].as_f64().unwrap() <= CONFIDENTLY_WRONG_MAX, "{said}");
}
