# Words that the scenarios' scripts share; sourced.
set -euo pipefail

# on HOST COMMAND...: runs it inside.
on() { "$HOST_EXEC" "$@"; }

# put HOST FILE: standard input becomes the file.
put() { on "$1" sh -c 'mkdir -p "$(dirname "$0")" && cat > "$0"' "$2"; }

# until_true HOST COMMAND...: waits until it succeeds, at most 15 s.
until_true() {
  local host=$1 tries=0
  shift
  until on "$host" "$@" > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 150 ] || { echo "never true on $host: $*" >&2; return 1; }
    sleep 0.1
  done
}

# app HOST NAME [LINE...]: app.py as NAME.service, with further lines for its [Service] section; settings in
# /etc/NAME.env from standard input. Starts it.
app() {
  local host=$1 name=$2
  shift 2
  put "$host" "/etc/$name.env"
  put "$host" /srv/app.py < ../app.py
  {
    printf '[Unit]\nStartLimitIntervalSec=10\nStartLimitBurst=5\n'
    printf '[Service]\nEnvironmentFile=/etc/%s.env\nExecStart=/usr/bin/python3 /srv/app.py\n' "$name"
    printf 'RuntimeDirectory=app\nRuntimeDirectoryPreserve=yes\n'
    [ $# -eq 0 ] || printf '%s\n' "$@"
  } | put "$host" "/etc/systemd/system/$name.service"
  on "$host" systemctl start "$name"
}

# nginx HOST: nginx with conf.d/site.conf from standard input.
nginx() {
  put "$1" /etc/nginx/conf.d/site.conf
  on "$1" systemctl start nginx
}

# envoy HOST: Envoy of the test gateways on port 80, which sends all to one cluster, with the lines of standard input. Its access log has the default format.
envoy() {
  {
    cat << 'YAML'
static_resources:
  listeners:
  - address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /var/log/envoy/access.log
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app, timeout: 2s}}]}
  clusters:
  - name: app
    connect_timeout: 1s
YAML
    cat
  } | put "$1" /etc/envoy/envoy.yaml
  put "$1" /etc/systemd/system/envoy.service << 'UNIT'
[Service]
LogsDirectory=envoy
ExecStart=/opt/why502-test-gateways/envoy -c /etc/envoy/envoy.yaml --file-flush-interval-msec 200
UNIT
  on "$1" systemctl start envoy
}

# traefik HOST: Traefik of the test gateways on port 80, with the file provider's configuration from standard input.
traefik() {
  put "$1" /etc/traefik/dynamic.yml
  put "$1" /etc/traefik/traefik.yml << 'YAML'
entryPoints: {web: {address: ":80"}}
providers: {file: {filename: /etc/traefik/dynamic.yml}}
global: {checkNewVersion: false, sendAnonymousUsage: false}
accessLog: {filePath: /var/log/traefik/access.log}
YAML
  put "$1" /etc/systemd/system/traefik.service << 'UNIT'
[Service]
LogsDirectory=traefik
ExecStart=/opt/why502-test-gateways/traefik --configFile=/etc/traefik/traefik.yml
UNIT
  on "$1" systemctl start traefik
}

# answers HOST URL: waits until it is answered with 200.
answers() { until_true "$1" curl -sf -o /dev/null --max-time 5 "$2"; }
