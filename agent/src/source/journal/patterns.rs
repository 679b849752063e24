//! What app servers write about themselves, as a table of patterns.

use why502_proto::v1::AppServerEvent;

/// What a line of an app server says. The unit is left empty.
pub fn match_line(_line: &str) -> Option<AppServerEvent> {
    None
}
