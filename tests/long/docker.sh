#!/usr/bin/env bash
# Containers on a dockerd of the run's own, by both ways: one that writes CONTAINER_LINES (200,000)
# numbered lines at full speed, one with a TTY, one with 100 KiB lines, 50 sleeping ones with a line a
# second; in between a restart of a container, a forced removal and a restart of dockerd.
# Shows missing 0, duplicates 0, threads unchanged. Needs root, docker.io, busybox-static.
source "$(dirname "$0")/lib.sh"
count=${CONTAINER_LINES:-200000}
sleepers=${SLEEPERS:-50}
ticks=${TICKS:-30}
build
sock=$scratch/docker.sock
dk() { docker -H "unix://$sock" "$@"; }

engine_up() {
    dockerd --data-root "$scratch/root" --exec-root "$scratch/exec" --pidfile "$scratch/dockerd.pid" \
        --host "unix://$sock" --bridge=none --iptables=false --ip-masq=false >>"$scratch/dockerd.log" 2>&1 &
    engine_pid=$!
    for _ in $(seq 300); do dk version >/dev/null 2>&1 && return; sleep 0.1; done
    fail "dockerd does not answer"
}
engine_down() { kill -TERM "$engine_pid"; wait "$engine_pid" || true; }
engine_end() { dk ps -aq | xargs -r docker -H "unix://$sock" rm -f >/dev/null 2>&1 || true; engine_down; }

import_image() {
    mkdir -p "$scratch/rootfs/bin"
    cp /bin/busybox "$scratch/rootfs/bin/"
    for applet in sh awk sleep cat; do ln -sf busybox "$scratch/rootfs/bin/$applet"; done
    tar -C "$scratch/rootfs" -c . | dk import - lc-test:busybox >/dev/null
}
run() { # name, options..., -- script
    local name=$1 options=(); shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    dk run -d --network none --name "$name" "${options[@]}" lc-test:busybox sh -c "$2" >/dev/null
}
numbered() { echo "awk 'BEGIN { for (n = $2; n < $3; n++) printf \"INFO f=$1 n=%d abcdefghijklmnopqrstuvwxyz0123456789\\n\", n }'"; }

start_sink
for read in json_file api; do
    rm -rf "$scratch/data" "$scratch/daemon.log"
    curl -sf -X POST "127.0.0.1:$sink_port/_reset"
    engine_up
    import_image
    DOCKER_SOURCE="  docker:
    - name: local
      endpoint: unix://$sock
      read: $read
      start_at: beginning" write_config
    start_daemon
    wait_ready
    before=$(threads)
    for i in $(seq "$sleepers"); do
        run "sleeper-$i" -- "n=0; while [ \$n -lt $ticks ]; do echo \"tick f=$((100 + i)) n=\$n x\"; n=\$((n + 1)); sleep 1; done"
    done
    run burst -- "$(numbered 0 0 "$count")"
    run tty -t -- "$(numbered 1 0 "$count")"
    run long -- "awk 'BEGIN { while (length(s) < 102400) s = s \"abcdefghij\"; for (n = 0; n < 200; n++) printf \"long f=2 n=%d %s\\n\", n, s }'"
    counting="i=\$(cat /i 2>/dev/null || echo 0); echo \$((i + 1)) > /i; awk -v a=\$((i * 1000)) 'BEGIN { for (n = a; n < a + 1000; n++) printf \"INFO f=3 n=%d x\\n\", n }'; exec sleep 600"
    run restarted -- "$counting"
    sleep 1
    for _ in 1 2; do dk restart -t 0 restarted >/dev/null; sleep 1; done
    run removed -- "$(numbered 4 0 5000); sleep 600"
    sleep 2
    dk rm -f removed >/dev/null
    dk wait burst tty long $(seq -f 'sleeper-%g' "$sleepers") >/dev/null
    engine_down
    engine_up
    dk start restarted >/dev/null
    total=$((2 * count + 200 + 4000 + 5000 + sleepers * ticks))
    wait_unique "$total" 120
    sleep 2
    echo "read: $read"
    expect_lines "$total" no-duplicates
    echo "threads $before -> $(threads), descriptors $(descriptors), peak $(peak_kib) KiB, processor $(cpu_seconds) s"
    [ "$(threads)" -eq "$before" ] || fail "threads changed"
    stop_daemon
    engine_end
    sleep 1
    rm -rf "$scratch/root" "$scratch/exec"
done
