//! The model of a run on one or several devices.
//!
//! Every device keeps all weights and computes the gradients of a share of the micro-batches. Each
//! parameter has an owner among the devices: gradients are summed there, the owner keeps the
//! optimizer's state and updates the parameter, and sends it to the others. Of n devices, each thus
//! sends about 2 (n − 1) / n times the weights per step and receives as much; parameters are not
//! divided, so that a large one may make shares unequal. Results equal those of one device up to
//! rounding.
//!
//! Burn's collectives work between CUDA devices of one process only; this requires that tensors can
//! be moved between devices, local or remote. Source of the sharding: Rajbhandari et al., *ZeRO*
//! (arXiv 1910.02054), stage 1.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;

use burn::module::Module;
use burn::tensor::{Device, StreamId, Tensor};

use crate::device_errors::{failed, guarded, lost};
use crate::error::Error;
use crate::model::llama::Llama;
use crate::model::parameters::{flat_values, map_parameters, trained_lengths};
use crate::ops::transfers::moved;
use crate::train::gradients::NamedGradients;

/// The same weights on every device.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// That of the run first.
    models: Vec<Llama>,
    /// The index of the owner of each parameter, by its name in the model.
    owners: BTreeMap<String, usize>,
}

impl Replicas {
    /// The model on its own device.
    pub fn alone(model: Llama) -> Self {
        Self {
            models: vec![model],
            owners: BTreeMap::new(),
        }
    }

    /// Copies the model to `further` devices and distributes the parameters.
    pub fn with_devices(mut self, further: &[Device]) -> Result<Self, Error> {
        self.models.truncate(1);
        for device in further {
            let copy = guarded(device, || Ok(self.models[0].clone().fork(device)))?;
            self.models.push(copy);
        }
        self.owners = owners(trained_lengths(&self.models[0]), self.models.len());
        Ok(self)
    }

    /// Returns an error for a device that failed while it was updated.
    pub fn check(&self) -> Result<(), Error> {
        let whole = |model: &&Llama| model.model.layers.len() == model.config().n_layers;
        match self.models.iter().find(|model| !whole(model)) {
            Some(model) => Err(lost(&model.device(), "the model went with it")),
            None => Ok(()),
        }
    }

    /// Waits for all devices.
    pub fn sync(&self) -> Result<(), Error> {
        let sync = |model: &Llama| {
            let device = model.device();
            let done = device.sync();
            done.map_err(|reason| failed(&device, &reason.to_string()))
        };
        self.models.iter().try_for_each(sync)
    }

    /// The model on the device of the run.
    pub fn model(&self) -> &Llama {
        &self.models[0]
    }

    /// The model on every device.
    pub fn models(&self) -> &[Llama] {
        &self.models
    }

    /// The index of the device that updates a parameter.
    pub fn owner(&self, name: &str) -> usize {
        self.owners.get(name).copied().unwrap_or(0)
    }

    /// The device that updates a parameter, without autodiff.
    pub fn device_of_owner(&self, name: &str) -> Device {
        self.models[self.owner(name)].device().inner()
    }

    /// The results of `work` on each device's share of `jobs`, those of the run's device first.
    ///
    /// # Errors
    /// The error of the first device that failed or was lost.
    pub fn spread<Job: Sync, T: Send>(
        &self,
        jobs: &[Job],
        work: impl Fn(&Llama, &[&Job]) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let devices = self.models.len();
        // The stream of this thread: CubeCL would give every new thread a stream and a memory pool
        // of its own.
        let stream = StreamId::current();
        let run = |(index, model): (usize, &Llama)| {
            let share: Vec<_> = jobs.iter().skip(index).step_by(devices).collect();
            stream.executes(|| guarded(&model.device(), || work(model, &share)))
        };
        let mut models = self.models.iter().enumerate();
        let Some(first) = models.next() else {
            return Ok(Vec::new());
        };
        std::thread::scope(|scope| {
            let others = models.filter(|(index, _)| *index < jobs.len());
            let started: Vec<_> = others
                .map(|other| scope.spawn(move || run(other)))
                .collect();
            let mut results = vec![run(first)];
            for thread in started {
                results.push(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            results.into_iter().collect()
        })
    }

    /// Updates every owner's parameters by `step`, given the gradients of each owner, and sends
    /// them to the other devices.
    ///
    /// # Errors
    /// When a device fails; weights may then be lost or differ between devices.
    pub fn update(
        &mut self,
        gradients: Vec<NamedGradients>,
        mut step: impl FnMut(Llama, NamedGradients) -> Llama,
    ) -> Result<(), Error> {
        for (owner, gradients) in gradients.into_iter().enumerate() {
            let names = gradients.names();
            if names.is_empty() {
                continue;
            }
            self.replace(owner, |model| step(model, gradients))?;
            if self.models.len() > 1 {
                self.send(owner, &names)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, names: &BTreeSet<String>) -> Result<(), Error> {
        let source = self.models[from].device();
        let values = flat_values(&self.models[from], names);
        for to in (0..self.models.len()).filter(|&to| to != from) {
            let device = self.models[to].device().inner();
            let sent = |(name, value): (&String, &Tensor<1>)| {
                (name.clone(), moved(value.clone(), &device))
            };
            let mut values: BTreeMap<_, _> =
                guarded(&source, || Ok(values.iter().map(sent).collect()))?;
            self.replace(to, |model| {
                map_parameters(model, |name, _, value| values.remove(name).unwrap_or(value))
            })?;
        }
        Ok(())
    }

    /// Moves a model through `change`: weights are updated in place only if they are not shared.
    fn replace(&mut self, index: usize, change: impl FnOnce(Llama) -> Llama) -> Result<(), Error> {
        let place = &mut self.models[index];
        guarded(&place.device(), || {
            let placeholder = place.placeholder();
            *place = change(std::mem::replace(place, placeholder));
            Ok(())
        })
    }
}

/// Owners with about as many elements each: the largest parameter goes to the device with fewest.
fn owners(lengths: BTreeMap<String, usize>, devices: usize) -> BTreeMap<String, usize> {
    let mut by_size: Vec<_> = lengths.into_iter().collect();
    by_size.sort_by_key(|(_, length)| Reverse(*length));
    let mut owned = vec![0; devices];
    let assign = |(name, length): (String, usize)| {
        let least = (0..devices)
            .min_by_key(|&device| owned[device])
            .unwrap_or(0);
        owned[least] += length;
        (name, least)
    };
    by_size.into_iter().map(assign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_owns_about_as_much() {
        let lengths = [("a", 8), ("b", 7), ("c", 4), ("d", 4), ("e", 1)];
        let lengths = lengths.map(|(name, length)| (name.to_owned(), length));
        let owners = owners(lengths.clone().into(), 2);
        let mut owned = [0; 2];
        for (name, length) in lengths {
            owned[owners[&name]] += length;
        }
        assert_eq!(owned, [12, 12]);
    }
}
