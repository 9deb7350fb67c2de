//! Transfers between host and device, counted for [`DeviceProfile`](crate::DeviceProfile).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use burn::tensor::{Device, Element, Int, Tensor, TensorData, TensorReadError};

static READS: AtomicU64 = AtomicU64::new(0);
static BYTES_READ: AtomicU64 = AtomicU64::new(0);
static UPLOADS: AtomicU64 = AtomicU64::new(0);
static BYTES_UPLOADED: AtomicU64 = AtomicU64::new(0);
static BYTES_MOVED: AtomicU64 = AtomicU64::new(0);

/// Transfers of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transfers {
    pub reads: u64,
    pub bytes_read: u64,
    pub uploads: u64,
    pub bytes_uploaded: u64,
    /// Between devices.
    pub bytes_moved: u64,
}

impl Transfers {
    /// Those since the start of the process.
    pub fn so_far() -> Self {
        Self {
            reads: READS.load(Relaxed),
            bytes_read: BYTES_READ.load(Relaxed),
            uploads: UPLOADS.load(Relaxed),
            bytes_uploaded: BYTES_UPLOADED.load(Relaxed),
            bytes_moved: BYTES_MOVED.load(Relaxed),
        }
    }

    /// Those since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            bytes_read: self.bytes_read - earlier.bytes_read,
            uploads: self.uploads - earlier.uploads,
            bytes_uploaded: self.bytes_uploaded - earlier.bytes_uploaded,
            bytes_moved: self.bytes_moved - earlier.bytes_moved,
        }
    }
}

/// The values of a tensor. Waits for the device to finish what was queued before.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TensorReadError> {
    let values: Vec<f32> = tensor.try_into_vec_as()?;
    READS.fetch_add(1, Relaxed);
    BYTES_READ.fetch_add(size_of_val(values.as_slice()) as u64, Relaxed);
    Ok(values)
}

/// The tensor on `device`.
pub(crate) fn moved<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    if tensor.device() != *device {
        let bytes = tensor.shape().num_elements() * tensor.dtype().size();
        BYTES_MOVED.fetch_add(bytes as u64, Relaxed);
    }
    tensor.to_device(device)
}

/// A tensor of these values in f32.
pub(crate) fn upload<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(counted(values, shape), device)
}

/// A tensor of indices.
pub(crate) fn upload_indices<const D: usize>(
    values: Vec<i64>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    Tensor::from_data(counted(values, shape), device)
}

fn counted<E: Element, const D: usize>(values: Vec<E>, shape: [usize; D]) -> TensorData {
    UPLOADS.fetch_add(1, Relaxed);
    BYTES_UPLOADED.fetch_add(size_of_val(values.as_slice()) as u64, Relaxed);
    TensorData::new(values, shape)
}

/// Numbers on the host, or on a device until they are read together with others.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there are few
pub(crate) enum Numbers {
    Read(Vec<f64>),
    Unread(Tensor<1>),
}

impl Numbers {
    pub fn none() -> Self {
        Self::Read(Vec::new())
    }

    pub fn moved_to(self, device: &Device) -> Self {
        match self {
            Self::Unread(tensor) => Self::Unread(moved(tensor, device)),
            read => read,
        }
    }
}

/// Reads all in one transfer. Those on a device are on one device.
pub(crate) fn read_all(all: Vec<Numbers>) -> Result<Vec<Vec<f64>>, TensorReadError> {
    let unread = all.iter().filter_map(|numbers| match numbers {
        Numbers::Unread(tensor) => Some(tensor.clone()),
        Numbers::Read(_) => None,
    });
    let unread: Vec<_> = unread.collect();
    let values = if unread.is_empty() {
        Vec::new()
    } else {
        read(Tensor::cat(unread, 0))?
    };
    let mut values = values.into_iter().map(f64::from);
    let numbers = all.into_iter().map(|numbers| match numbers {
        Numbers::Read(numbers) => numbers,
        Numbers::Unread(tensor) => values.by_ref().take(tensor.dims()[0]).collect(),
    });
    Ok(numbers.collect())
}
