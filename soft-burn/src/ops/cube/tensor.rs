//! Tensors of CubeCL's backends as buffers of kernels.

use std::any::{Any, TypeId};
use std::fmt::Debug;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, GradientCheckpointingStrategy};
use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, CubeBackend};
use cubecl::prelude::*;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::launch_ref;
use cubek::matmul::multi_level;
use cubek::std::InputBinding;

use crate::ops::autograd::{self, Saved};

pub(super) type Input = autograd::Input<Cube>;

/// What a kernel keeps for its backward pass.
pub(super) trait Kept<const N: usize>: Clone + Debug + Send + 'static {
    /// See [`Saved::gradients`].
    fn gradients(self, gradient: CubeTensor, wanted: [bool; N]) -> [Option<CubeTensor>; N];
}

/// An input of [`apply`]; `None` on other backends, and where Burn fuses operations, since tensors
/// are not in memory there.
pub(super) fn input<const D: usize>(tensor: &Tensor<D>) -> Option<Input> {
    in_memory().then(|| Input::new(tensor))?
}

/// Whether kernels of this module run on the device.
pub(crate) fn runs_on(device: &Device) -> bool {
    let recomputes = device.gradient_checkpointing_strategy();
    in_memory()
        && recomputes.is_none_or(|it| it == GradientCheckpointingStrategy::Disabled)
        && matches!(
            device.clone().inner().as_dispatch(),
            DispatchDevice::Cube(_)
        )
}

pub(super) fn in_memory() -> bool {
    TypeId::of::<FloatTensor<Cube>>() == TypeId::of::<CubeTensor>()
}

/// See [`autograd::apply`]; inputs are contiguous.
pub(super) fn apply<K: Kept<N>, const N: usize, const D: usize>(
    inputs: [Input; N],
    run: impl FnOnce([CubeTensor; N], [bool; N]) -> (CubeTensor, K),
) -> Option<Tensor<D>> {
    autograd::apply(inputs, |inputs: [FloatTensor<Cube>; N], learns| {
        let (out, kept) = run(inputs.map(|input| contiguous(downcast(input))), learns);
        (downcast(out), Node(kept))
    })
}

#[derive(Clone, Debug)]
struct Node<K>(K);

impl<K: Kept<N>, const N: usize> Saved<Cube, N> for Node<K> {
    fn gradients(
        self,
        gradient: FloatTensor<Cube>,
        wanted: [bool; N],
    ) -> [Option<FloatTensor<Cube>>; N] {
        let found = self.0.gradients(contiguous(downcast(gradient)), wanted);
        found.map(|gradient| gradient.map(downcast))
    }
}

/// The value itself. `Cube`'s tensors are `CubeTensor`s unless Burn fuses operations, which
/// [`input`] has excluded and the compiler cannot know.
pub(super) fn downcast<A: 'static, B: 'static>(value: A) -> B {
    let value: Box<dyn Any> = Box::new(value);
    match value.downcast() {
        Ok(value) => *value,
        Err(_) => unreachable!("`input` admits tensors in memory only"),
    }
}

/// The memory of a tensor without autodiff on a device where [`runs_on`] holds.
pub(super) fn buffer<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    match tensor.try_into_primitive::<Cube>() {
        Ok(tensor) => contiguous(downcast(tensor)),
        Err(_) => unreachable!("`runs_on` holds for the device"),
    }
}

/// The memory of a tensor with or without autodiff; `None` on other backends.
pub(super) fn memory<const D: usize>(tensor: &Tensor<D>) -> Option<CubeTensor> {
    let memory = match input(tensor)? {
        Input::Plain(tensor) => tensor,
        Input::Tracked(tensor) => tensor.primitive().clone(),
    };
    Some(contiguous(downcast(memory)))
}

/// [`buffer`] of indices.
pub(super) fn index_buffer<const D: usize>(tensor: Tensor<D, Int>) -> CubeTensor {
    match tensor.try_into_primitive::<Cube>() {
        Ok(tensor) => contiguous(downcast(tensor)),
        Err(_) => unreachable!("`runs_on` holds for the device"),
    }
}

/// The memory of a tensor, to be overwritten: a copy where it is shared.
pub(super) fn own<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    let memory = buffer(tensor);
    if memory.can_mut() {
        return memory;
    }
    let (client, device) = (memory.client.clone(), memory.device.clone());
    let (shape, dtype) = (memory.meta.shape().clone(), memory.dtype);
    let with_shape = |shape, handle| {
        CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, dtype)
    };
    // As an array: on CUDA the rows of a copied matrix would be padded.
    let flat = with_shape(Shape::new([shape.num_elements()]), memory.handle);
    contiguous(with_shape(shape, flat.copy().handle))
}

/// The tensor of this memory.
pub(super) fn tensor<const D: usize>(memory: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(downcast(memory))
}

/// The tensor in row-major order without gaps, and a buffer that ends with it: on CUDA, Burn pads
/// the rows of what it allocates, arrays of one dimension too, and kernels ask a buffer's length.
pub(super) fn contiguous(tensor: CubeTensor) -> CubeTensor {
    let mut tensor = into_contiguous(tensor);
    let bytes = (tensor.meta.num_elements() * tensor.dtype.size()) as u64;
    let padding = tensor.handle.size_in_used().saturating_sub(bytes);
    if padding > 0 {
        tensor.handle = tensor.handle.offset_end(padding);
    }
    tensor
}

/// A contiguous tensor with values to be written.
pub(super) fn empty<const D: usize>(
    shape: [usize; D],
    dtype: DType,
    on: &CubeTensor,
) -> CubeTensor {
    let (client, device) = (on.client.clone(), on.device.clone());
    empty_device_contiguous_dtype(client, device, Shape::new(shape), dtype)
}

/// The same for values like those of `tensor`.
pub(super) fn empty_like(tensor: &CubeTensor) -> CubeTensor {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    let shape = tensor.meta.shape().clone();
    empty_device_contiguous_dtype(client, device, shape, tensor.dtype)
}

/// Units of a cube; a power of two.
pub(super) const UNITS: usize = 128;

/// So many cubes or a few more; WebGPU limits their number along one axis.
pub(super) fn cubes(count: usize) -> CubeCount {
    let across = count.clamp(1, 1 << 15);
    CubeCount::Static(across as u32, count.div_ceil(across) as u32, 1)
}

/// So many units or a few more.
pub(super) fn units(count: usize) -> (CubeCount, CubeDim) {
    (cubes(count.div_ceil(UNITS)), CubeDim::new_1d(UNITS as u32))
}

/// The matrix product of `[m, k]` and `[k, n]`. In f32 factors are not rounded to TF32, as Burn's
/// choice of a kernel does on NVIDIA GPUs.
pub(super) fn product(lhs: CubeTensor, rhs: CubeTensor) -> CubeTensor {
    let ([m, _], [_, n]) = (lhs.meta.shape().dims(), rhs.meta.shape().dims());
    // Not padded, as Burn's outputs are on CUDA.
    let out = empty([m, n], lhs.dtype, &lhs);
    if lhs.dtype != DType::F32 {
        let (into, dtype) = (Some(out), lhs.dtype);
        return matmul(lhs, rhs, into, MatmulStrategy::default(), dtype)
            .unwrap_or_else(|refused| unreachable!("a product of matrices: {refused:?}"));
    }
    let f32 = storage(&lhs);
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: f32,
        rhs: f32,
        out: f32,
    });
    let mut launch = |strategy: multi_level::Strategy| {
        launch_ref(
            &strategy.into(),
            &out.client,
            InputBinding::new(lhs.clone().binding(), f32),
            InputBinding::new(rhs.clone().binding(), f32),
            out.clone().binding(),
            &mut types,
        )
    };
    // The second takes any shape.
    launch(multi_level::Strategy::SimpleUnit(Default::default()))
        .or_else(|_| launch(multi_level::Strategy::Naive))
        .unwrap_or_else(|refused| unreachable!("a product of matrices: {refused:?}"));
    out
}

/// The transpose of a matrix, without moving it.
pub(super) fn transposed(matrix: CubeTensor) -> CubeTensor {
    <CubeBackend as FloatTensorOps<CubeBackend>>::float_swap_dims(matrix, 0, 1)
}

/// The highest of every unit's value, in all units of a cube of [`UNITS`].
#[cube]
pub(super) fn max_over_cube(value: f32) -> f32 {
    over_cube(value, true)
}

/// The sum of every unit's value, in all units of a cube of [`UNITS`].
#[cube]
pub(super) fn sum_over_cube(value: f32) -> f32 {
    over_cube(value, false)
}

#[cube]
fn over_cube(value: f32, #[comptime] highest: bool) -> f32 {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for halving in 1..=UNITS.ilog2() {
        let half = comptime!(UNITS >> halving);
        if unit < half {
            let other = shared[unit + half];
            if highest {
                shared[unit] = max(shared[unit], other);
            } else {
                shared[unit] += other;
            }
        }
        sync_cube();
    }
    let result = shared[0];
    // Before the next call writes.
    sync_cube();
    result
}

/// The element type, for kernels that are generic over it.
pub(super) fn storage(tensor: &CubeTensor) -> cubecl::ir::ElemType {
    burn::backend::cubecl::dtype_to_storage_type(tensor.dtype)
}

/// The sums of the columns of a matrix in f32.
pub(super) fn sum_rows(matrix: CubeTensor, dtype: DType) -> CubeTensor {
    let [rows, width] = matrix.meta.shape().dims();
    let out = empty([width], dtype, &matrix);
    let (count, dim) = units(width);
    column_sums::launch(
        &matrix.client,
        count,
        dim,
        matrix.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rows as u32,
        storage(&out),
    );
    out
}

#[cube(launch)]
fn column_sums<F: Float>(matrix: &[f32], out: &mut [F], rows: u32, #[define(F)] _f: ElemType) {
    let column = ABSOLUTE_POS;
    if column >= out.len() {
        terminate!();
    }
    let mut sum = 0.0f32;
    for row in 0..rows {
        sum += matrix[row as usize * out.len() + column];
    }
    out[column] = F::cast_from(sum);
}
