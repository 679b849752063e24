//! `why502 timeline`: facts in order of time, in their text form.

use why502_proto::v1;

use super::client::Client;
use super::error::CliError;
use super::output::Output;
use super::{Common, Format};
use crate::text::{Paint, clean, moment};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Only facts of this host
    #[arg(long)]
    host: Option<String>,
    /// From when: 2026-11-24T12:50:00Z, or 10m for ten minutes ago
    #[arg(long, default_value = "15m", value_name = "TIME")]
    since: String,
    /// Until when; now, if not given
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many; the newest are kept
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&arguments.common)?;
    let query = [
        ("host", arguments.host.as_deref().unwrap_or_default()),
        ("since", &arguments.since),
        ("until", arguments.until.as_deref().unwrap_or_default()),
        ("limit", &arguments.limit.to_string()),
    ];
    let json = client.get("/api/v1/timeline", &query)?;
    let answer: v1::GetTimelineResponse = client.read(&json)?;
    if arguments.common.format == Format::Json {
        return out.json(&json);
    }
    if answer.entries.is_empty() {
        return out.text(
            "Nothing was observed in that time. That proves nothing where a source is blind: see \
             why502 hosts\n",
        );
    }
    let mut day = String::new();
    let mut text = String::new();
    for entry in &answer.entries {
        let date = entry.at.split('T').next().unwrap_or_default();
        if date != day {
            day = clean(date);
            text += &format!("{}\n", out.paint.bold(&format!("{day} (UTC)")));
        }
        text += &line(entry, out.paint);
    }
    if answer.entries.len() as u64 >= u64::from(arguments.limit) {
        text += "There are more: a later --since, an earlier --until or a larger --limit\n";
    }
    out.text(&text)
}

/// `12:03:03.980 app-1 process_exited pid=4121 unit=api.service signal=9`; not wrapped, so that it can be searched.
pub(super) fn line(entry: &v1::TimelineEntry, paint: Paint) -> String {
    let at = moment::parse(&entry.at).map(moment::clock_ms).unwrap_or_default();
    let kind = paint.bold(&clean(&entry.kind));
    format!("{} {} {kind} {}\n", paint.dim(&at), clean(&entry.host), clean(&entry.text))
}
