//! Compilation of kernels by CubeCL: where the results are kept, and a count.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use burn::tensor::Device;

static COMPILED: AtomicU64 = AtomicU64::new(0);
static COUNTS: AtomicBool = AtomicBool::new(false);

/// Keeps compiled kernels and tuning results in `folder`, which other machines with the same GPU
/// and driver can be given and which may be deleted at any time; and counts compilations, for
/// [`compiled_kernels`].
///
/// For programs, once and before [`device`](crate::device) is called: it sets CubeCL's
/// configuration, otherwise as in the file `cubecl.toml` or by default, and the logger of the
/// process. Returns false if either was set before or no backend of this build compiles kernels.
/// CubeCL keeps those for CUDA, and for Vulkan in SPIR-V.
pub fn keep_kernels(folder: &Path) -> bool {
    let counts = set_up(folder);
    COUNTS.store(counts, Relaxed);
    counts
}

/// The kernels compiled so far, other than those read from a folder; `None` unless
/// [`keep_kernels`] was called and returned true.
pub fn compiled_kernels() -> Option<u64> {
    COUNTS.load(Relaxed).then(|| COMPILED.load(Relaxed))
}

/// Whether the kernels of a device are compiled at run time.
pub(crate) fn compiles_kernels(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return crate::ops::cube::runs_on(device);
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

#[cfg(not(feature = "cube"))]
fn set_up(_folder: &Path) -> bool {
    let _ = &COMPILED;
    false
}

#[cfg(feature = "cube")]
fn set_up(folder: &Path) -> bool {
    use cubecl::config::compilation::CompilationLogLevel;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if let CompilationLogLevel::Disabled = config.compilation.logger.level {
        config.compilation.logger.level = CompilationLogLevel::Basic;
    }
    // The level `Info`.
    config.compilation.logger.log = Some(Default::default());
    #[cfg(feature = "kernel-cache")]
    {
        config.compilation.cache = true;
        config.environment.path = cubecl::config::cache::CacheConfig::Directory(folder.to_owned());
    }
    #[cfg(not(feature = "kernel-cache"))]
    let _ = folder;
    let set = CubeClRuntimeConfig::try_set(config) && log::set_logger(&Counter).is_ok();
    if set {
        log::set_max_level(log::LevelFilter::Info);
    }
    set
}

/// Counts what CubeCL logs when it compiles a kernel.
#[cfg(feature = "cube")]
struct Counter;

#[cfg(feature = "cube")]
impl log::Log for Counter {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target() == "cubecl::compilation"
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            COMPILED.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {}
}
