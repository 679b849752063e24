//! The hosts that everything else is proved on.

use why502_tests::lab::Lab;

#[test]
fn two_hosts_boot_and_see_each_other() {
    if !rustix::process::getuid().is_root() {
        // The bench, which asks for root itself, boots two hundred of them.
        return;
    }
    let lab = Lab::boot(&["a", "b"], |_| Ok(())).unwrap();
    let a = lab.host("a").unwrap();
    let output = a.command("systemctl").arg("is-system-running").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "running", "{output:?}");
    let hit = a.command("getent").args(["hosts", "b"]).output().unwrap();
    assert!(String::from_utf8_lossy(&hit.stdout).starts_with("10.98.0.2"), "{hit:?}");
    let limit = a
        .command("systemd-run")
        .args(["--wait", "--quiet", "-p", "MemoryMax=20M", "/usr/bin/python3", "-c"])
        .arg("x = bytearray(60 << 20)")
        .status()
        .unwrap();
    assert!(!limit.success(), "a memory limit is a limit inside");
}
