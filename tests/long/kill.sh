#!/usr/bin/env bash
# The daemon is killed with SIGKILL KILLS (20) times at random moments of a drain and of writing at
# a rate, and started again: missing 0. Repeated lines are allowed and printed.
source "$(dirname "$0")/lib.sh"
lines=${LINES:-500000}
kills=${KILLS:-20}
build
write_config
start_sink
"$bench/loggen" --out "$scratch/logs" --files 4 --lines "$lines" --len 200 --rate "${RATE:-100000}" &
writer=$!
pids+=("$writer")
for i in $(seq "$kills"); do
    start_daemon
    sleep "0.$((RANDOM % 9 + 1))"
    kill_daemon
done
wait "$writer"
start_daemon
wait_unique $((4 * lines)) 300
sleep 2
expect_lines $((4 * lines))
stop_daemon
