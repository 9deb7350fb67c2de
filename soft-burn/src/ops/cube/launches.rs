//! Kernel launches, observed in CubeCL's runtime.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cubecl::config::{TypeNameFormatLevel, type_name_format};
use cubecl::launched::LaunchedKernels;
use cubecl::logging::{LaunchObservation, LaunchObserver};

/// Observes all launches of the process until it is dropped.
#[derive(Debug)]
pub(crate) struct Launches {
    by_name: Arc<ByName>,
    _observation: LaunchObservation,
    collection: LaunchedKernels,
    /// Hashes of the kernels launched in earlier laps.
    seen: HashSet<u128>,
}

/// What was launched in a lap.
#[derive(Debug, Default)]
pub(crate) struct Launched {
    pub by_name: BTreeMap<String, u64>,
    pub kernels: usize,
    pub new_kernels: usize,
}

#[derive(Debug, Default)]
struct ByName(Mutex<BTreeMap<&'static str, u64>>);

impl LaunchObserver for ByName {
    fn launched(&self, kernel: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kernel).or_default() += 1;
    }
}

impl Launches {
    pub fn observe() -> Self {
        let by_name = Arc::new(ByName::default());
        Self {
            _observation: LaunchObservation::new(by_name.clone()),
            by_name,
            collection: LaunchedKernels::new(),
            seen: HashSet::new(),
        }
    }

    /// What was launched since the start or the last call.
    pub fn lap(&mut self) -> Launched {
        let collection = std::mem::replace(&mut self.collection, LaunchedKernels::new());
        let hashes = collection.finish();
        let new = hashes.iter().filter(|hash| !self.seen.contains(hash));
        let new_kernels = new.count();
        let kernels = hashes.len();
        self.seen.extend(hashes);
        let counts = std::mem::take(
            &mut *self
                .by_name
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut by_name = BTreeMap::new();
        for (name, count) in counts {
            let name = type_name_format(name, TypeNameFormatLevel::Short);
            *by_name.entry(name).or_default() += count;
        }
        Launched {
            by_name,
            kernels,
            new_kernels,
        }
    }
}
