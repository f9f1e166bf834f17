//! The hand-written sections of log-capturer(8), in the small markup of `super::section`.

pub const DESCRIPTION: &str = "\
log-capturer reads log files and the logs of Docker containers and sends each line to
Grafana Loki, to local files, or to several such sinks. Every line read is at each moment
still readable at its source, or in the dead letters of this program, or acknowledged by
the destination: stopping, killing or restarting it loses nothing.

It runs a fixed set of threads, and needs no more memory than check computes. While a sink
is slow or down the sources wait where they are: files on disk, containers in their
engine's own log. What a configured rule drops or diverts is counted by its reason.

The container that log-capturer itself runs in is left alone.

A file rotated by rename is read to its end under its new name. A file that is copied and
truncated (logrotate's copytruncate) is followed too, its copy read first; lines that the
writer adds between the end of the copy and the truncation are lost by that method itself,
before any reader can see them.";

pub const CONFIGURATION: &str = "\
The config is one YAML file. Unknown keys and bad values are refused, all of them at once,
each with its line and column. Durations have units (500ms, 30s, 5m, 1h30m, 7d), and so
have sizes (512KiB, 64MiB, 1GiB; KB, MB and GB are powers of 1000).

In values, ${NAME} stands for an environment variable, ${NAME:-text} for text where it is
unset or empty, $$ for a dollar sign. ${HOSTNAME} is always known. A secret may be given as
file:PATH, read again at each use, or credential:NAME, a credential of systemd.

The least that is needed:

    sources:
      files:
        - include: [/var/log/*.log]
    sinks:
      - type: loki
        url: http://localhost:3100

Keys of lists are written with []: sources.files[].name is the key name in each item of
the list files in the section sources.";

pub const FILES: &str = "\
= /etc/log-capturer/log-capturer.yaml
The config, unless --config names another.
= /var/lib/log-capturer
The data directory (data_dir): positions, the generation before, dead letters, lock.
= /var/run/docker.sock
The engine's socket. Reading it needs membership of the group docker, or root.";

pub const SIGNALS: &str = "\
= SIGTERM, SIGINT
Stop: deliver what was read within shutdown_timeout, save positions, exit. What was not
acknowledged is read again at the next start. A second one stops at once, within two seconds.
= SIGHUP
Not supported yet: a changed config needs a restart.
= SIGUSR1
Nothing: the program's own log goes to standard error, where there is nothing to reopen.
= SIGUSR2
Write the state of each thread and component to the program's own log.";

pub const METRICS: &str = "\
Served at /metrics of server.listen, in the Prometheus text format; /health and /ready
stand beside it.";

/// Name, labels, meaning.
pub const METRIC_NAMES: [(&str, &str, &str); 28] = [
    ("log_capturer_logs_processed_total", "source_type", "Lines read"),
    ("log_capturer_lines_read_total", "source", "Lines read"),
    ("log_capturer_bytes_read_total", "source", "Bytes of the lines read"),
    (
        "log_capturer_lines_filtered_total",
        "source,reason",
        "Lines left out by a rule before any sink",
    ),
    (
        "log_capturer_logs_sent_total",
        "sink,status",
        "Lines (not batches) by what became of them in a sink: delivered, diverted, dropped",
    ),
    (
        "log_capturer_lines_pending",
        "sink",
        "Lines in closed batches whose outcome is not known yet",
    ),
    ("log_capturer_lines_diverted_total", "sink,reason", "Lines in dead letters"),
    (
        "log_capturer_dead_letters_evicted_total",
        "reason",
        "Lines in dead letters that were removed again for size or age",
    ),
    (
        "log_capturer_lines_dropped_total",
        "sink,reason",
        "Lines that an optional sink had no room for",
    ),
    (
        "log_capturer_invalid_utf8_lines_total",
        "source",
        "Lines in which bytes that are not UTF-8 were replaced",
    ),
    (
        "log_capturer_long_lines_total",
        "source,what",
        "Lines above line_bytes_max, by what became of them",
    ),
    (
        "log_capturer_damaged_records_total",
        "source,what",
        "Records of a container log that could not be read",
    ),
    (
        "log_capturer_bytes_at_risk",
        "lane",
        "Bytes of unlinked files or removed containers not yet acknowledged: lost if the daemon ended now",
    ),
    ("log_capturer_errors_total", "component,error_type", "Faults"),
    (
        "log_capturer_queue_size",
        "component,queue_type",
        "Items waiting: batches of a sink, events of a thread",
    ),
    ("log_capturer_sink_queue_bytes", "sink", "Bytes of batches queued or in flight"),
    (
        "log_capturer_sink_queue_utilization",
        "sink",
        "The same as a part of queue.memory, 0 to 1; the one batch that a shard always has room for can take it above 1",
    ),
    ("log_capturer_sink_send_duration_seconds", "sink", "Time of a request (histogram)"),
    (
        "log_capturer_component_health",
        "component_type,component_name",
        "1 healthy, 0.5 degraded, 0 unhealthy",
    ),
    ("log_capturer_total_files_monitored", "", "Files followed"),
    ("log_capturer_total_containers_monitored", "", "Containers followed"),
    ("log_capturer_threads", "", "Threads of the process"),
    ("log_capturer_threads_expected", "", "Threads that the config plans"),
    ("log_capturer_goroutines", "", "Another name of log_capturer_threads"),
    ("log_capturer_file_descriptors_open", "", "Open file descriptors"),
    (
        "log_capturer_memory_usage_bytes",
        "type",
        "Memory of the process: resident, resident_peak, anonymous, virtual",
    ),
    ("log_capturer_build_info", "version,target", "Always 1"),
    ("process_*", "", "Processor time, memory, descriptors, start time and threads of the process"),
];

pub const EXAMPLES: &str = "\
Check a config before it is used, and see what it needs:

    log-capturer check --config /etc/log-capturer/log-capturer.yaml

Run in the foreground:

    log-capturer run --config conf/quickstart.yaml

Send all containers but those of one Compose project, with a token that systemd keeps:

    sources:
      docker:
        - exclude: { projects: [monitoring] }
    sinks:
      - type: loki
        url: https://loki.example.com
        tenant: hosts
        auth: { bearer: credential:loki-token }";

pub const SEE_ALSO: &str = "\
systemd.exec(5), logrotate(8), docker-logs(1)";
