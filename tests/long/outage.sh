#!/usr/bin/env bash
# outage.sh 500|hang|reset|429: lokisink misbehaves for OUTAGE (60) s under 20,000 lines/s, then
# recovers: missing 0, threads and descriptors constant, peak memory under 48 MiB.
source "$(dirname "$0")/lib.sh"
how=${1:?500, hang, reset or 429}
outage=${OUTAGE:-60}
REQUEST_TIMEOUT=5s
build
write_config
start_sink
start_daemon
wait_ready
seconds=$((outage + 15))
"$bench/loggen" --out "$scratch/logs" --files 4 --lines $((5000 * seconds)) --len 200 --rate 20000 &
pids+=($!)
sleep 5
threads_before=$(threads)
case $how in
500) sink_mode "do=status&status=500&body=oops" ;;
hang) sink_mode "do=hang&ms=20000" ;;
reset) sink_mode "do=reset" ;;
429) sink_mode "do=status&status=429&retry_after=1&body=ingestion+rate+limit+exceeded+for+user+fake+(limit:+4194304+bytes/sec)+while+attempting+to+ingest+'1'+lines+totaling+'100'+bytes" ;;
*) fail "unknown mode $how" ;;
esac
descriptors_max=0
for _ in $(seq "$outage"); do
    now=$(descriptors)
    [ "$now" -le "$descriptors_max" ] || descriptors_max=$now
    [ "$(threads)" -eq "$threads_before" ] || fail "threads changed from $threads_before to $(threads)"
    sleep 1
done
sink_mode "do=ok"
wait_unique $((20000 * seconds)) 120
sleep 1
expect_lines $((20000 * seconds))
peak=$(peak_kib)
echo "threads $threads_before -> $(threads), descriptors at most $descriptors_max, now $(descriptors), peak $peak KiB"
[ "$(threads)" -eq "$threads_before" ] || fail "threads changed"
[ "$descriptors_max" -le 64 ] || fail "descriptors grew to $descriptors_max"
[ "$peak" -le $((48 * 1024)) ] || fail "peak memory over 48 MiB"
stop_daemon
