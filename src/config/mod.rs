//! Configuration: from a YAML file to types that cannot hold a bad value.

pub mod checked;
pub mod secret;

pub use checked::Config;
