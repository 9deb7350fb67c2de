//! The sorted loss, and the weights of its exits over the steps.

pub(crate) mod curriculum;
pub(crate) mod depth_weights;
pub(crate) mod schedules;
pub(crate) mod sorted;

pub use curriculum::{Gradual, Rotational};
pub use depth_weights::DepthWeights;
pub use schedules::{
    AllExits, ExitWeights, IntermediateExits, LastExit, SampledExits, SeparateExits,
};
pub use sorted::{LossSchedule, MicroBatch, SortedLossOutput, sorted_loss};
