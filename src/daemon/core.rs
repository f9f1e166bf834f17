//! What nearly every thread shares: clocks, disk, figures, the stop, the registry.

use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::daemon::{Registry, Stop};
use crate::dead_letter::{self, DeadLetters};
use crate::disk::{Disk, HostDisk};
use crate::health::HealthBoard;
use crate::metrics::Metrics;

/// Cheap to clone: everything is shared.
#[derive(Clone)]
pub struct Core {
    pub config: Arc<Config>,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<HealthBoard>,
    pub dead_letters: Arc<DeadLetters>,
    pub stop: Stop,
    pub registry: Arc<Registry>,
}

impl Core {
    pub fn new(config: Config) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(HealthBoard::default());
        let settings = dead_letter::Settings {
            path: config.data_dir.join("dead-letters"),
            bytes_max: config.dead_letters.bytes.0,
            age_max: config.dead_letters.age,
        };
        let dead_letters =
            Arc::new(DeadLetters::new(settings, disk.clone(), metrics.clone(), health.clone()));
        Self {
            config: Arc::new(config),
            clock: Arc::new(SystemClock),
            disk,
            metrics,
            health,
            dead_letters,
            stop: Stop::default(),
            registry: Arc::default(),
        }
    }
}
