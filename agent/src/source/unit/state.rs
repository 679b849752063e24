//! What the properties of a unit say about it: pure, from what org.freedesktop.systemd1(5) sends.

use std::collections::HashMap;

use why502_proto::v1::UnitState;
use zbus::{OwnedVariant, Variant};

/// Properties of one interface, as `GetAll` and `PropertiesChanged` carry them.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// The interface that all units have; its signal is the last one of a change.
pub(super) const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";

/// Begins every object path of a unit.
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/";

/// Properties that change only when unit files are read anew, and are in no signal.
const SETTINGS: &[&str] = &[
    "LoadState",
    "MemoryMax",
    "OOMPolicy",
    "Restart",
    "TriggeredBy",
    "Triggers",
    "Type",
    "UnitFileState",
];

/// How many triggers of one unit are kept: a socket has one, a service a few sockets.
const TRIGGERS_MAX: usize = 8;

/// Takes over what `properties` of `interface` say; the rest stays as it was.
pub(super) fn apply(unit: &mut UnitState, interface: &str, properties: &Properties) {
    let text = |name: &str| as_text(properties.get(name)?);
    let number = |name: &str| as_number(properties.get(name)?);
    let small = |name: &str| number(name).and_then(|n| u32::try_from(n).ok());
    let set = |slot: &mut String, value: Option<String>| {
        if let Some(value) = value {
            *slot = value;
        }
    };
    if interface == UNIT_INTERFACE {
        set(&mut unit.load, text("LoadState"));
        set(&mut unit.active, text("ActiveState"));
        set(&mut unit.sub, text("SubState"));
        set(&mut unit.enabled, text("UnitFileState"));
        if let Some(us) = number("ActiveEnterTimestampMonotonic") {
            unit.active_since_us = if us == 0 { 0 } else { us + crate::clock::suspended_us() };
        }
        let related = if unit.unit.ends_with(".socket") { "Triggers" } else { "TriggeredBy" };
        if let Some(list) = properties.get(related).and_then(as_list) {
            unit.triggers = list;
        }
        return;
    }
    set(&mut unit.result, text("Result"));
    set(&mut unit.r#type, text("Type"));
    set(&mut unit.restart, text("Restart"));
    set(&mut unit.oom_policy, text("OOMPolicy"));
    if let Some(pid) = small("MainPID") {
        unit.main_pid = pid;
    }
    if let Some(restarts) = small("NRestarts") {
        unit.restarts = restarts;
    }
    if let Some(bytes) = number("MemoryMax") {
        unit.memory_max_bytes = (bytes != u64::MAX).then_some(bytes);
    }
    if let Some(code) = number("ExecMainCode") {
        unit.exit_code = exit_code(code).to_owned();
        unit.exit_status = if code == 0 { None } else { small("ExecMainStatus") };
    }
}

/// `si_code` of SIGCHLD, see waitid(2).
fn exit_code(code: u64) -> &'static str {
    match code {
        1 => "exited",
        2 => "killed",
        3 => "dumped",
        _ => "",
    }
}

/// When the unit last changed its state, as boot time; 0: not since systemd loaded it. `None`: the properties do not
/// tell.
pub(super) fn changed_us(properties: &Properties) -> Option<u64> {
    let us = as_number(properties.get("StateChangeTimestampMonotonic")?)?;
    Some(if us == 0 { 0 } else { us + crate::clock::suspended_us() })
}

/// Leaves only what no signal carries: a look at the rest would run ahead of the signals that wait.
pub(super) fn retain_settings(properties: &mut Properties) {
    properties.retain(|name, _| SETTINGS.contains(&name.as_str()));
}

/// Whether the unit is one that requests can depend on: it runs, it should run, or it failed. Oneshot services that
/// did their work, and units that only lie there, are not.
pub(super) fn matters(unit: &UnitState) -> bool {
    if unit.unit.ends_with(".socket") {
        return unit.load == "loaded"
            && (unit.active != "inactive" || is_wanted(unit))
            && !unit.unit.starts_with("systemd-");
    }
    if unit.active == "failed" {
        return true;
    }
    if unit.r#type == "oneshot" || unit.load != "loaded" {
        return false;
    }
    unit.active != "inactive" || is_wanted(unit)
}

/// Somebody decided that it shall run: it is enabled, or a socket starts it.
fn is_wanted(unit: &UnitState) -> bool {
    matches!(unit.enabled.as_str(), "enabled" | "enabled-runtime" | "linked" | "linked-runtime")
        || unit.triggers.iter().any(|name| name.ends_with(".socket"))
}

/// Whether a unit of this name can matter at all.
pub(super) fn is_of_interest(name: &str) -> bool {
    name.ends_with(".service") || name.ends_with(".socket")
}

/// Name of the unit at an object path: `…/unit/api_2eservice` is `api.service`. `None`: no unit's path.
pub(super) fn name_of_path(path: &str) -> Option<String> {
    let escaped = path.strip_prefix(UNIT_PATH)?.as_bytes();
    let mut name = Vec::with_capacity(escaped.len());
    let mut at = 0;
    while let Some(&byte) = escaped.get(at) {
        if byte == b'_' {
            let digits = std::str::from_utf8(escaped.get(at + 1..at + 3)?).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            name.push(byte);
            at += 1;
        }
    }
    String::from_utf8(name).ok()
}

/// Object path of a unit: all but letters and digits is escaped, and a digit at the start too.
pub(super) fn path_of_name(name: &str) -> Option<String> {
    let mut path = UNIT_PATH.to_owned();
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    (!name.is_empty()).then_some(path)
}

fn as_text(value: &Variant<'_>) -> Option<String> {
    match value {
        Variant::Str(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn as_number(value: &Variant<'_>) -> Option<u64> {
    match value {
        Variant::U32(n) => Some(u64::from(*n)),
        Variant::U64(n) => Some(*n),
        Variant::I32(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn as_list(value: &OwnedVariant) -> Option<Vec<String>> {
    match &**value {
        Variant::Array(array) => {
            Some(array.iter().filter_map(as_text).take(TRIGGERS_MAX).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(entries: &[(&str, Variant<'_>)]) -> Properties {
        entries.iter().map(|(k, v)| ((*k).to_owned(), v.try_to_owned().unwrap())).collect()
    }

    fn unit(name: &str) -> UnitState {
        UnitState { unit: name.to_owned(), load: "loaded".into(), ..UnitState::default() }
    }

    #[test]
    fn a_killed_main_process() {
        let mut api = unit("api.service");
        let service = properties(&[
            ("MainPID", Variant::U32(0)),
            ("ExecMainCode", Variant::I32(2)),
            ("ExecMainStatus", Variant::I32(9)),
            ("Result", Variant::from("signal")),
            ("NRestarts", Variant::U32(3)),
            ("MemoryMax", Variant::U64(u64::MAX)),
            ("OOMPolicy", Variant::from("stop")),
        ]);
        apply(&mut api, "org.freedesktop.systemd1.Service", &service);
        let generic = properties(&[
            ("ActiveState", Variant::from("activating")),
            ("SubState", Variant::from("auto-restart")),
        ]);
        apply(&mut api, UNIT_INTERFACE, &generic);
        assert_eq!(
            why502_proto::fields_text(&why502_proto::Kind::UnitState(api)),
            "unit=api.service load=loaded active=activating sub=auto-restart result=signal \
             exit_code=killed exit_status=9 restarts=3 oom_policy=stop"
        );
    }

    #[test]
    fn a_status_of_zero_is_an_answer_and_no_exit_yet_is_none() {
        let mut api = unit("api.service");
        let ended =
            properties(&[("ExecMainCode", Variant::I32(1)), ("ExecMainStatus", Variant::I32(0))]);
        apply(&mut api, "org.freedesktop.systemd1.Service", &ended);
        assert_eq!((api.exit_code.as_str(), api.exit_status), ("exited", Some(0)));
        let started =
            properties(&[("ExecMainCode", Variant::I32(0)), ("ExecMainStatus", Variant::I32(0))]);
        apply(&mut api, "org.freedesktop.systemd1.Service", &started);
        assert_eq!((api.exit_code.as_str(), api.exit_status), ("", None));
    }

    #[test]
    fn which_units_matter() {
        let state = |name: &str, active: &str, kind: &str, enabled: &str| {
            let mut unit = unit(name);
            unit.active = active.into();
            unit.r#type = kind.into();
            unit.enabled = enabled.into();
            unit
        };
        assert!(matters(&state("nginx.service", "active", "forking", "enabled")));
        assert!(matters(&state("run-u1.service", "active", "simple", "transient")));
        assert!(matters(&state("api.service", "inactive", "simple", "enabled")));
        assert!(matters(&state("fsck.service", "failed", "oneshot", "static")));
        assert!(!matters(&state("fsck.service", "active", "oneshot", "enabled")));
        assert!(!matters(&state("rescue.service", "inactive", "simple", "static")));
        assert!(!matters(&state("systemd-udevd-kernel.socket", "active", "", "static")));
        assert!(matters(&state("app.socket", "active", "", "disabled")));
        let mut by_socket = state("app.service", "inactive", "simple", "static");
        assert!(!matters(&by_socket));
        by_socket.triggers = vec!["app.socket".into()];
        assert!(matters(&by_socket));
        let mut masked = state("x11-common.service", "inactive", "", "masked");
        masked.load = "masked".into();
        assert!(!matters(&masked));
    }

    #[test]
    fn names_come_back_from_object_paths() {
        let name = |path: &str| name_of_path(&format!("{UNIT_PATH}{path}"));
        assert_eq!(name("api_2eservice").as_deref(), Some("api.service"));
        assert_eq!(name("my_2dapp_402_2eservice").as_deref(), Some("my-app@2.service"));
        assert_eq!(name("broken_2").as_deref(), None);
        for there in ["api.service", "my-app@2.service", "7zip.socket", "a_b\\x2d.service"] {
            let back = name_of_path(&path_of_name(there).unwrap());
            assert_eq!(back.as_deref(), Some(there));
        }
        assert_eq!(name_of_path("/org/freedesktop/systemd1/job/7"), None);
    }
}
