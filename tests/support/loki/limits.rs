//! The server's settings that change what a push gets, with the defaults of a real Loki.
//!
//! Names follow Loki's configuration reference. The values are those of the recorded contract
//! (Loki main of August 2026), which is tests/loki/contract.jsonl.

use std::time::Duration;

/// A token bucket: bytes a second, and the most that one request may take at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub bytes_per_second: u64,
    pub burst_bytes: u64,
}

/// `block_ingestion_until` and `block_ingestion_status_code`.
#[derive(Clone, Debug)]
pub struct Block {
    pub until: &'static str,
    pub status: u16,
}

#[derive(Clone, Debug)]
pub struct Limits {
    /// Off: every request belongs to the tenant `fake`, whatever it says.
    pub auth_enabled: bool,
    pub reject_old_samples: bool,
    pub reject_old_samples_max_age: Duration,
    pub creation_grace_period: Duration,
    pub max_line_size: usize,
    pub max_line_size_truncate: bool,
    pub max_line_size_truncate_identifier: &'static str,
    pub max_label_names_per_series: usize,
    pub max_label_name_length: usize,
    pub max_label_value_length: usize,
    pub enforced_labels: &'static [&'static str],
    pub allow_structured_metadata: bool,
    pub max_structured_metadata_size: usize,
    pub max_structured_metadata_entries_count: usize,
    pub increment_duplicate_timestamp: bool,
    /// Adds the label `service_name`.
    pub discover_service_name: bool,
    /// Adds the metadata `detected_level`, to answers of queries only.
    pub discover_log_levels: bool,
    /// Half of `max_chunk_age`: how far behind the newest entry of its stream an entry may be.
    pub order_window: Duration,
    pub max_returned_stream_errors: usize,
    /// Per tenant. None: not limited.
    pub ingestion_rate: Option<Rate>,
    /// Per stream. None: not limited.
    pub per_stream_rate: Option<Rate>,
    /// With sharding on, a stream over its rate is refused whole instead of entry by entry. The
    /// splitting itself is not imitated.
    pub shard_streams_enabled: bool,
    pub max_global_streams_per_user: usize,
    pub max_recv_msg_size: usize,
    pub max_decompressed_size: usize,
    pub grpc_max_recv_msg_size: usize,
    pub max_inflight_bytes: Option<usize>,
    pub block_ingestion: Option<Block>,
}

impl Default for Limits {
    /// Loki's defaults without its rate limits, which depend on the wall clock: a test that is not
    /// about rates may push as fast as it can.
    fn default() -> Limits {
        Limits { ingestion_rate: None, per_stream_rate: None, ..Limits::loki() }
    }
}

impl Limits {
    /// Loki's defaults, rate limits included.
    pub fn loki() -> Limits {
        let mib = 1 << 20;
        Limits {
            auth_enabled: false,
            reject_old_samples: true,
            reject_old_samples_max_age: Duration::from_secs(7 * 86_400),
            creation_grace_period: Duration::from_secs(600),
            max_line_size: 256 << 10,
            max_line_size_truncate: false,
            max_line_size_truncate_identifier: "",
            max_label_names_per_series: 15,
            max_label_name_length: 1024,
            max_label_value_length: 2048,
            enforced_labels: &[],
            allow_structured_metadata: true,
            max_structured_metadata_size: 64 << 10,
            max_structured_metadata_entries_count: 128,
            increment_duplicate_timestamp: false,
            discover_service_name: true,
            discover_log_levels: true,
            order_window: Duration::from_secs(3600),
            max_returned_stream_errors: 10,
            ingestion_rate: Some(Rate { bytes_per_second: 4 * mib, burst_bytes: 6 * mib }),
            per_stream_rate: Some(Rate { bytes_per_second: 3 * mib, burst_bytes: 15 * mib }),
            shard_streams_enabled: true,
            max_global_streams_per_user: 5000,
            max_recv_msg_size: 100 << 20,
            max_decompressed_size: 5000 << 20,
            grpc_max_recv_msg_size: 4 << 20,
            max_inflight_bytes: None,
            block_ingestion: None,
        }
    }
}
