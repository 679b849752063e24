# Makes what all hosts of a lab have above this machine's root: no unit of the machine is enabled, what only costs
# time at boot is masked, and every name resolves. Environment: DIR, LAYER, and HOSTS_FILE (its text).
set -euo pipefail
M=$DIR/layer-root
mkdir -p "$M" "$DIR/layer-work" "$LAYER"
mount -t overlay overlay -o "lowerdir=/,upperdir=$LAYER,workdir=$DIR/layer-work" "$M"
rm -rf "$M"/etc/systemd/system/*.wants "$M"/etc/rc?.d "$M"/var/log/journal "$M"/var/log/nginx/*
rm -f "$M"/etc/resolv.conf "$M"/etc/nginx/sites-enabled/* "$M"/etc/nginx/conf.d/*
printf '%s' "$HOSTS_FILE" > "$M/etc/hosts"
echo '# Names of a lab are in /etc/hosts.' > "$M/etc/resolv.conf"
for unit in systemd-logind.service systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket \
  systemd-udevd-kernel.socket getty.target getty-static.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-modules-load.service \
  systemd-sysctl.service systemd-binfmt.service systemd-machine-id-commit.service systemd-firstboot.service \
  systemd-repart.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-ask-password-wall.path \
  systemd-ask-password-console.path systemd-user-sessions.service systemd-remount-fs.service \
  systemd-tmpfiles-setup-dev.service kmod-static-nodes.service systemd-initctl.socket systemd-tmpfiles-clean.timer \
  systemd-hwdb-update.service ldconfig.service systemd-journal-flush.service systemd-journal-catalog-update.service \
  systemd-update-done.service dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
  sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount \
  systemd-journald-audit.socket apt-daily.timer apt-daily-upgrade.timer; do
  ln -sf /dev/null "$M/etc/systemd/system/$unit"
done
umount "$M"
