//! Every scenario of the repository on real hosts, with agent and collector as their packaged units.

use std::path::Path;
use std::process::Command;

/// Scenarios that are not answered as they should be yet. The list may only shrink.
const NOT_YET: &[&str] = &[];

#[test]
fn every_scenario_is_answered_rightly() {
    let as_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/as-root");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "why502-agent", "-p", "why502-collector"])
        .status()
        .unwrap();
    assert!(built.success());
    let output = Command::new(as_root)
        .arg(env!("CARGO_BIN_EXE_bench"))
        .args(["--format", "json", "--jobs", &cores.clamp(1, 4).to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no result: {error}\n{said}"));
    let mut wrong = Vec::new();
    let mut answered = Vec::new();
    for line in said.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let name = rest.trim_start().split(':').next().unwrap_or("");
        match word {
            "ok" if NOT_YET.contains(&name) => answered.push(name),
            "WRONG" | "skipped" if !NOT_YET.contains(&name) => wrong.push(line),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}\n\n{said}", wrong.join("\n"));
    assert!(answered.is_empty(), "take off the list: {answered:?}");
    assert!(report["total"]["count"].as_u64().unwrap() > 30, "{report}");
}
