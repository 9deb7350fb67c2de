//! What tests share.

#![allow(clippy::unwrap_used)] // a test's way to fail

#[cfg(any(
    feature = "ndarray",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "tch"
))]
mod accelerators;
mod dtypes;
mod golden;
mod laws;

use std::path::PathBuf;

use burn::tensor::Device;

use crate::device::device;

/// Where the tests run that hold on every device: `cpu`, or the device that `SOFT_TEST_DEVICE`
/// names.
pub(crate) fn test_device() -> Device {
    let name = std::env::var("SOFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    device(&name).unwrap()
}

/// A folder of `tests/fixtures`. That of this package where cargo runs the test, which need not be
/// where it was built.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let built = env!("CARGO_MANIFEST_DIR").into();
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(built);
    PathBuf::from(package).join("tests/fixtures").join(name)
}
