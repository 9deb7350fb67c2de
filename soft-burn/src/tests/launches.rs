//! Kernel launches and transfers of training steps and decoded tokens, counted on wgpu.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use soft_core::{
    Batch, BatchStream, DecodeSettings, Decoder, Example, Exits, Mode, Prompt, StreamPosition,
};

use crate::device::{device, list_devices};
use crate::device_profile::{DeviceProfile, DeviceWork};
use crate::model::config::LlamaConfig;
use crate::model::llama::Llama;
use crate::model::rope::RopeScaling;
use crate::train::method::Method;
use crate::train::settings::TrainSettings;
use crate::train::trainer::Trainer;

fn config(n_layers: usize) -> LlamaConfig {
    LlamaConfig {
        vocab: 128,
        d_model: 48,
        d_feed_forward: 96,
        n_layers,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 8,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_positions: 256,
        tied: true,
        initializer_range: 0.02,
        other: Default::default(),
    }
}

/// Rows of many lengths, no two batches alike.
struct Ragged(usize);

impl BatchStream for Ragged {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self) -> Result<Batch, Self::Error> {
        self.0 += 1;
        let row = |row: usize| {
            let length = 5 + (self.0 * 37 + row * 23 + self.0 * self.0 * 3) % 60;
            Example::text((0..length).map(|i| ((i * 7 + row) % 128) as u32).collect())
        };
        let rows: Vec<_> = (0..4).map(row).collect();
        Ok(Batch::from_examples(&rows.iter().collect::<Vec<_>>()).unwrap())
    }

    fn position(&self) -> StreamPosition {
        StreamPosition::default()
    }

    fn seek(&mut self, _position: StreamPosition) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn show(what: &str, work: &DeviceWork) {
    println!(
        "{what}: {} launches, {} kernels, {} new, {} reads of {} B, {} uploads of {} B",
        work.launch_count(),
        work.kernels,
        work.new_kernels,
        work.reads,
        work.bytes_read,
        work.uploads,
        work.bytes_uploaded
    );
}

#[test]
fn launches() {
    if !list_devices().contains(&"wgpu".to_owned()) {
        println!("NOT RUN");
        return;
    }
    let device = device("wgpu").unwrap();
    for layers in [2, 4] {
        let model = Llama::random(config(layers), 1, &device).unwrap();
        let exits = Exits::every(1, 1..=layers).unwrap();
        let mut trainer =
            Trainer::new(model.clone(), TrainSettings::new(Method::soft(), exits, 30)).unwrap();
        let mut profile = DeviceProfile::start();
        let mut stream = Ragged(0);
        for step in 1..=16 {
            let began = std::time::Instant::now();
            trainer.step(&mut stream).unwrap();
            let work = profile.lap();
            show(
                &format!(
                    "{layers} blocks, step {step} ({:.2} s)",
                    began.elapsed().as_secs_f64()
                ),
                &work,
            );
            if step == 16 {
                println!("{:#?}", work.launches);
            }
        }
        let full = Mode::Static(soft_core::Exit::new(layers).unwrap());
        let prompt = Prompt::from(vec![1, 2, 3, 4, 5]);
        let mut decoder =
            Decoder::new(&model, &[prompt], DecodeSettings::greedy(full, 12)).unwrap();
        while let Some(step) = decoder.next() {
            step.unwrap();
            let work = profile.lap();
            show("token", &work);
        }
    }
}
