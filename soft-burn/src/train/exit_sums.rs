//! Sums of the losses of exits, read from the device once per step.
//!
//! Every read waits for the device. Losses therefore stay there until the gradients of all
//! micro-batches are queued.

use burn::tensor::{Device, TensorReadError};
use soft_core::Exit;

use crate::ops::head_loss::terms::Term;
use crate::ops::transfers::{Numbers, read_all};

/// Losses of some exits on one micro-batch.
#[derive(Clone, Debug)]
pub(crate) struct UnreadSums {
    /// The exits, and the factors of their sums in the differentiated loss.
    pub exits: Vec<(Exit, Term)>,
    /// Cross-entropy in nats of every exit.
    pub nats: Numbers,
    /// Divergence from the full depth in nats of every exit; none without distillation.
    pub divergence: Numbers,
    /// Number of targets.
    pub targets: usize,
}

/// Losses of one exit on one micro-batch, summed over the targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ExitSum {
    pub exit: Exit,
    /// Cross-entropy in nats.
    pub nats: f64,
    /// Divergence from the full depth in nats; 0 without distillation.
    pub divergence: f64,
    /// The contribution to the differentiated loss.
    pub weighed: f64,
    /// Number of targets.
    pub targets: usize,
}

impl UnreadSums {
    pub fn moved_to(self, device: &Device) -> Self {
        Self {
            nats: self.nats.moved_to(device),
            divergence: self.divergence.moved_to(device),
            ..self
        }
    }
}

/// Reads losses, by exit, and further numbers in one transfer.
pub(crate) fn read_sums(
    unread: Vec<UnreadSums>,
    further: Numbers,
) -> Result<(Vec<ExitSum>, Vec<f64>), TensorReadError> {
    let numbers = unread
        .iter()
        .flat_map(|sums| [&sums.nats, &sums.divergence]);
    let numbers = std::iter::once(further).chain(numbers.cloned());
    let mut numbers = read_all(numbers.collect())?.into_iter();
    let further = numbers.next().unwrap_or_default();
    let mut read = Vec::new();
    for sums in unread {
        let nats = numbers.next().unwrap_or_default();
        let divergence = numbers.next().unwrap_or_default();
        let divergence = divergence.into_iter().chain(std::iter::repeat(0.0));
        let sums_of_exits = sums.exits.iter().zip(nats).zip(divergence);
        read.extend(
            sums_of_exits.map(|((&(exit, term), nats), divergence)| ExitSum {
                exit,
                nats,
                divergence,
                weighed: f64::from(term.hard) * nats + f64::from(term.soft) * divergence,
                targets: sums.targets,
            }),
        );
    }
    read.sort_by_key(|sum| sum.exit);
    Ok((read, further))
}
