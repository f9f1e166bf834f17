#!/usr/bin/env bash
# rotate.sh rename|copytruncate: 20,000 lines/s over 4 files for SECONDS_LONG (30) s with a rotation a
# second: missing 0, duplicates 0.
source "$(dirname "$0")/lib.sh"
how=${1:?rename or copytruncate}
seconds=${SECONDS_LONG:-30}
build
write_config
start_sink
start_daemon
wait_ready
before=$(threads)
"$bench/loggen" --out "$scratch/logs" --files 4 --lines $((5000 * seconds)) --len 200 --rate 20000 \
    --rotate-lines 5000 --rotate "$how"
wait_unique $((20000 * seconds)) 60
sleep 2
expect_lines $((20000 * seconds)) no-duplicates
echo "threads $before -> $(threads), descriptors $(descriptors), peak $(peak_kib) KiB, processor $(cpu_seconds) s"
[ "$(threads)" -eq "$before" ] || fail "threads changed"
stop_daemon
