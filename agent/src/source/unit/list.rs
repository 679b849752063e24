//! All units at once: at the start, after a new connection, and after systemd read its unit files anew.

use std::collections::{BTreeSet, HashMap};

use super::bus::{Bus, BusError, Listed};
use super::watch::Watch;
use crate::clock::Moment;
use crate::source::Interest;

impl<T: Fn(Interest)> Watch<T> {
    /// Looks at everything: `anew` after a new connection; else after systemd read its unit files, when signals have
    /// told all states and only settings may have changed.
    pub(super) async fn list(&mut self, bus: &Bus, anew: bool) -> Result<(), BusError> {
        let files = bus.unit_files().await?;
        let mut listed = bus.list_units().await?;
        // Sockets first: they tell which inactive services are wanted.
        listed.sort_by(|a, b| {
            (a.name.ends_with(".service"), &a.name).cmp(&(b.name.ends_with(".service"), &b.name))
        });
        let names: BTreeSet<&str> = listed.iter().map(|unit| unit.name.as_str()).collect();
        let lost: Vec<String> =
            self.units.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in lost {
            let file = bus.unit_file_state(&name).await;
            self.gone(&name, file.as_deref());
        }
        for unit in &listed {
            self.look_at_listed(bus, unit, &files, anew).await;
        }
        let mut masked: Vec<&String> = files
            .iter()
            .filter(|(name, (_, masked))| *masked && !names.contains(name.as_str()))
            .map(|(name, _)| name)
            .collect();
        masked.sort_unstable();
        for name in masked {
            self.masked(name, "");
        }
        Ok(())
    }

    async fn look_at_listed(
        &mut self,
        bus: &Bus,
        unit: &Listed,
        files: &HashMap<String, (String, bool)>,
        anew: bool,
    ) {
        let known = self.units.contains_key(&unit.name);
        let file = files.get(&unit.name);
        if unit.load == "masked" {
            if known || file.is_some_and(|(_, by_admin)| *by_admin) {
                self.masked(&unit.name, &unit.path);
            }
            return;
        }
        let is_socket = unit.name.ends_with(".socket");
        let wanted = file.is_some_and(|(state, _)| state.starts_with("enabled"))
            || self.units.values().any(|other| other.state.triggers.contains(&unit.name));
        if !known && !is_socket && unit.active == "inactive" && !wanted {
            return;
        }
        if known && !anew {
            // Signals tell its state, and its next start reads its settings.
            self.update(&unit.name, &unit.path, 0, |state| {
                unit.load.clone_into(&mut state.load);
                if let Some((enabled, _)) = file {
                    enabled.clone_into(&mut state.enabled);
                }
            });
        } else {
            self.adopt(bus, &unit.name, &unit.path, true).await;
        }
        self.say(&unit.name, Moment::now(), !known || anew);
    }

    /// A unit that its administrator masked, loaded or not.
    fn masked(&mut self, name: &str, path: &str) {
        let Some(known) = self.entry(name, path) else { return };
        known.state.load = "masked".into();
        known.state.enabled = "masked".into();
        if known.state.active.is_empty() {
            known.state.active = "inactive".into();
            known.state.sub = "dead".into();
        }
        let existing = known.said.is_none();
        self.say(name, Moment::now(), existing);
    }

    /// systemd forgot the unit. A unit file that is still there says that it can be started again.
    pub(super) fn gone(&mut self, name: &str, file: Option<&str>) {
        self.update(name, "", 0, |state| {
            state.active = "inactive".into();
            state.sub = "dead".into();
            state.main_pid = 0;
            state.load = match file {
                None => "not-found",
                Some(file) if file.starts_with("masked") => "masked",
                Some(_) => "loaded",
            }
            .into();
            state.enabled = file.unwrap_or_default().to_owned();
        });
        self.say(name, Moment::now(), false);
        if file.is_none() {
            self.units.remove(name);
        }
    }
}
