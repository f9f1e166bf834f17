//! Every bound of the program that is not in the config, with its arithmetic.
//!
//! A bound belongs here when memory, descriptors, time or disk depend on it.
//! Where a number is another program's, its source is named.

use std::time::Duration;

/// What a file lane reads at once; also the unit of fairness between its files.
pub const READ_CHUNK_BYTES: usize = 256 << 10;

/// Loki's `max_line_size` (default limits_config), the ceiling of `line_bytes_max`.
pub const LOKI_LINE_BYTES_MAX: usize = 256 << 10;

/// Loki's grpc_server_max_recv_msg_size (4 MiB), less room for labels: no request is larger,
/// measured as uncompressed protobuf.
pub const LOKI_REQUEST_BYTES_MAX: usize = (4 << 20) - (64 << 10);

/// Loki's max_label_names_per_series (15).
pub const LABELS_MAX: usize = 15;

/// Loki's max_label_name_length.
pub const LABEL_NAME_BYTES_MAX: usize = 1024;

/// Loki's max_label_value_length.
pub const LABEL_VALUE_BYTES_MAX: usize = 2048;

/// Loki's max_structured_metadata_size (64 KB).
pub const METADATA_BYTES_MAX: usize = 64 << 10;

/// Sealed batches a shard's channel holds; the sink's byte budget is reached first unless
/// batches are tiny (sealed by age).
pub const SHARD_QUEUE_BATCHES: usize = 64;

/// Events that may wait for `ack`. A lane that finds it full parks its batch; a sender waits.
pub const ACK_INBOX_EVENTS: usize = 1024;

/// Events that may wait for a lane. When full, the "rescan" flag stands for the rest.
pub const LANE_INBOX_EVENTS: usize = 4096;

/// Lookups that may wait for the resolver: at most one a sender and engine.
pub const RESOLVER_INBOX: usize = 64;

/// Lines of our own log that wait for the `log` thread; more are counted and dropped.
pub const LOG_RING_LINES: usize = 1024;

/// How long a stop waits for lines of our own log to be taken by whoever reads stderr.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);

/// A line of our own log is cut here.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// A busy thread whose last beat is older is reported as stalled.
pub const STALL_AFTER: Duration = Duration::from_secs(30);

/// How often threads are compared with the plan: 5 system calls each time.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(5);

/// Unknown threads that are named; more are only counted.
pub const AUDIT_NAMES: usize = 16;

/// A step of the wall clock against the monotonic one that is worth a line in our log.
pub const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Header block of an answer of a Docker Engine; those recorded have 170 to 300 bytes.
pub const DOCKER_HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of an answer of a Docker Engine.
pub const DOCKER_HEADERS_MAX: usize = 64;

/// The line that announces a chunk, with extensions; the engine's have 3 to 6 bytes.
pub const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;

/// The header lines after the last chunk; the engine sends none.
pub const CHUNK_TRAILER_BYTES_MAX: usize = 8 << 10;

/// How long a connection to a Docker Engine may take.
pub const DOCKER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A request to a Docker Engine, from connecting to the last byte of its answer. Meanwhile the
/// events of other engines wait in their sockets: an engine buffers about 1,000 (observed).
pub const DOCKER_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a wait for an engine's answer sees that a stop was asked for.
pub const DOCKER_STOP_CHECK: Duration = Duration::from_millis(200);

/// The body of an answer: a list has about 1 KiB a container, so this is room for 16,000.
pub const DOCKER_BODY_BYTES_MAX: usize = 16 << 20;

/// What is read at once from an engine's socket by `docker-ctl`.
pub const DOCKER_READ_BYTES: usize = 16 << 10;

/// Of an error's text, what goes to our own log.
pub const DOCKER_ERROR_TEXT_BYTES_MAX: usize = 512;

/// Silence after which a peer on tcp is probed, how often, and how many probes may go
/// unanswered: a dead engine is known after a minute and a half.
pub const DOCKER_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub const DOCKER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
pub const DOCKER_KEEPALIVE_PROBES: u32 = 3;

/// A line of the events stream; all labels of a container are in it. A longer one is skipped
/// and the containers are listed again.
pub const DOCKER_EVENT_BYTES_MAX: usize = 1 << 20;

/// Containers of one engine that are known at a time; more are not followed, said so.
pub const DOCKER_CONTAINERS_MAX: usize = 10_000;

/// Waits between tries at an engine that does not answer: doubled each time.
pub const DOCKER_RETRY_INITIAL: Duration = Duration::from_millis(500);
pub const DOCKER_RETRY_MAX: Duration = Duration::from_secs(10);

/// How often the containers are listed although no event asks for it.
pub const DOCKER_RELIST_INTERVAL: Duration = Duration::from_secs(60);

/// How soon a lane whose inbox was full is told again, and an inspection that failed is tried
/// again.
pub const DOCKER_TELL_AGAIN: Duration = Duration::from_millis(200);

/// How often dirty positions are written.
pub const POSITIONS_INTERVAL: Duration = Duration::from_secs(1);

/// How soon the positions are written when a source is new: a file that is renamed while we are
/// down is known again by its position only.
pub const REGISTER_SAVE_DELAY: Duration = Duration::from_millis(5);

/// Positions of sources that are gone and acknowledged are forgotten after this.
pub const FORGET_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Tracked sources (files and containers) in the positions file.
pub const POSITIONS_MAX: usize = 100_000;

/// Open admin connections.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Header block of an admin request.
pub const ADMIN_HEAD_BYTES_MAX: usize = 8 << 10;

/// Body of an admin request.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 << 10;

/// Headers of an admin request.
pub const ADMIN_HEADERS_MAX: usize = 64;

/// What is read at once from an admin connection.
pub const ADMIN_READ_BYTES: usize = 16 << 10;

/// An admin connection without a request is closed after this; so is one whose answer is not
/// taken within it.
pub const ADMIN_IDLE: Duration = Duration::from_secs(30);

/// Follow streams of one engine at a time; the recorded engine stops at 128. The rest of its
/// containers are polled in turns.
pub const DOCKER_FOLLOWS_MAX: usize = 100;
/// From the first byte of an admin request to its last, however it trickles.
pub const ADMIN_REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a connection that is being closed is read on, so that the peer gets our answer
/// before a reset; and how long accepting rests when descriptors have run out.
pub const ADMIN_LINGER: Duration = Duration::from_secs(1);

/// Requests that may wait for `admin-1`: one a connection, and one from a signal.
pub const ADMIN_REQUESTS: usize = ADMIN_CONNECTIONS_MAX + 1;

/// Files kept open by file lanes, all together.
pub const OPEN_FILES_MAX: usize = 4096;

/// Files that sources may match, all together.
pub const FILES_MAX: usize = 100_000;

/// A line kept in a dead letter; a longer one is cut and marked.
pub const DEAD_LETTER_LINE_BYTES_MAX: usize = 256 << 10;

/// Bytes of an answer's body that are read: 500 groups of refusals take 90 KB (recorded).
pub const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What is read past a chunk, so that a line of the largest size fits with its line end; one
/// page, so that reads stay aligned.
pub const READ_MARGIN_BYTES: usize = 4 << 10;

/// First bytes of a file that tell it from others under the same inode.
pub const FINGERPRINT_BYTES_MAX: usize = 1 << 10;

/// How often files that grow are looked at.
pub const FILE_TICK: Duration = Duration::from_millis(200);

/// A file that did not grow for this long is idle: its directory's data event wakes it.
pub const FILE_IDLE_AFTER: Duration = Duration::from_secs(5);

/// Idle files that no data event covers (their directory has active files, or inotify is at
/// its limit) are looked at this often ...
pub const FILE_IDLE_TICK: Duration = Duration::from_secs(1);

/// ... but not more than this many a second: one fstat(2) takes 0.3 us, so 0.1 % of a core.
pub const FILE_IDLE_LOOKS_PER_SECOND: usize = 2_000;

/// All names are looked through this often where inotify works ...
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// ... and this often where it does not, and after its queue overflowed.
pub const SWEEP_INTERVAL_BLIND: Duration = Duration::from_secs(10);

/// Changes of names in a directory are gathered for this long before it is listed, and for
/// 20 times what listing it took last.
pub const NAMES_SETTLE: Duration = Duration::from_millis(100);

/// Levels of directories below the fixed part of a pattern with `**`.
pub const WALK_DEPTH_MAX: usize = 16;

/// Directories that a lane looks through and watches.
pub const WALK_DIRECTORIES_MAX: usize = 20_000;

/// Rotated files that a lane remembers to have finished, so that a slow clock of the file system
/// does not make them look new.
pub const FINISHED_FILES: usize = 1_024;

/// Chunks that a file lane reads before it looks at its inbox again.
pub const READS_A_TURN: usize = 16;

/// How long an address from the resolver counts as fresh; an older one serves on while it is
/// asked for again.
pub const NAME_FRESH: Duration = Duration::from_secs(30);

/// Header block of an answer.
pub const ANSWER_HEAD_BYTES_MAX: usize = 32 << 10;

/// Idle connections to a sink are closed by us before Loki does (120 s, recorded).
pub const CONNECTION_IDLE: Duration = Duration::from_secs(90);

/// A `Retry-After` is honoured up to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How often a held batch is sent again to see whether the cause is gone.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Requests a batch may spend on finding refused entries that no answer names.
pub const SEARCH_REQUESTS_MAX: u32 = 40;

/// Resets in a row while a connection can be made, after which a batch is halved: a server
/// that answers 413 and closes shows as a reset.
pub const RESETS_BEFORE_SPLIT: u32 = 3;

/// A part is not halved because of resets or rate limits below this size.
pub const SPLIT_BYTES_MIN: usize = 64 << 10;

/// How long a stream that a stream limit refuses is tried, before its entries go to dead
/// letters.
pub const STREAM_LIMIT_PATIENCE: Duration = Duration::from_secs(300);

/// Loki refuses what is older than this before a stream's newest entry (max_chunk_age / 2).
pub const ORDER_WINDOW: Duration = Duration::from_secs(3600);

/// Past this an entry is at risk, and its stream travels alone: 5/6 of the window.
pub const ORDER_RISK: Duration = Duration::from_secs(3000);

/// Streams whose newest delivered time a sender remembers (16 bytes each).
pub const NEWEST_STREAMS_MAX: usize = 16_384;

/// A dead-letter segment is closed at this size, or an eighth of the whole store if less.
pub const DEAD_LETTER_SEGMENT_BYTES: u64 = 16 << 20;

const _: () = assert!(ORDER_RISK.as_secs() < ORDER_WINDOW.as_secs());
const _: () = assert!(READ_CHUNK_BYTES >= LOKI_LINE_BYTES_MAX);
const _: () = assert!(LOKI_REQUEST_BYTES_MAX < 4 << 20);

/// A record of a log stream: the engine's pieces have 16 KiB, thrice that where invalid UTF-8 was
/// replaced, and 31 bytes of time; other drivers' readers may send more.
pub const DOCKER_FRAME_BYTES_MAX: usize = 1 << 20;

/// First wait after a failed log request, doubled at each further one.
pub const DOCKER_LOG_RETRY_FIRST: Duration = Duration::from_millis(100);

/// Longest wait between two log requests for one container that fail.
pub const DOCKER_LOG_RETRY_MAX: Duration = Duration::from_secs(10);

/// A follow stream that ends without anything new is opened again after this, growing tenfold.
pub const DOCKER_REOPEN: Duration = Duration::from_secs(1);

/// How often a log that is not followed is read again while it grows; eight times as long when
/// it does not. 100 idle containers asked once a second cost the engine 2.5 % of a core.
pub const DOCKER_POLL_BUSY: Duration = Duration::from_millis(500);

/// A follow stream that is silent for so long is closed and its log read again: a deaf stream
/// shows no other sign.
pub const DOCKER_QUIET_CHECK: Duration = Duration::from_secs(60);

/// A stream whose lines find no room is left unread for so long, then closed; its place is kept.
pub const DOCKER_HOLD: Duration = Duration::from_secs(1);

/// An answer that is not a follow stream, from the request to its last byte while it makes no
/// progress.
pub const DOCKER_READ_IDLE: Duration = Duration::from_secs(30);

/// Log requests without `follow` that a lane has under way at a time.
pub const DOCKER_READS_MAX: usize = 16;

/// What is read at once from a log stream.
pub const DOCKER_CHUNK_BYTES: usize = 128 << 10;

/// A stream that began no batch for so long may give its place to a new one. Loki itself closes
/// an idle stream after chunk_idle_period (30 min).
pub const STREAM_QUIET: Duration = Duration::from_secs(30 * 60);

/// How often quiet streams are looked for while a sink is at its limit.
pub const STREAM_CLEAR_INTERVAL: Duration = Duration::from_secs(60);

/// Longest wait before the next attempt at a batch once a stop was asked for.
pub const STOP_RETRY: Duration = Duration::from_millis(500);

/// A run's last lines were on its stream up to 20 ms after the event of its end (recorded); the
/// log is read once more when so much has passed.
pub const DOCKER_SETTLE: Duration = Duration::from_millis(500);

/// An answer without `follow` whose lines find no room is left unread for so long, then closed.
/// Longer than for a stream: its place may have to be looked for in the whole log.
pub const DOCKER_READ_HOLD: Duration = Duration::from_secs(60);

/// An engine that could not be connected to is left alone for so long by a lane.
pub const DOCKER_CONNECT_REST: Duration = Duration::from_secs(1);
