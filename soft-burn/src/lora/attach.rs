//! Attaches an adapter to a model, reads it back, merges it and removes it.

use std::collections::BTreeMap;

use burn::module::{LoraAdapter, Module, Param, Reparameterizer};
use burn::tensor::{Device, Tensor, TensorData};

use super::adapter::Adapter;
use super::factors::Factors;
use super::peft::{EMBEDDING, HEAD};
use crate::error::Error;
use crate::model::block::{Block, ProjectionSpec};
use crate::model::layers::Projection;
use crate::model::llama::Llama;
use crate::model::parameters::{map_parameters, named_tensors};
use crate::ops::linear::matmul;

/// Attaches factors to the weights they are named after and freezes all weights.
struct Attach<'a> {
    factors: BTreeMap<&'a String, &'a Factors>,
    device: Device,
    /// Modules not visited yet.
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
        let Some(factors) = self.factors.get(&module.to_owned()) else {
            return (param, None);
        };
        self.left.retain(|name| *name != module);
        let (rank, shape) = (factors.rank, param.base().shape());
        let [d_out, d_in] = factors.shape();
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
            scale: factors.scale,
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

/// Separates the module's name from the factor in the path of a parameter.
pub(crate) const LORA: &str = ".weight.lora.";

/// The alpha of which `scale` is the quotient by `rank`: of two numbers with the same quotient, the
/// one with fewer digits, as it was given.
fn alpha_of(scale: f64, rank: usize) -> f64 {
    let rank = rank as f64;
    let product = scale * rank;
    let short = format!("{product:.12e}").parse().unwrap_or(product);
    if short / rank == scale {
        short
    } else {
        product
    }
}

impl Llama {
    /// Attaches an adapter to the blocks and freezes the model's own weights, so that only the
    /// adapter is trained. An adapter without factors in the blocks freezes nothing.
    ///
    /// Full weights replace the model's; factors of embedding and head are merged at once.
    ///
    /// # Errors
    /// When the model already has an adapter, or the adapter has other modules or shapes.
    pub fn with_adapter(self, adapter: &Adapter) -> Result<Self, Error> {
        if self.has_adapter() {
            let reason = "it has an adapter already: merge that one first".to_owned();
            return Err(misfit("model", reason));
        }
        let mut model = self.with_whole_weights(adapter)?;
        let (outside, in_blocks): (BTreeMap<_, _>, BTreeMap<_, _>) = adapter
            .factors
            .iter()
            .partition(|(module, _)| [EMBEDDING, HEAD].contains(&module.as_str()));
        for (module, factors) in outside {
            model = model.with_product(module, factors)?;
        }
        if in_blocks.is_empty() {
            return Ok(model);
        }
        let mut attach = Attach {
            left: in_blocks.keys().copied().collect(),
            factors: in_blocks,
            device: model.device(),
            misfit: None,
        };
        let model = model.apply_reparameterization(&mut attach);
        match (attach.misfit, attach.left.first()) {
            (Some(misfit), _) => Err(misfit),
            (None, Some(module)) => Err(misfit(module, "the model has no such module".to_owned())),
            (None, None) => Ok(model),
        }
    }

    /// Replaces weights by those that the adapter holds in full.
    fn with_whole_weights(self, adapter: &Adapter) -> Result<Self, Error> {
        if adapter.whole.is_empty() {
            return Ok(self);
        }
        // PEFT also leaves a tied head unchanged when the embedding is replaced.
        let of_both = ["lm_head.weight", "model.embed_tokens.weight"];
        let model = if of_both.iter().any(|name| adapter.whole.contains_key(*name)) {
            self.untied()
        } else {
            self
        };
        let device = model.device();
        let mut left: BTreeMap<&str, _> = adapter
            .whole
            .iter()
            .map(|(name, it)| (name.as_str(), it))
            .collect();
        let mut wrong = None;
        let model = map_parameters(model, |name, rank, value| {
            let Some(whole) = left.remove(name) else {
                return value;
            };
            if whole.shape.len() != rank || whole.values.len() != value.shape().num_elements() {
                let reason = format!("the adapter's weight is {:?}", whole.shape);
                wrong = Some(misfit(name, reason));
                return value;
            }
            let dtype = value.dtype();
            Tensor::<1>::from_data(whole.values.as_slice(), &device).cast(dtype)
        });
        match (wrong, left.into_keys().next()) {
            (Some(wrong), _) => Err(wrong),
            (None, Some(name)) => Err(misfit(name, "the model has no such weight".to_owned())),
            (None, None) => Ok(model),
        }
    }

    /// Adds scale · B·A to the weight of a module outside the blocks.
    fn with_product(self, module: &str, factors: &Factors) -> Result<Self, Error> {
        let mut model = self.untied();
        let device = model.device();
        let weight = match (module, &mut model.lm_head) {
            (HEAD, Some(head)) => &mut head.weight,
            _ => &mut model.model.embed_tokens.weight,
        };
        let ([d_out, d_in], rank) = (factors.shape(), factors.rank);
        let found = weight.val().dims();
        if found != [d_out, d_in] {
            let reason = format!("the weight is {found:?}, the adapter for [{d_out}, {d_in}]");
            return Err(misfit(module, reason));
        }
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let (b, a) = (
            matrix(&factors.b, [d_out, rank]),
            matrix(&factors.a, [rank, d_in]),
        );
        let product = matmul(b, a);
        let changed = weight.val() + product.mul_scalar(factors.scale).cast(weight.val().dtype());
        *weight = Param::from_tensor(changed);
        Ok(model)
    }

    /// Gives a tied model its own head, a copy of the embedding.
    fn untied(mut self) -> Self {
        if self.lm_head.is_none() {
            let weight = Param::from_tensor(self.model.embed_tokens.weight.val());
            self.lm_head = Some(Projection::without_bias(weight));
            self.config.tied = false;
        }
        self
    }

    /// The current factors; `None` without an adapter.
    ///
    /// # Errors
    /// When they cannot be read from the device.
    pub fn adapter(&self) -> Result<Option<Adapter>, Error> {
        let mut factors = BTreeMap::<String, Factors>::new();
        for (layer, block) in self.model.layers.iter().enumerate() {
            for (ProjectionSpec { path, .. }, projection) in block.projections() {
                if let Some(adapter) = projection.weight.adapter() {
                    let own = Factors {
                        rank: adapter.a.val().dims()[1],
                        scale: adapter.scale,
                        ..Factors::default()
                    };
                    factors.insert(format!("model.layers.{layer}.{path}"), own);
                }
            }
        }
        let Some(first) = factors.values().next() else {
            return Ok(None);
        };
        let (rank, alpha) = (first.rank, alpha_of(first.scale, first.rank));
        for tensor in named_tensors(self)? {
            let Some((module, factor)) = tensor.name.split_once(LORA) else {
                continue;
            };
            let entry = factors.entry(module.to_owned()).or_default();
            // Burn's `a` is B, its `b` is A.
            match factor {
                "a" => entry.b = tensor.values,
                _ => entry.a = tensor.values,
            }
        }
        Ok(Some(Adapter {
            rank,
            alpha,
            factors,
            whole: BTreeMap::new(),
        }))
    }

    pub(crate) fn has_adapter(&self) -> bool {
        let mut projections = self.model.layers.iter().flat_map(Block::projections);
        projections.any(|(_, projection)| projection.weight.adapter().is_some())
    }

    /// Merges the adapter into the weights, which become trainable again; a no-op without adapter.
    ///
    /// Merge before decoding: the kernels read merged weights.
    pub fn merged(self) -> Self {
        if self.has_adapter() {
            self.materialize().unfreeze()
        } else {
            self
        }
    }

    /// Subtracts `adapter` from the weights it was merged into and attaches it. Reverses
    /// [`merged`](Self::merged) up to rounding.
    ///
    /// # Errors
    /// The same as for [`with_adapter`](Self::with_adapter).
    pub fn unmerged(self, adapter: &Adapter) -> Result<Self, Error> {
        let mut opposite = adapter.clone();
        for factors in opposite.factors.values_mut() {
            factors.scale = -factors.scale;
        }
        self.with_adapter(&opposite)?.merged().with_adapter(adapter)
    }
}

#[cfg(test)]
mod tests {
    use super::alpha_of;

    #[test]
    fn alpha_is_found_from_its_quotient() {
        for rank in 1..=256 {
            for alpha in (1..=256).map(f64::from).chain([0.1, 0.3, 1.7, 33.3]) {
                assert_eq!(
                    alpha_of(alpha / rank as f64, rank),
                    alpha,
                    "{alpha} / {rank}"
                );
            }
        }
    }
}
