# Common parts of the long runs: builds, a scratch directory, lokisink, the daemon, the verdict.
# Sourced by each script. Needs bash, curl, python3 and cargo.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bench=$top/tests/bench/target/release
scratch=$(mktemp -d "${TMPDIR:-/tmp}/log-capturer-long.XXXXXX")
sink_port=${SINK_PORT:-3199}
admin_port=${ADMIN_PORT:-8491}
daemon_pid=
pids=()

cleanup() {
    local status=$?
    for pid in "$daemon_pid" "${pids[@]}"; do
        [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if [ "$status" -eq 0 ] || [ -z "${KEEP:-}" ]; then rm -rf "$scratch"; else echo "kept: $scratch"; fi
    exit "$status"
}
trap cleanup EXIT

fail() { echo "FAILED: $*" >&2; tail -n 20 "$scratch/daemon.log" >&2 2>/dev/null || true; exit 1; }

build() {
    (cd "$top" && cargo build --release --quiet)
    (cd "$top/tests/bench" && cargo build --release --quiet)
}

start_sink() {
    "$bench/lokisink" --verify --listen "127.0.0.1:$sink_port" 2>"$scratch/sink.log" &
    pids+=($!)
    for _ in $(seq 100); do
        curl -sf "127.0.0.1:$sink_port/ready" >/dev/null && return
        read -rt 0.05 <> <(:) || true
    done
    fail "lokisink does not answer"
}

sink_mode() { curl -sf -X POST "127.0.0.1:$sink_port/_mode?$1"; }
sink_stats() { curl -sf "127.0.0.1:$sink_port/_stats"; }
# One figure of lokisink: stat missing
stat() { sink_stats | python3 -c "import json,sys; print(json.load(sys.stdin)['$1'])"; }

# The config for files under $scratch/logs; further lines from standard input when given as "-".
write_config() {
    mkdir -p "$scratch/logs"
    cat >"$scratch/config.yaml" <<YAML
data_dir: $scratch/data
server: { listen: "127.0.0.1:$admin_port" }
shutdown_timeout: 10s
sources:
  files:
    - name: logs
      include: ["$scratch/logs/*.log"]
      labels: { job: logs }
      start_at: beginning
${DOCKER_SOURCE:-}
sinks:
  - name: loki
    type: loki
    url: http://127.0.0.1:$sink_port
    timeout: { connect: 2s, request: ${REQUEST_TIMEOUT:-10s} }
    retry: { initial: 200ms, max: ${RETRY_MAX:-2s} }
YAML
}

start_daemon() {
    "$top/target/release/log-capturer" run --config "$scratch/config.yaml" 2>>"$scratch/daemon.log" &
    daemon_pid=$!
}

wait_ready() {
    for _ in $(seq 200); do
        curl -sf "127.0.0.1:$admin_port/ready" >/dev/null && return
        kill -0 "$daemon_pid" 2>/dev/null || fail "the daemon ended"
        sleep 0.05
    done
    fail "the daemon is not ready"
}

kill_daemon() { kill -9 "$daemon_pid" 2>/dev/null || true; wait "$daemon_pid" 2>/dev/null || true; }

# Ends the daemon with SIGTERM; its exit code must be 0.
stop_daemon() {
    kill -TERM "$daemon_pid"
    wait "$daemon_pid" || fail "the daemon ended with $?"
    daemon_pid=
}

# Waits until lokisink has $1 different lines, at most $2 seconds.
wait_unique() {
    local wanted=$1 deadline=$((SECONDS + $2))
    while [ "$(stat unique)" -lt "$wanted" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "only $(stat unique) of $wanted lines: $(sink_stats)"
        sleep 0.1
    done
}

threads() { find "/proc/$daemon_pid/task" -mindepth 1 -maxdepth 1 | wc -l; }
descriptors() { find "/proc/$daemon_pid/fd" -mindepth 1 -maxdepth 1 | wc -l; }
peak_kib() { awk '/VmHWM/ {print $2}' "/proc/$daemon_pid/status"; }
# Processor time of the daemon so far, user and system, in seconds.
cpu_seconds() { awk -v hz="$(getconf CLK_TCK)" '{print ($14 + $15) / hz}' "/proc/$daemon_pid/stat"; }

# Checks what lokisink has: expect_lines TOTAL [no-duplicates]
expect_lines() {
    local stats
    stats=$(sink_stats)
    echo "$stats"
    python3 - "$stats" "$1" "${2:-}" <<'PY' || fail "lines are lost or repeated"
import json, sys
stats, total, strict = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ok = stats["unique"] == total and stats["missing"] == 0
if strict == "no-duplicates":
    ok = ok and stats["duplicates"] == 0
print("lines %d, missing %d, duplicates %d, visible %d" % (
    stats["unique"], total - stats["unique"], stats["duplicates"], stats["visible_duplicates"]))
sys.exit(0 if ok else 1)
PY
}
