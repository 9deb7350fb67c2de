//! Training: single steps, runs, and the files of a run.

pub(crate) mod accumulation;
pub(crate) mod balance;
pub(crate) mod canary;
pub(crate) mod checkpoints;
pub(crate) mod combination;
pub(crate) mod exit_sums;
pub(crate) mod flat_settings;
pub(crate) mod gradients;
pub(crate) mod layer_dropout;
pub(crate) mod log;
pub(crate) mod loss;
pub(crate) mod method;
pub(crate) mod objective;
pub(crate) mod optimizer;
pub(crate) mod recomputation;
pub(crate) mod refusal;
pub(crate) mod replicas;
pub(crate) mod run;
pub(crate) mod run_settings;
pub(crate) mod schedule;
pub(crate) mod setting_checks;
pub(crate) mod settings;
pub(crate) mod targets;
pub(crate) mod trained_parts;
pub(crate) mod trainer;
pub(crate) mod training_pass;
