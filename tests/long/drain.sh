#!/usr/bin/env bash
# A backlog of 400 MB (4 files x 500,000 lines of 200 bytes) to lokisink: missing 0, duplicates 0,
# and the processor time as a ratio to `floor` in the same run. LINES=N shortens it.
# Bounds: processor time at most RATIO_MAX (2.0) times floor, peak memory at most PEAK_MIB_MAX (32).
source "$(dirname "$0")/lib.sh"
lines=${LINES:-500000}
build
write_config
"$bench/loggen" --out "$scratch/logs" --files 4 --lines "$lines" --len 200
start_sink

floor_seconds() {
    python3 - "$bench/floor" "127.0.0.1:$sink_port" "$scratch"/logs/*.log <<'PY'
import resource, subprocess, sys
subprocess.run([sys.argv[1], sys.argv[2], "1048576", *sys.argv[3:]], check=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print("%.2f" % (usage.ru_utime + usage.ru_stime))
PY
}
floor_before=$(floor_seconds)
curl -sf -X POST "127.0.0.1:$sink_port/_reset"
start_daemon
wait_unique $((4 * lines)) 300
sleep 1
cpu=$(cpu_seconds)
peak=$(peak_kib)
expect_lines $((4 * lines)) no-duplicates
stop_daemon
floor_after=$(floor_seconds)
python3 - "$floor_before" "$floor_after" "$cpu" "$peak" "${RATIO_MAX:-2.0}" "${PEAK_MIB_MAX:-32}" "$lines" <<'PY' || fail "over a bound"
import sys
before, after, cpu, peak, ratio_max, peak_max, lines = map(float, sys.argv[1:])
floor = (before + after) / 2
mb = 4 * lines * 201 / 1e6
print("floor %.2f s, daemon %.2f s, ratio %.2f, %.0f MB per processor second, peak %.1f MiB" % (
    floor, cpu, cpu / floor, mb / cpu, peak / 1024))
sys.exit(0 if cpu / floor <= ratio_max and peak / 1024 <= peak_max else 1)
PY
