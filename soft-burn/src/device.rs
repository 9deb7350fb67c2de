//! Devices by name, chosen at run time among the backends compiled in.

use burn::tensor::Device;

use crate::Error;

/// The device called `name`: `cpu` (or `flex`), `cuda` or `cuda:1`, `wgpu`, `ndarray`, or the address of a compute server,
/// `ws://host:port`, each when its cargo feature is on.
///
/// # Errors
/// [`Error::Device`] with the names this build knows; [`Error::Connect`] when a server does not answer.
pub fn device(name: &str) -> Result<Device, Error> {
    #[cfg(feature = "remote")]
    if name.starts_with("ws://") {
        let host = burn::remote::RemoteHost::websocket(name);
        return Device::remote_options(&host)
            .init()
            .map_err(|reason| Error::Connect {
                address: name.to_owned(),
                reason: reason.to_string(),
            });
    }
    let unknown = || Error::Device {
        name: name.to_owned(),
        expected: device_names(),
    };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index.parse::<usize>().map_err(|_| unknown())?)),
        None => (name, None),
    };
    match (kind, index) {
        #[cfg(feature = "flex")]
        ("cpu" | "flex", None) => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        ("cuda", index) => Ok(Device::cuda(index.unwrap_or(0))),
        #[cfg(feature = "wgpu")]
        ("wgpu", None) => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // upstream prefers flex; people have ndarray
        ("ndarray", None) => Ok(Device::ndarray()),
        _ => Err(unknown()),
    }
}

/// The devices of a list, "cuda:0,cuda:1": the model lives on the first, the others compute a share of every step.
///
/// # Errors
/// As [`device`]'s.
pub fn devices(names: &str) -> Result<(Device, Vec<Device>), Error> {
    let mut names = names.split(',').map(str::trim);
    let first = device(names.next().unwrap_or_default())?;
    Ok((first, names.map(device).collect::<Result<_, _>>()?))
}

/// The names that [`device`] accepts in this build.
pub fn device_names() -> Vec<&'static str> {
    let all = [
        ("cpu", cfg!(feature = "flex")),
        ("cuda", cfg!(feature = "cuda")),
        ("cuda:N", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("ws://HOST:PORT", cfg!(feature = "remote")),
    ];
    all.into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect()
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
        for bad in ["gpu", "cpu:1", "cuda:x", ""] {
            let message = device(bad).unwrap_err().to_string();
            assert!(message.contains("cpu"), "{message}");
        }
    }
}
