# Takes down everything that carries the name of one lab. May be run at any moment, also half-way through a boot, and
# twice. Environment: LAB (its name), DIR (its directory).
set -u
for round in 1 2 3 4 5 6 7 8 9 10; do
  alive=0
  while read -r pid; do
    kill -KILL "$pid" 2>/dev/null && alive=1
  done < <(find /sys/fs/cgroup -path "*/$LAB-*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un)
  [ $alive = 0 ] && break
  sleep 0.05
done
while read -r netns _; do
  case $netns in "$LAB"-*) ip netns del "$netns" ;; esac
done < <(ip netns list)
while read -r point; do umount -l "$point"; done \
  < <(awk -v dir="$DIR" 'index($2, dir "/") == 1 || $2 == dir {print $2}' /proc/mounts | sort -r)
find /sys/fs/cgroup -depth -type d -path "*/$LAB-*" -exec rmdir {} + 2>/dev/null
rmdir "$DIR" 2>/dev/null
exit 0
