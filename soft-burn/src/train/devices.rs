//! Distribution of the micro-batches of a step over several devices.
//!
//! The model is on one device, which also updates it. At every step the others get a copy of its
//! weights, compute the gradients of their share of the micro-batches, and send those back. Results
//! equal those of one device up to rounding. Burn's collectives support only CUDA and remote
//! devices; this only requires that tensors can be moved between devices, local or remote.

use std::panic::resume_unwind;

use burn::module::Module;
use burn::tensor::Device;

use crate::device_errors::guarded;
use crate::error::Error;
use crate::model::llama::Llama;

/// The results of `work` on each device's share of `jobs`, the model's own device first.
///
/// # Errors
/// The error of the first device that failed or was lost.
pub(crate) fn spread<Job: Sync, T: Send>(
    model: &Llama,
    further: &[Device],
    jobs: &[Job],
    work: impl Fn(&Llama, &[&Job]) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let devices = further.len() + 1;
    let share = |index: usize| jobs.iter().skip(index).step_by(devices).collect::<Vec<_>>();
    let run = |index: usize, device: Device| {
        let jobs = share(index);
        guarded(&device, || match index {
            0 => work(model, &jobs),
            _ => work(&model.clone().fork(&device), &jobs),
        })
    };
    if further.is_empty() {
        return Ok(vec![work(model, &share(0))?]);
    }
    std::thread::scope(|scope| {
        let others = (1..).zip(further).filter(|(index, _)| *index < jobs.len());
        let started: Vec<_> = others
            .map(|(index, device)| scope.spawn(move || run(index, device.clone())))
            .collect();
        let mut results = vec![run(0, model.device())];
        for thread in started {
            results.push(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results.into_iter().collect()
    })
}
