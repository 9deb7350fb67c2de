//! Compiled kernels of GPU backends: where they are kept, and a line of progress while the first
//! ones are compiled, which takes minutes on some devices.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use soft_burn::{compiled_kernels, keep_kernels};

use crate::statusln;

/// Keeps kernels in `folder`, by default `soft/kernels` in the user's cache folder.
pub fn keep(folder: Option<&Path>) {
    let folder = folder.map(Path::to_owned).or_else(default_folder);
    if let Some(folder) = folder {
        keep_kernels(&folder);
    }
}

fn default_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    Some(cache.or_else(home)?.join("soft").join("kernels"))
}

/// How often progress is printed.
const EVERY: Duration = Duration::from_secs(3);

/// Prints the number of compiled kernels while it grows, until dropped.
pub struct CompilationProgress {
    /// The thread ends when this is dropped.
    _alive: Sender<()>,
}

impl CompilationProgress {
    /// Begins to watch. Without kernels to compile it prints nothing.
    pub fn start() -> Self {
        let (alive, ended) = channel::<()>();
        thread::spawn(move || {
            let began = Instant::now();
            let mut shown = compiled_kernels().unwrap_or(0);
            while let Some(compiled) = compiled_kernels() {
                if compiled > shown {
                    let seconds = began.elapsed().as_secs();
                    statusln!("compiling kernels, {compiled} so far ({seconds} s)");
                    shown = compiled;
                }
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        Self { _alive: alive }
    }
}
