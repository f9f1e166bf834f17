//! The Loki double agrees with the recorded contract, and its scripts do what they say.
//!
//! contract.jsonl holds exchanges with a real Loki, replay.py repeats them against a server. The
//! lists below say which families of cases (first word of the name) agree; they only grow.

mod script;

use crate::support::loki::{Answer, Block, Limits, LokiDouble, Rate};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loki");

/// Cases of a profile that the double agrees with.
struct Agreed {
    profile: &'static str,
    families: &'static [&'static str],
    /// Cases of these families that do not agree yet, or cannot.
    except: &'static [&'static str],
    limits: fn(&mut Limits),
    /// Scripted behaviour that stands for a server in trouble.
    prepare: fn(&LokiDouble),
}

const PLAIN: Agreed =
    Agreed { profile: "", families: &[], except: &[], limits: |_| {}, prepare: |_| {} };

/// The longest first.
const AGREED: &[Agreed] = &[
    Agreed { profile: "flush", families: &["dup", "order"], ..PLAIN },
    Agreed {
        profile: "default",
        families: &[
            "partial", "order", "dup", "labels", "metadata", "line", "ts", "json", "protobuf",
            "snappy", "stream", "no", "size", "auth", "ready", "http", "backfill", "same",
        ],
        // Real Loki shows many lines with an equal time in an order of its own.
        except: &["same-ts-many-lines"],
        ..PLAIN
    },
    Agreed {
        profile: "plain",
        families: &["labels", "line", "enrichment"],
        limits: |l| (l.discover_service_name, l.discover_log_levels) = (false, false),
        ..PLAIN
    },
    Agreed {
        profile: "truncate",
        families: &["line"],
        limits: |l| l.max_line_size_truncate = true,
        ..PLAIN
    },
    Agreed {
        profile: "truncate-id",
        families: &["line"],
        limits: |l| {
            (l.max_line_size, l.max_line_size_truncate) = (100, true);
            l.max_line_size_truncate_identifier = "[cut]";
        },
        ..PLAIN
    },
    Agreed {
        profile: "enforced",
        families: &["labels"],
        limits: |l| l.enforced_labels = &["app"],
        ..PLAIN
    },
    Agreed {
        profile: "no-metadata",
        families: &["metadata"],
        limits: |l| l.allow_structured_metadata = false,
        ..PLAIN
    },
    Agreed {
        profile: "old-ok",
        families: &["ts"],
        limits: |l| l.reject_old_samples = false,
        ..PLAIN
    },
    Agreed {
        profile: "increment-dup",
        families: &["same"],
        limits: |l| l.increment_duplicate_timestamp = true,
        ..PLAIN
    },
    Agreed { profile: "big", families: &["size"], ..PLAIN },
    Agreed {
        profile: "recv-size",
        families: &["size", "http"],
        limits: |l| (l.max_recv_msg_size, l.max_decompressed_size) = (100_000, 200_000),
        ..PLAIN
    },
    Agreed {
        profile: "rate",
        families: &["rate"],
        limits: |l| {
            l.auth_enabled = true;
            l.ingestion_rate = Some(Rate { bytes_per_second: 10_485, burst_bytes: 20_971 });
        },
        ..PLAIN
    },
    Agreed {
        profile: "stream-rate",
        families: &["stream"],
        limits: |l| {
            l.auth_enabled = true;
            l.per_stream_rate = Some(TEN_KB);
        },
        ..PLAIN
    },
    Agreed {
        profile: "stream-rate-noshard",
        families: &["stream"],
        limits: |l| {
            (l.auth_enabled, l.shard_streams_enabled) = (true, false);
            l.per_stream_rate = Some(TEN_KB);
        },
        ..PLAIN
    },
    Agreed {
        profile: "max-streams",
        families: &["streams"],
        limits: |l| (l.auth_enabled, l.max_global_streams_per_user) = (true, 5),
        ..PLAIN
    },
    Agreed {
        profile: "auth",
        families: &["auth", "http"],
        except: &["auth-no-header-otlp"],
        limits: |l| l.auth_enabled = true,
        ..PLAIN
    },
    Agreed {
        profile: "block",
        families: &["block"],
        except: &["block-otlp"],
        limits: |l| l.block_ingestion = Some(Block { until: "2099-01-01T00:00:00Z", status: 260 }),
        ..PLAIN
    },
    Agreed {
        profile: "block-429",
        families: &["block"],
        limits: |l| l.block_ingestion = Some(Block { until: "2099-01-01T00:00:00Z", status: 429 }),
        ..PLAIN
    },
    Agreed {
        profile: "block-200",
        families: &["block"],
        limits: |l| l.block_ingestion = Some(Block { until: "2099-01-01T00:00:00Z", status: 200 }),
        ..PLAIN
    },
    Agreed {
        profile: "inflight",
        families: &["inflight"],
        limits: |l| l.max_inflight_bytes = Some(1000),
        ..PLAIN
    },
    Agreed {
        profile: "not-joined",
        families: &["ingester", "ready"],
        except: &["ingester-not-joined-otlp"],
        prepare: |double| {
            double.set_mode(Answer::error(500, "empty ring"));
            double.set_ready(503, "Ingester not ready: this instance owns no tokens");
        },
        ..PLAIN
    },
    Agreed {
        profile: "ingester-slow",
        families: &["ingester"],
        except: &["ingester-timeout-otlp"],
        prepare: |double| {
            let body = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
            double.set_mode(Answer::error(500, body));
        },
        ..PLAIN
    },
];

const TEN_KB: Rate = Rate { bytes_per_second: 10 << 10, burst_bytes: 20 << 10 };

/// Names of the cases of an entry that can be replayed.
fn cases(agreed: &Agreed, contract: &str) -> Vec<String> {
    let mut out = Vec::new();
    for line in contract.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case a line");
        let name = case["case"].as_str().expect("a case has a name");
        let family = name.split('-').next().unwrap_or("");
        if case["profile"] == agreed.profile
            && case["replay"] != false
            && agreed.families.contains(&family)
            && !agreed.except.contains(&name)
        {
            out.push(name.to_owned());
        }
    }
    for family in agreed.families {
        let prefix = format!("{family}-");
        assert!(out.iter().any(|c| c.starts_with(&prefix)), "no case of the family {family}");
    }
    out
}

/// Replays cases against a double with the limits of their profile; Err: what disagreed.
fn replay(agreed: &Agreed, contract: &str) -> Result<usize, String> {
    let mut limits = Limits::loki();
    (agreed.limits)(&mut limits);
    let double = LokiDouble::start_with(limits);
    (agreed.prepare)(&double);
    let cases = cases(agreed, contract);
    let mut command = Command::new("python3");
    command.arg(format!("{HERE}/replay.py")).args(["--url", &double.url()]);
    command.args(["--profile", agreed.profile]);
    command.args(cases.iter().flat_map(|case| ["--case", case]));
    let output = command.output().unwrap_or_else(|error| {
        panic!("python3 replays the recorded contract and could not be started: {error}")
    });
    let (out, err) = (&output.stdout, &output.stderr);
    let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].concat();
    // The count guards against cases that the script leaves out.
    let n = cases.len();
    if output.status.success() && text.contains(&format!("{n} cases run, {n} agree, 0 differ")) {
        return Ok(n);
    }
    Err(format!("profile {} ({}):\n{text}", agreed.profile, output.status))
}

/// How many profiles are replayed at once. Most of the time is pauses that cases ask for; more
/// would starve those that push against a rate.
const REPLAYS_AT_ONCE: usize = 4;

#[test]
fn loki_double_agrees_with_the_recorded_contract() {
    let contract = &std::fs::read_to_string(format!("{HERE}/contract.jsonl")).expect("contract");
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || AGREED.get(next.fetch_add(1, Relaxed));
        std::iter::from_fn(take).map(|agreed| replay(agreed, contract)).collect()
    };
    let results: Vec<Vec<Result<usize, String>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..REPLAYS_AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().expect("a replay panicked")).collect()
    });
    let (agreed, failed): (Vec<_>, Vec<_>) = results.into_iter().flatten().partition(Result::is_ok);
    let agreed: usize = agreed.into_iter().flatten().sum();
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{agreed} cases agree, others not\n{}", failed.join("\n"));
    println!("{agreed} cases agree");
}
