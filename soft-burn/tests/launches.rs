//! Kernel launches, new kernels and transfers of training steps and decoded tokens.
//!
//! A program of its own, since a profile counts the work of a process.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use soft_burn::{
    DeviceProfile, DeviceWork, Llama, LlamaConfig, Method, RopeScaling, TrainSettings, Trainer,
    device, list_devices,
};
use soft_core::{
    Batch, BatchStream, DecodeModel, DecodeSettings, Decoder, Example, Exit, Exits, Mode,
    NestedModel, Prompt, StreamPosition,
};

fn model(n_layers: usize) -> Llama {
    let config = LlamaConfig {
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
        architecture: soft_burn::Architecture::default(),
        other: Default::default(),
    };
    Llama::random(config, 1, &device("wgpu").unwrap()).unwrap()
}

/// Rows of many lengths, no two batches alike.
struct Ragged(usize);

impl BatchStream for Ragged {
    type Error = std::convert::Infallible;

    fn next_batch(&mut self) -> Result<Batch, Self::Error> {
        self.0 += 1;
        let row = |row: usize| {
            let length = 5 + (self.0 * self.0 * 3 + self.0 * 37 + row * 23) % 60;
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

/// Of every step of SoFT with two exits.
fn training(model: Llama, steps: u64) -> Vec<DeviceWork> {
    let exits = Exits::new([1, model.depth()]).unwrap();
    let settings = TrainSettings::new(Method::soft(), exits, steps);
    let mut trainer = Trainer::new(model, settings).unwrap();
    let mut profile = DeviceProfile::start();
    let mut stream = Ragged(0);
    let step = |_| {
        trainer.step(&mut stream).unwrap();
        profile.lap()
    };
    (0..steps).map(step).collect()
}

/// Of every token of an answer at the full depth.
fn decoding(model: &Llama, tokens: usize) -> Vec<DeviceWork> {
    let full = Mode::Static(Exit::new(model.depth()).unwrap());
    let prompt = Prompt::from(vec![1, 2, 3, 4, 5]);
    let mut profile = DeviceProfile::start();
    let settings = DecodeSettings::greedy(full, tokens);
    let decoder = Decoder::new(model, &[prompt], settings).unwrap();
    let token = |step: Result<_, _>| {
        assert!(step.is_ok());
        profile.lap()
    };
    decoder.map(token).collect()
}

/// Of a forward pass of two rows without a cache.
fn forward(model: &Llama) -> DeviceWork {
    let tokens = model.tokens(&[vec![1, 2, 3], vec![4, 5, 6]]).unwrap();
    let full = Exit::new(model.depth()).unwrap();
    model.sub_model(&tokens, full).unwrap();
    let mut profile = DeviceProfile::start();
    model.sub_model(&tokens, full).unwrap();
    profile.lap()
}

#[test]
fn launches() {
    if !list_devices().contains(&"wgpu".to_owned()) {
        println!("NOT RUN: no device of wgpu found on this machine");
        return;
    }
    let (shallow, deep) = (model(2), model(6));
    // Four blocks lie between the two.
    let per_block = |shallow: &DeviceWork, deep: &DeviceWork| {
        (deep.launch_count() - shallow.launch_count()) as f64 / 4.0
    };

    let of_forward = per_block(&forward(&shallow), &forward(&deep));
    println!("forward: {of_forward} launches per block");
    assert!(of_forward <= 12.0);

    let tokens = [&shallow, &deep].map(|model| decoding(model, 12));
    let of_token = per_block(&tokens[0][11], &tokens[1][11]);
    println!("token: {of_token} launches per block, {:?}", tokens[1][11]);
    assert!(of_token <= 6.0);
    for token in &tokens[1][1..] {
        assert_eq!(token.reads, 1, "{token:?}");
    }
    for token in &tokens[1][2..] {
        assert_eq!(token.new_kernels, 0, "{token:?}");
    }

    let steps = [shallow, deep].map(|model| training(model, 16));
    let of_step = per_block(&steps[0][15], &steps[1][15]);
    println!("step: {of_step} launches per block, {:?}", steps[1][15]);
    assert!(of_step <= 80.0);
    for (index, step) in steps[1].iter().enumerate() {
        println!("step {}: {} new kernels", index + 1, step.new_kernels);
        assert_eq!(step.reads, 1, "{step:?}");
        assert!(index < 10 || step.new_kernels == 0, "{step:?}");
    }
}
