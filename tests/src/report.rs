//! What came out, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::judge::Outcome;

/// The contract's JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    scenarios: Vec<Outcome>,
    total: Total,
    baselines: Baselines,
}

/// Over all scenarios that were run. Shares are 0 to 1 of those.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Total {
    count: usize,
    right_first: f64,
    right_in_three: f64,
    grounded: f64,
    confidently_wrong: f64,
    /// Share of the scenarios in which nobody can know that were answered so.
    abstained_rightly: f64,
    /// A number, not a share.
    false_incidents: u32,
    seconds_p50: Option<f64>,
    seconds_p99: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Baselines {
    /// One of the catalogue, drawn blindly.
    chance: f64,
    /// See [`crate::baseline`].
    errno_only: f64,
}

impl Report {
    /// Adds up. `catalogue` is how many root causes there are.
    pub fn new(scenarios: Vec<Outcome>, catalogue: usize) -> Self {
        let run: Vec<_> = scenarios.iter().filter(|outcome| outcome.skipped.is_none()).collect();
        let of_run = |wanted: fn(&Outcome) -> bool| share(run.iter().map(|o| wanted(o)));
        let unknowable = run.iter().filter(|outcome| outcome.expected == "unknown");
        let mut seconds: Vec<f64> = run.iter().filter_map(|outcome| outcome.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let total = Total {
            count: run.len(),
            right_first: of_run(|outcome| outcome.right_first),
            right_in_three: of_run(|outcome| outcome.right_in_three),
            grounded: of_run(|outcome| outcome.grounded),
            confidently_wrong: of_run(|outcome| outcome.confidently_wrong),
            abstained_rightly: share(unknowable.map(|outcome| outcome.abstained)),
            false_incidents: run.iter().map(|outcome| outcome.false_incidents).sum(),
            seconds_p50: quantile(&seconds, 50),
            seconds_p99: quantile(&seconds, 99),
        };
        let baselines = Baselines {
            chance: if catalogue == 0 { 0.0 } else { 1.0 / to_f64(catalogue) },
            errno_only: of_run(|outcome| outcome.errno_only_right),
        };
        Self { scenarios, total, baselines }
    }

    /// Every scenario is as it should be, and none was skipped.
    pub fn ok(&self) -> bool {
        self.scenarios.iter().all(Outcome::ok)
    }

    /// The totals, for people.
    pub fn text(&self) -> String {
        let total = &self.total;
        let skipped = self.scenarios.len() - total.count;
        let wrong = self.scenarios.iter().filter(|o| o.skipped.is_none() && !o.ok()).count();
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let mut text =
            format!("\n{} scenarios run, {wrong} wrong, {skipped} skipped\n", total.count);
        let mut line = |name: &str, value: String| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  {name:<22}{value}");
        };
        line("right first", percent(total.right_first));
        line("right in three", percent(total.right_in_three));
        line("grounded", percent(total.grounded));
        line("confidently wrong", percent(total.confidently_wrong));
        line("abstained rightly", percent(total.abstained_rightly));
        line("false incidents", total.false_incidents.to_string());
        if let (Some(p50), Some(p99)) = (total.seconds_p50, total.seconds_p99) {
            line("first failure to cause", format!("p50 {p50:.3} s, p99 {p99:.3} s"));
        }
        line("baseline: chance", percent(self.baselines.chance));
        line("baseline: errno only", percent(self.baselines.errno_only));
        text
    }
}

/// One line for one scenario.
pub fn line(outcome: &Outcome) -> String {
    let name = &outcome.name;
    if let Some(why) = &outcome.skipped {
        return format!("skipped  {name}: {why}");
    }
    let statuses: Vec<_> = outcome.statuses.iter().map(|(s, n)| format!("{s}x{n}")).collect();
    let seconds = outcome.seconds.map_or(String::new(), |s| format!(" {s:.3} s"));
    let got = outcome.got.first().map_or(outcome.verdict.as_str(), String::as_str);
    let got = if outcome.abstained && outcome.expected != "none" { "unknown" } else { got };
    let word = if outcome.ok() { "ok     " } else { "WRONG  " };
    let mut text =
        format!("{word}  {name}: {got} {}{seconds} [{}]", outcome.confidence, statuses.join(" "));
    for problem in &outcome.problems {
        text.push_str("\n           ");
        text.push_str(problem);
    }
    text
}

fn share(values: impl Iterator<Item = bool>) -> f64 {
    let (mut hits, mut count) = (0, 0);
    for value in values {
        count += 1;
        hits += usize::from(value);
    }
    if count == 0 { 0.0 } else { to_f64(hits) / to_f64(count) }
}

/// The value below which `percent` of the sorted `values` lie: the nearest rank.
pub fn quantile(values: &[f64], percent: usize) -> Option<f64> {
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_scenarios_are_never_passed_and_never_counted() {
        let right = Outcome { right_first: true, seconds: Some(0.2), ..Outcome::default() };
        let skipped = Outcome { skipped: Some("no haproxy".to_owned()), ..Outcome::default() };
        let report = Report::new(vec![right, skipped], 26);
        assert!(!report.ok());
        assert_eq!((report.total.count, report.total.right_first), (1, 1.0));
        assert_eq!(report.total.seconds_p99, Some(0.2));
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 50), Some(50.0));
        assert_eq!(quantile(&values, 99), Some(99.0));
        assert_eq!(quantile(&[], 50), None);
    }

    #[test]
    fn json_has_the_keys_of_the_contract() {
        let report = Report::new(vec![Outcome::default()], 26);
        let json = serde_json::to_value(&report).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&json), "baselines scenarios total");
        assert_eq!(
            keys(&json["scenarios"][0]),
            "abstained chain confidence confidently_wrong expected gateway got grounded name \
             right_first right_in_three seconds skipped statuses verdict"
        );
        assert_eq!(
            keys(&json["total"]),
            "abstained_rightly confidently_wrong count false_incidents grounded right_first \
             right_in_three seconds_p50 seconds_p99"
        );
        assert_eq!(keys(&json["baselines"]), "chance errno_only");
    }
}
