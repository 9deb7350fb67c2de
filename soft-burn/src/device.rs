//! Devices by name, chosen at run time among the backends compiled in.

use burn::tensor::Device;

use crate::error::Error;

/// Local backends: name, cargo feature, and whether this build includes them.
const BACKENDS: [(&str, &str, bool); 8] = [
    ("cpu", "flex", cfg!(feature = "flex")),
    ("ndarray", "ndarray", cfg!(feature = "ndarray")),
    ("wgpu", "wgpu", cfg!(feature = "wgpu")),
    ("vulkan", "vulkan", cfg!(feature = "vulkan")),
    ("metal", "metal", cfg!(feature = "metal")),
    ("cuda", "cuda", cfg!(feature = "cuda")),
    ("torch-cpu", "tch", cfg!(feature = "tch")),
    ("torch-cuda", "tch", cfg!(feature = "tch")),
];

/// Backends with a single device.
const SINGLE: [&str; 3] = ["cpu", "ndarray", "torch-cpu"];

/// The device called `name`: `cpu` (or `flex`), `ndarray`, `torch-cpu`; `wgpu`, `vulkan`, `metal`,
/// `cuda` or `torch-cuda`, optionally with an index as in [`list_devices`] (`cuda:1`); or the
/// address of a compute server, `ws://host:port`. Each requires its cargo feature.
///
/// # Errors
/// [`Error::Device`] for an unknown name; [`Error::NotCompiled`] for a backend that this build does
/// not include; [`Error::NoSuchDevice`] when the hardware is not found; [`Error::DeviceFails`] when
/// CUDA is there and cannot compile kernels; [`Error::Connect`] when a server does not answer.
pub fn device(name: &str) -> Result<Device, Error> {
    if name.starts_with("ws://") {
        return remote(name);
    }
    let unknown = || Error::Device {
        name: name.to_owned(),
        expected: device_names(),
    };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index.parse::<usize>().map_err(|_| unknown())?)),
        None => (name, None),
    };
    let kind = if kind == "flex" { "cpu" } else { kind };
    let backend = BACKENDS.iter().find(|(backend, _, _)| *backend == kind);
    let (_, feature, compiled) = backend.ok_or_else(unknown)?;
    if !compiled {
        return Err(Error::NotCompiled {
            name: name.to_owned(),
            feature,
            expected: device_names(),
        });
    }
    if index.is_some() && SINGLE.contains(&kind) {
        return Err(unknown());
    }
    let mut devices = of_backend(kind);
    let index = index.unwrap_or(0);
    if index < devices.len() {
        let device = devices.swap_remove(index);
        #[cfg(feature = "cuda")]
        if kind == "cuda" {
            crate::device_errors::try_out(name, &device)?;
        }
        return Ok(device);
    }
    Err(Error::NoSuchDevice {
        name: name.to_owned(),
        found: names_of(kind, devices.len()),
    })
}

#[cfg(feature = "remote")]
fn remote(address: &str) -> Result<Device, Error> {
    let host = burn::remote::RemoteHost::websocket(address);
    Device::remote_options(&host)
        .init()
        .map_err(|reason| Error::Connect {
            address: address.to_owned(),
            reason: reason.to_string(),
        })
}

#[cfg(not(feature = "remote"))]
fn remote(address: &str) -> Result<Device, Error> {
    Err(Error::NotCompiled {
        name: address.to_owned(),
        feature: "remote",
        expected: device_names(),
    })
}

fn of_backend(kind: &str) -> Vec<Device> {
    match kind {
        #[cfg(feature = "flex")]
        "cpu" => vec![Device::flex()],
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // deprecated in favor of flex; still in use
        "ndarray" => vec![Device::ndarray()],
        #[cfg(feature = "wgpu")]
        "wgpu" => found(burn::tensor::DeviceType::Wgpu),
        #[cfg(feature = "vulkan")]
        "vulkan" => found(burn::tensor::DeviceType::Vulkan),
        #[cfg(feature = "metal")]
        "metal" => found(burn::tensor::DeviceType::Metal),
        #[cfg(feature = "cuda")]
        "cuda" => found(burn::tensor::DeviceType::Cuda),
        #[cfg(feature = "tch")]
        #[allow(deprecated)] // deprecated in favor of CubeCL; LibTorch compiles no kernels
        "torch-cpu" => vec![Device::libtorch()],
        #[cfg(feature = "tch")]
        "torch-cuda" => found(burn::tensor::DeviceType::LibTorch),
        _ => Vec::new(),
    }
}

/// The hardware found by a backend. Burn panics without the driver, which counts as none.
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "tch"
))]
fn found(kind: burn::tensor::DeviceType) -> Vec<Device> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    // No state is shared with the closure, so none is visible after a panic. The variants of
    // feature `remote` are not `UnwindSafe`.
    let found = AssertUnwindSafe(move || Device::enumerate(kind).into_iter().collect());
    catch_unwind(found).unwrap_or_default()
}

fn names_of(kind: &str, number: usize) -> Vec<String> {
    let name = |index: usize| match index {
        0 => kind.to_owned(),
        index => format!("{kind}:{index}"),
    };
    (0..number).map(name).collect()
}

/// The names of all devices found on this machine. Queries every driver, which takes a moment.
pub fn list_devices() -> Vec<String> {
    let compiled = BACKENDS.iter().filter(|(_, _, compiled)| *compiled);
    let devices = compiled.flat_map(|(kind, _, _)| names_of(kind, of_backend(kind).len()));
    devices.collect()
}

/// The devices of a comma-separated list (`cuda:0,cuda:1`). The model is placed on the first; the
/// others compute a share of every step.
///
/// # Errors
/// The same as for [`device`].
pub fn devices(names: &str) -> Result<(Device, Vec<Device>), Error> {
    let mut names = names.split(',').map(str::trim);
    let first = device(names.next().unwrap_or_default())?;
    Ok((first, names.map(device).collect::<Result<_, _>>()?))
}

/// The names accepted by [`device`] in this build; `:N` where a backend may have several devices.
pub fn device_names() -> Vec<&'static str> {
    let all = BACKENDS.iter().filter(|(_, _, compiled)| *compiled);
    let mut names: Vec<&'static str> = all
        .map(|(kind, _, _)| match *kind {
            "wgpu" => "wgpu[:N]",
            "vulkan" => "vulkan[:N]",
            "metal" => "metal[:N]",
            "cuda" => "cuda[:N]",
            "torch-cuda" => "torch-cuda[:N]",
            kind => kind,
        })
        .collect();
    if cfg!(feature = "remote") {
        names.push("ws://HOST:PORT");
    }
    names
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn finds_the_cpu_and_refuses_the_rest_with_the_list() {
        assert!(device("cpu").is_ok());
        let (_, further) = devices("cpu, flex").unwrap();
        assert_eq!(further.len(), 1);
        assert!(devices("cpu,").is_err());
        assert!(list_devices().contains(&"cpu".to_owned()));
        #[cfg(not(feature = "cuda"))]
        {
            let message = device("cuda:1").map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("feature `cuda`"), "{message}");
        }
        for bad in ["gpu", "cpu:1", "cuda:x", ""] {
            let message = device(bad).unwrap_err().to_string();
            assert!(message.contains("cpu"), "{message}");
        }
    }
}
