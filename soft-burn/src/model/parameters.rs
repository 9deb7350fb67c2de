//! Traversal of a model's parameters by name.
//!
//! A module's path is the Hugging Face name of its tensor. Only heads and blocks of single exits
//! differ: they are numbered by position in the module and by depth on disk.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor};

use crate::dtype::{DType, float_type};
use crate::error::Error;
use crate::files::safetensors::NamedTensor;
use crate::model::exit_blocks::EXIT_BLOCKS;
use crate::model::exit_heads::EXIT_HEADS;
use crate::model::llama::Llama;

pub(crate) fn flat_gradient<const D: usize>(gradient: Tensor<D>) -> Tensor<1> {
    let length = gradient.shape().num_elements();
    gradient.reshape([length])
}

#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn name(&self) -> String {
        let name = self.0.join(".");
        let name = name.replace("exit_heads.heads.", EXIT_HEADS);
        name.replace("exit_blocks.blocks.", EXIT_BLOCKS)
    }
}

trait Visit {
    fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>);
}

/// Visits all parameters of `model` in the order of its fields, with their names in the model.
fn visit<V: Visit>(model: &Llama, visit: V) -> V {
    struct Walk<V> {
        path: Path,
        visit: V,
    }
    impl<V: Visit> ModuleVisitor for Walk<V> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.visit.parameter(self.path.name(), param.val());
        }
    }
    let mut walk = Walk {
        path: Path::default(),
        visit,
    };
    model.visit(&mut walk);
    walk.visit
}

/// All weights of `model` on the host, with their names on disk.
pub(crate) fn named_tensors(model: &Llama) -> Result<Vec<NamedTensor>, Error> {
    #[derive(Default)]
    struct Collect {
        tensors: Vec<NamedTensor>,
        failure: Option<Error>,
    }
    impl Visit for Collect {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            let shape = value.dims().to_vec();
            match host_values(value, &name) {
                Ok(values) => self.tensors.push(NamedTensor {
                    name,
                    shape,
                    values,
                }),
                Err(error) => self.failure = Some(error),
            }
        }
    }
    let Collect {
        mut tensors,
        failure,
    } = visit(model, Collect::default());
    if let Some(failure) = failure {
        return Err(failure);
    }
    for tensor in &mut tensors {
        if let Some(name) = name_on_disk(model, &tensor.name) {
            tensor.name = name;
        }
    }
    Ok(tensors)
}

/// The values of these parameters, flattened and without autodiff, by name in the model.
pub(crate) fn flat_values(model: &Llama, names: &BTreeSet<String>) -> BTreeMap<String, Tensor<1>> {
    struct Values<'a> {
        names: &'a BTreeSet<String>,
        found: BTreeMap<String, Tensor<1>>,
    }
    impl Visit for Values<'_> {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            if self.names.contains(&name) {
                self.found.insert(name, flat_gradient(value.inner()));
            }
        }
    }
    let found = BTreeMap::new();
    visit(model, Values { names, found }).found
}

/// The number of elements of every parameter that is trained, by its name in the model.
pub(crate) fn trained_lengths(model: &Llama) -> BTreeMap<String, usize> {
    struct Lengths(BTreeMap<String, usize>);
    impl Visit for Lengths {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            if value.is_require_grad() {
                self.0.insert(name, value.shape().num_elements());
            }
        }
    }
    visit(model, Lengths(BTreeMap::new())).0
}

/// The number of elements of every parameter, by its name in the model.
pub(crate) fn lengths(model: &Llama) -> BTreeMap<String, usize> {
    struct Lengths(BTreeMap<String, usize>);
    impl Visit for Lengths {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            self.0.insert(name, value.shape().num_elements());
        }
    }
    visit(model, Lengths(BTreeMap::new())).0
}

/// The name on disk of a tensor of a single exit: `exit_heads.0.weight` becomes
/// `exit_heads.12.weight` when the first head belongs to exit 12. `None` for other names.
fn name_on_disk(model: &Llama, name: &str) -> Option<String> {
    let of_exits = [
        (EXIT_HEADS, &model.exit_heads.exits),
        (EXIT_BLOCKS, &model.exit_blocks.exits),
    ];
    of_exits.into_iter().find_map(|(prefix, exits)| {
        let (index, rest) = name.strip_prefix(prefix)?.split_once('.')?;
        let exit = exits.get(index.parse::<usize>().ok()?)?;
        Some(format!("{prefix}{exit}.{rest}"))
    })
}

pub(crate) fn host_values<const D: usize>(
    tensor: Tensor<D>,
    name: &str,
) -> Result<Vec<f32>, Error> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|source| Error::Read {
            name: name.to_owned(),
            reason: source.to_string(),
        })
}

/// Removes the gradients of all trained parameters from `gradients`; flattened, by name.
pub(crate) fn named_gradients(
    model: &Llama,
    gradients: &mut Gradients,
) -> Vec<(String, Tensor<1>)> {
    struct Take<'a> {
        gradients: &'a mut Gradients,
        found: Vec<(String, Tensor<1>)>,
    }
    impl Visit for Take<'_> {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            if let Some(gradient) = value.grad_remove(self.gradients) {
                self.found.push((name, flat_gradient(gradient)));
            }
        }
    }
    let found = Vec::new();
    visit(model, Take { gradients, found }).found
}

/// Replaces every parameter by the result of `change` for its name, rank and value, flattened and
/// without autodiff. Whether a parameter is trained does not change. The value is passed by
/// ownership, so that it can be changed in place.
pub(crate) fn map_parameters(
    model: Llama,
    change: impl FnMut(&str, usize, Tensor<1>) -> Tensor<1>,
) -> Llama {
    struct Change<F> {
        path: Path,
        change: F,
    }
    impl<F: FnMut(&str, usize, Tensor<1>) -> Tensor<1>> ModuleMapper for Change<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            param.map(|value| {
                let (shape, length) = (value.shape(), value.shape().num_elements());
                let (tracked, trained) = (value.device().is_autodiff(), value.is_require_grad());
                let flat = value.inner().reshape([length]);
                let new: Tensor<D> = (self.change)(&name, D, flat).reshape(shape);
                let new = if tracked { new.autodiff() } else { new };
                new.set_require_grad(trained)
            })
        }
    }
    model.map(&mut Change {
        path: Path::default(),
        change,
    })
}

/// Name of the first parameter with a value that is not finite.
pub(crate) fn not_finite(model: &Llama) -> Option<String> {
    struct Find(Option<String>);
    impl Visit for Find {
        fn parameter<const D: usize>(&mut self, name: String, value: Tensor<D>) {
            // 0 · x is 0 for every finite x and NaN otherwise.
            let sum: f32 = value.inner().mul_scalar(0.0).sum().into_scalar();
            if sum.is_nan() && self.0.is_none() {
                self.0 = Some(name);
            }
        }
    }
    visit(model, Find(None)).0
}

impl Llama {
    /// The model with weights of this type, without autodiff.
    pub(crate) fn with_weights(self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self;
        }
        struct Cast(FloatDType);
        impl ModuleMapper for Cast {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| {
                    let shape = value.shape();
                    // Cast as an array: on CUDA the rows of a new matrix are padded.
                    value
                        .reshape([shape.num_elements()])
                        .cast(self.0)
                        .reshape(shape)
                })
            }
        }
        self.map(&mut Cast(float_type(dtype)))
    }
}
