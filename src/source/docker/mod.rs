//! Docker containers: engine, discovery, streams.
