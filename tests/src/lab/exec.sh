#!/bin/sh
# Runs a command inside a host of this lab: exec HOST COMMAND...
host=$1
shift
pid=$(cat "@DIR@/$host/pid1" 2>/dev/null) || { echo "no host $host" >&2; exit 69; }
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  exec nsenter -t "$pid" -a -- "$@"
