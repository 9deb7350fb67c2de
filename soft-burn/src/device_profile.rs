//! What a step or a token costs a device: kernel launches, new kernels, transfers.

use std::collections::BTreeMap;

#[cfg(feature = "cube")]
use crate::ops::compilation::compiled_kernels;
#[cfg(feature = "cube")]
use crate::ops::cube::{Launched, Launches};
use crate::ops::transfers::Transfers;

/// Work that this process gave its devices between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceWork {
    /// Kernel launches by name of the kernel. Observed on CubeCL's backends (`wgpu`, `vulkan`,
    /// `metal`, `cuda`); empty on others.
    pub launches: BTreeMap<String, u64>,
    /// Distinct kernels among them: two of one name may differ in what they were specialized for.
    pub kernels: usize,
    /// Kernels launched for the first time since the profile began. A kernel is compiled, or read
    /// from the cache of compiled kernels, when it is first launched.
    pub new_kernels: usize,
    /// Kernels compiled, rather than read from the cache; `None` unless they are counted, see
    /// `keep_kernels`. A kernel may be counted a little after the launch that needs it.
    pub compiled: Option<u64>,
    /// Reads from a device by this library. Each waits for the device.
    pub reads: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Uploads to a device by this library, other than of weights.
    pub uploads: u64,
    /// Bytes of them.
    pub bytes_uploaded: u64,
    /// Bytes moved from one device to another, in training on several.
    pub bytes_moved: u64,
}

impl DeviceWork {
    /// The number of kernel launches.
    pub fn launch_count(&self) -> u64 {
        self.launches.values().sum()
    }
}

/// Counts the work of all devices of this process.
///
/// Counting costs little but is not free; there is one observer per process, so that a second
/// profile takes the launches of the first one as long as it lives.
#[derive(Debug)]
pub struct DeviceProfile {
    transfers: Transfers,
    #[cfg(feature = "cube")]
    launches: Launches,
    #[cfg(feature = "cube")]
    compiled: Option<u64>,
}

impl DeviceProfile {
    /// Begins to count.
    pub fn start() -> Self {
        Self {
            transfers: Transfers::so_far(),
            #[cfg(feature = "cube")]
            launches: Launches::observe(),
            #[cfg(feature = "cube")]
            compiled: compiled_kernels(),
        }
    }

    /// The work since the start or the last lap.
    pub fn lap(&mut self) -> DeviceWork {
        let so_far = Transfers::so_far();
        let transfers = so_far.since(std::mem::replace(&mut self.transfers, so_far));
        let work = DeviceWork {
            reads: transfers.reads,
            bytes_read: transfers.bytes_read,
            uploads: transfers.uploads,
            bytes_uploaded: transfers.bytes_uploaded,
            bytes_moved: transfers.bytes_moved,
            ..DeviceWork::default()
        };
        #[cfg(feature = "cube")]
        let work = {
            let Launched {
                by_name,
                kernels,
                new_kernels,
            } = self.launches.lap();
            let so_far = compiled_kernels();
            let before = std::mem::replace(&mut self.compiled, so_far);
            DeviceWork {
                compiled: so_far.map(|so_far| so_far - before.unwrap_or(0)),
                launches: by_name,
                kernels,
                new_kernels,
                ..work
            }
        };
        work
    }
}
