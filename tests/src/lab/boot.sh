# Boots one test host: an overlay over this machine's root, namespaces, cgroups, and a real systemd as PID 1.
# Environment: DIR (of the host), NAME, LAYER, NETNS, SWITCH, PORT, ADDR, CGROUP. Speaks through files in DIR:
# `pid1`, and systemd's own READY=1 to the socket in `notify`. Nothing here is ever written to the machine's root.
set -euo pipefail
R=$DIR/root
mkdir -p "$DIR/upper/etc" "$DIR/work" "$R"
echo "$NAME" > "$DIR/upper/etc/hostname"
tr -d - < /proc/sys/kernel/random/uuid > "$DIR/upper/etc/machine-id"
mount -t overlay overlay -o "lowerdir=$LAYER:/,upperdir=$DIR/upper,workdir=$DIR/work" "$R"

ip netns add "$NETNS"
ip link add eth0 netns "$NETNS" type veth peer name "$PORT" netns "$SWITCH"
ip -n "$SWITCH" link set "$PORT" master br0 up
ip -n "$NETNS" -batch - <<LINK
link set lo up
addr add $ADDR/24 dev eth0
link set eth0 up
LINK

# A cgroup of its own in every hierarchy that the host may write.
V1=()
for h in memory pids cpu freezer systemd unified; do
  if [ -d "/sys/fs/cgroup/$h" ] && mountpoint -q "/sys/fs/cgroup/$h"; then V1+=("$h"); fi
done
if [ ${#V1[@]} -eq 0 ]; then
  mkdir -p "/sys/fs/cgroup/$CGROUP"
  echo $$ > "/sys/fs/cgroup/$CGROUP/cgroup.procs"
else
  for h in "${V1[@]}"; do
    mkdir -p "/sys/fs/cgroup/$h/$CGROUP"
    echo $$ > "/sys/fs/cgroup/$h/$CGROUP/cgroup.procs"
  done
fi

export R DIR NAME HIERARCHIES="${V1[*]}"
exec ip netns exec "$NETNS" unshare --pid --mount --uts --ipc --cgroup --fork --propagation private \
  bash -euc '
  # The proc mounted here is still the outer one: this is our pid as the machine sees it.
  read -r pid _ < /proc/self/stat
  mount --make-rprivate /
  mount --bind "$R" "$R"
  mount -t proc proc "$R/proc"
  mount -t sysfs sysfs "$R/sys"
  if [ -z "$HIERARCHIES" ]; then
    mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
  else
    mount -t tmpfs tmpfs "$R/sys/fs/cgroup" -o mode=755
    for h in $HIERARCHIES; do
      mkdir "$R/sys/fs/cgroup/$h"
      case $h in
        systemd) mount -t cgroup cgroup "$R/sys/fs/cgroup/$h" -o none,name=systemd ;;
        unified) mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/$h" ;;
        *) mount -t cgroup cgroup "$R/sys/fs/cgroup/$h" -o "$h" ;;
      esac
    done
  fi
  mount -t tmpfs tmpfs "$R/run" -o mode=755
  mount -t tmpfs tmpfs "$R/tmp" -o mode=1777
  mount -t tmpfs tmpfs "$R/dev" -o mode=755
  for d in null zero full random urandom tty kmsg; do
    touch "$R/dev/$d"
    mount --bind "/dev/$d" "$R/dev/$d"
  done
  mkdir "$R/dev/shm" "$R/dev/pts" "$R/run/host"
  mount -t tmpfs tmpfs "$R/dev/shm" -o mode=1777
  mount -t devpts devpts "$R/dev/pts" -o newinstance,ptmxmode=0666,mode=620
  ln -s pts/ptmx "$R/dev/ptmx"
  ln -s /proc/self/fd "$R/dev/fd"
  mount --bind "$DIR/notify" "$R/run/host"
  hostname "$NAME"
  echo "$pid" > "$DIR/pid1.new" && mv "$DIR/pid1.new" "$DIR/pid1"
  cd "$R"
  pivot_root . mnt
  umount -l /mnt
  exec env -i container=why502-tests NOTIFY_SOCKET=/run/host/ready PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=no
'
