//! Shared test helpers.

#![allow(clippy::unwrap_used)] // tests fail by panicking

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
mod expected;
mod golden;
pub(crate) mod laws;

use std::path::PathBuf;

use burn::tensor::Device;

use crate::device::device;

/// The device of tests that hold on every device: `cpu`, or the one named by `SOFT_TEST_DEVICE`.
pub(crate) fn test_device() -> Device {
    let name = std::env::var("SOFT_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    device(&name).unwrap()
}

/// A folder of `tests/fixtures` where cargo runs the test, which may not be where it was built.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let built = env!("CARGO_MANIFEST_DIR").into();
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(built);
    PathBuf::from(package).join("tests/fixtures").join(name)
}
