//! Device errors that backends report by a panic: out of memory and lost devices.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::Device;

use crate::error::Error;

/// The message of a panic caused by lack of memory, on one line; `None` for any other panic.
///
/// [`Run`](crate::Run) and [`Trainer`](crate::Trainer) use it to return
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory). Programs that decode can call it themselves.
pub fn out_of_memory(panic: &(dyn Any + Send)) -> Option<String> {
    ran_out(message(panic))
}

fn ran_out(said: &str) -> Option<String> {
    let lower = said.to_lowercase();
    let is_lack = SIGNS.iter().any(|sign| lower.contains(sign));
    // LibTorch appends a C++ stack trace.
    let said = said.split("Exception raised from").next()?;
    let said = said.rsplit("Torch(\"").next()?;
    let line = said.replace("\\n", " ").replace('\n', " ");
    is_lack.then(|| line.trim().to_owned())
}

/// Parts of the messages of LibTorch on CUDA and on the CPU, of CubeCL and of drivers.
const SIGNS: [&str; 5] = [
    "out of memory",
    "out of device memory",
    "can't allocate memory",
    "can't allocate buffer",
    "outofmemory",
];

fn message(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    said.unwrap_or("no reason given")
}

/// Whether the device is on another machine, which may disconnect.
fn is_remote(device: &Device) -> bool {
    #[cfg(feature = "remote")]
    if let burn::backend::DispatchDevice::Remote(_) = device.clone().inner().as_dispatch() {
        return true;
    }
    let _ = device;
    false
}

/// Runs `work` and converts panics due to lack of memory or a lost remote device into errors.
///
/// Any other panic on a local device is a bug and is propagated.
pub(crate) fn guarded<T>(
    device: &Device,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = message(panic.as_ref());
        if ran_out(said).is_some() || is_remote(device) {
            return Err(failed(device, said));
        }
        resume_unwind(panic)
    })
}

/// The error of a device that failed with `reason`: lack of memory, or the device itself.
pub(crate) fn failed(device: &Device, reason: &str) -> Error {
    match ran_out(reason) {
        Some(reason) => Error::OutOfMemory {
            device: format!("{device:?}"),
            reason,
            checkpoint: None,
        },
        None => lost(device, reason),
    }
}

/// A first result takes a kernel, which compiles in less than a second.
#[cfg(feature = "cuda")]
const FIRST_ANSWER: std::time::Duration = std::time::Duration::from_secs(60);

/// One small operation on a device. CUDA's kernels are compiled with libraries and headers of the
/// machine; where those are missing, every operation fails by itself, and none says so before a
/// result is read, or at all.
#[cfg(feature = "cuda")]
pub(crate) fn try_out(name: &str, device: &Device) -> Result<(), Error> {
    use std::sync::mpsc;

    use burn::tensor::Tensor;

    let fails = |reason: String| {
        let name = name.to_owned();
        Err(Error::DeviceFails { name, reason })
    };
    // The compiler of C++ panics without its headers, in a thread that others then wait for.
    if cfg!(feature = "cuda-nvrtc") && cubecl::cuda::install::cuda_path().is_none() {
        return fails("found no CUDA toolkit: set CUDA_PATH to the folder of one".to_owned());
    }
    let (done, found) = mpsc::channel();
    let on = device.clone();
    // The exponential needs CUDA's library of functions.
    let work = move || Tensor::<1>::from_floats([1.0], &on).exp().try_into_data();
    std::thread::spawn(move || done.send(catch_unwind(AssertUnwindSafe(work))));
    match found.recv_timeout(FIRST_ANSWER) {
        Ok(Ok(Ok(data))) => {
            // Otherwise the compiler panicked in the thread of the device: nothing was written.
            let e = data.iter::<f32>().next().unwrap_or(f32::NAN);
            if (e - std::f32::consts::E).abs() < 1e-4 {
                return Ok(());
            }
            fails(format!("exp(1) is {e} on it; is CUDA complete?"))
        }
        Ok(Ok(Err(refused))) => fails(cause(&refused.to_string())),
        Ok(Err(panic)) => fails(cause(message(panic.as_ref()))),
        Err(_) => fails(format!("no result within {} s", FIRST_ANSWER.as_secs())),
    }
}

/// The last cause in an error of CubeCL, without traces and sources, on one line.
#[cfg(feature = "cuda")]
fn cause(said: &str) -> String {
    let last = said.rsplit("Caused by:").next().unwrap_or(said);
    let end = ["Backtrace", "[Source]", "Asked at:"].into_iter();
    let end = end.filter_map(|mark| last.find(mark)).min();
    let line = last[..end.unwrap_or(last.len())].split_whitespace();
    line.collect::<Vec<_>>().join(" ")
}

pub(crate) fn lost(device: &Device, reason: &str) -> Error {
    Error::DeviceLost {
        device: format!("{device:?}"),
        reason: reason.to_owned(),
        checkpoint: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // tests fail by panicking

    use super::*;

    #[test]
    fn what_libtorch_says_becomes_a_line_with_its_sizes() {
        let on_cuda = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total \
            capacity of 79.11 GiB.\\nException raised from malloc at ../c10/cuda/CUDACachingAllocator.cpp:1\\nframe #0\")";
        let line = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB.";
        assert_eq!(out_of_memory(&on_cuda.to_owned()).as_deref(), Some(line));
        let on_cpu = "Torch(\"[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\")";
        assert!(out_of_memory(&on_cpu).is_some_and(|line| line.contains("8 bytes")));
        assert_eq!(out_of_memory(&"index out of bounds"), None);
        assert_eq!(out_of_memory(&3), None);
    }

    #[cfg(feature = "tch")]
    #[test]
    fn memory_that_libtorch_cannot_get_is_an_error_with_sizes() {
        use burn::tensor::Tensor;

        let device = crate::device::device("torch-cpu").unwrap();
        let asked = guarded(&device, || {
            Ok(Tensor::<1>::zeros([1_usize << 50], &device).dims())
        });
        let error = asked.unwrap_err();
        assert!(
            matches!(error, crate::error::Error::OutOfMemory { .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("4503599627370496 bytes"),
            "{error}"
        );
    }
}
