//! An adapter on a model: attached, read back, merged and taken out again.

use std::collections::BTreeMap;

use burn::module::{LoraAdapter, Module, Param, Reparameterizer};
use burn::tensor::{Device, Tensor, TensorData};

use super::adapter::{Adapter, Factors};
use crate::model::Block;
use crate::parameters::named_tensors;
use crate::{Error, Llama};

/// Attaches factors to the weights they are named for; everything else is frozen.
struct Attach<'a> {
    adapter: &'a Adapter,
    device: Device,
    /// Modules not met yet.
    left: Vec<&'a String>,
    misfit: Option<Error>,
}

impl Reparameterizer for &mut Attach<'_> {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let param = param.set_require_grad(false);
        let module = path.strip_suffix(".weight").unwrap_or(path);
        let Some(factors) = self.adapter.factors.get(module) else {
            return (param, None);
        };
        self.left.retain(|name| *name != module);
        let (rank, shape) = (self.adapter.rank, param.base().shape());
        let (d_out, d_in) = (factors.b.len() / rank, factors.a.len() / rank);
        if shape.as_slice() != [d_out, d_in] {
            let found = shape.as_slice();
            let reason = format!("the weight is {found:?}, the adapter for [{d_out}, {d_in}]");
            self.misfit = Some(misfit(module, reason));
            return (param, None);
        }
        let tensor = |values: &[f32], shape: [usize; 2]| {
            Param::from_data(TensorData::new(values.to_vec(), shape), &self.device)
        };
        let adapter = LoraAdapter {
            a: tensor(&factors.b, [d_out, rank]),
            b: tensor(&factors.a, [rank, d_in]),
            scale: self.adapter.scale(),
        };
        (param, Some(adapter))
    }
}

fn misfit(module: &str, reason: String) -> Error {
    Error::AdapterMismatch {
        module: module.to_owned(),
        reason,
    }
}

/// What stands between a module's name and its factor in the path of a parameter.
pub(crate) const LORA: &str = ".weight.lora.";

impl Llama {
    /// Attaches an adapter; the model's own weights are frozen. In training only the adapter moves.
    ///
    /// # Errors
    /// When the model has one already, or the adapter is for other modules or shapes.
    pub fn with_adapter(self, adapter: &Adapter) -> Result<Self, Error> {
        if self.has_adapter() {
            let reason = "it has an adapter already: merge that one first".to_owned();
            return Err(misfit("model", reason));
        }
        let mut attach = Attach {
            adapter,
            device: self.device(),
            left: adapter.factors.keys().collect(),
            misfit: None,
        };
        let model = self.apply_reparameterization(&mut attach);
        match (attach.misfit, attach.left.first()) {
            (Some(misfit), _) => Err(misfit),
            (None, Some(module)) => Err(misfit(module, "the model has no such module".to_owned())),
            (None, None) => Ok(model),
        }
    }

    /// The factors as they are now; none without an adapter.
    ///
    /// # Errors
    /// When they cannot be read from the device.
    pub fn adapter(&self) -> Result<Option<Adapter>, Error> {
        let Some((rank, scale)) = self.adapter_shape() else {
            return Ok(None);
        };
        let mut factors = BTreeMap::<String, Factors>::new();
        for tensor in named_tensors(self)? {
            let Some((module, factor)) = tensor.name.split_once(LORA) else {
                continue;
            };
            let entry = factors.entry(module.to_owned()).or_default();
            // Burn's a is B, its b is A.
            match factor {
                "a" => entry.b = tensor.values,
                _ => entry.a = tensor.values,
            }
        }
        Ok(Some(Adapter {
            rank,
            alpha: scale * rank as f64,
            factors,
        }))
    }

    /// Whether any weight has an adapter.
    pub(crate) fn has_adapter(&self) -> bool {
        self.adapter_shape().is_some()
    }

    /// Rank and scale of the adapter.
    fn adapter_shape(&self) -> Option<(usize, f64)> {
        let projections = self.model.layers.iter().flat_map(Block::projections);
        let mut adapters = projections.filter_map(|projection| projection.weight.adapter());
        let first = adapters.next()?;
        Some((first.a.val().dims()[1], first.scale))
    }

    /// Adds the adapter to the weights, which can be trained again; without one, the model as it is.
    ///
    /// Merge before decoding: the kernels read whole weights.
    pub fn merged(self) -> Self {
        match self.has_adapter() {
            true => self.materialize().unfreeze(),
            false => self,
        }
    }

    /// Takes `adapter` out of the weights that it was merged into, and attaches it: what [`merged`](Self::merged) undoes, to rounding.
    ///
    /// # Errors
    /// As [`with_adapter`](Self::with_adapter).
    pub fn unmerged(self, adapter: &Adapter) -> Result<Self, Error> {
        let opposite = Adapter {
            alpha: -adapter.alpha,
            ..adapter.clone()
        };
        self.with_adapter(&opposite)?.merged().with_adapter(adapter)
    }
}
