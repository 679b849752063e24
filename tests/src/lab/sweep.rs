//! Taking labs down: their own, and those that a killed process left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use super::{BASE, UP};

/// Takes down everything that carries the name of a lab, whoever made it.
pub fn take_down(name: &str) {
    // Nothing can be done about a failure here that the next sweep would not do.
    let _ = Command::new("bash")
        .args(["-c", include_str!("down.sh")])
        .env("LAB", name)
        .env("DIR", Path::new(BASE).join(name))
        .output();
}

/// Takes down the labs whose makers are dead, except those that are to be kept.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix("w502-").and_then(|rest| rest.split('-').next());
        let Some(maker) = maker.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{maker}")).exists() && !entry.path().join("keep").exists() {
            take_down(&name);
        }
    }
}

/// From here on SIGINT and SIGTERM take the labs of this process down and end it.
pub fn stop_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        let names = UP.lock().map(|up| up.clone()).unwrap_or_default();
        for name in names {
            take_down(&name);
        }
        // 128 + SIGINT, as shells say it.
        std::process::exit(130);
    });
}
