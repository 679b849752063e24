//! `why502 rules`: the catalogue that is compiled in.

use why502_explain::{Rule, catalog};

use super::Format;
use super::error::CliError;
use super::output::{Output, table};
use crate::rules::{all_to_json, find, hint, to_json};
use crate::text::{Paint, hang};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Only this one, with how it looks, how to check it, and how to fix it
    id: Option<String>,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let Some(id) = &arguments.id else {
        return match arguments.format {
            Format::Json => out.json(&all_to_json()),
            Format::Text => out.text(&list()),
        };
    };
    let rule = find(id).ok_or_else(|| CliError::NoRule { id: id.clone(), hint: hint(id) })?;
    match arguments.format {
        Format::Json => out.json(&to_json(rule)),
        Format::Text => out.text(&one(rule, out.paint)),
    }
}

fn list() -> String {
    let rows = catalog().map(|rule| vec![rule.id.to_owned(), rule.summary.to_owned()]);
    let lines = table(&rows.collect::<Vec<_>>());
    lines.join("\n") + "\n\nMore about one: why502 rules ID\n"
}

fn one(rule: &Rule, paint: Paint) -> String {
    let mut text = paint.bold(rule.id) + "\n";
    text += &hang("", rule.summary, paint);
    for paragraph in rule.doc.split("\n\n") {
        text += "\n";
        text += &hang("", paragraph, paint);
    }
    text += &format!("\n{}  {}\n", paint.bold("Check:"), rule.check);
    let fix = hang("Fix:    ", rule.fix, paint);
    text + &fix.replacen("Fix:", &paint.bold("Fix:"), 1)
}
