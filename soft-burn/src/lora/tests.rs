//! Adapters against dense weights, after a round trip, and against PEFT.

#![allow(clippy::unwrap_used)] // tests fail by panicking

use burn::module::Module;
use burn::tensor::Tensor;
use soft_core::{Batch, Example, Exits, NestedModel};

use super::*;
use crate::model::llama::Llama;
use crate::model::rope::RopeScaling;
use crate::tests::{fixture, test_device};
use crate::train::gradients::NamedGradients;
use crate::train::objective::LossTerms;
use crate::train::settings::Objective;

fn config() -> LlamaConfig {
    LlamaConfig {
        vocab: 13,
        d_model: 8,
        d_feed_forward: 12,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 6,
        norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        max_positions: 32,
        tied: true,
        initializer_range: 0.3,
        architecture: crate::model::architecture::Architecture::default(),
        other: serde_json::Map::new(),
    }
}

fn model() -> Llama {
    Llama::random(config(), 3, &test_device()).unwrap()
}

/// An adapter for some weights of two blocks, with both factors nonzero.
fn adapter() -> Adapter {
    let lora = Lora {
        alpha: 3.0,
        targets: ["q_proj", "v_proj", "down_proj"]
            .map(str::to_owned)
            .to_vec(),
        layers: Some(vec![0, 2]),
        ..Lora::new(2)
    };
    let mut adapter = lora.fresh(&config()).unwrap();
    for (index, factors) in adapter.factors.values_mut().enumerate() {
        for (at, b) in factors.b.iter_mut().enumerate() {
            *b = ((index * 7 + at * 5) % 11) as f32 / 11.0 - 0.4;
        }
    }
    adapter
}

fn logits(model: &Llama) -> Vec<f32> {
    let tokens = Tensor::from_data([[1, 5, 2, 9]], &model.device());
    let exit = Exits::new([3]).unwrap().last();
    let logits = model.sub_model(&tokens, exit).unwrap();
    logits.try_into_vec_as().unwrap()
}

fn assert_near(found: &[f32], wanted: &[f32], most: f32) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= most, "{found} is not {wanted}");
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let fresh = Lora::new(2).fresh(&config()).unwrap();
    assert_eq!(fresh.factors.len(), 3 * 7);
    let adapted = model().with_adapter(&fresh).unwrap();
    assert_eq!(logits(&adapted), logits(&model()));
    let again = Lora::new(2).fresh(&config()).unwrap();
    assert_eq!(fresh, again);
    let other = Lora {
        seed: 1,
        ..Lora::new(2)
    };
    assert_ne!(fresh, other.fresh(&config()).unwrap());
}

#[test]
fn merged_says_what_attached_says_and_can_be_undone() {
    let (before, adapter) = (logits(&model()), adapter());
    let attached = model().with_adapter(&adapter).unwrap();
    assert_eq!(attached.adapter().unwrap().as_ref(), Some(&adapter));
    let said = logits(&attached);
    assert!(said.iter().zip(&before).any(|(a, b)| (a - b).abs() > 0.1));
    let merged = attached.merged();
    assert!(!merged.has_adapter());
    assert_near(&logits(&merged), &said, 2e-5);
    let unmerged = merged.unmerged(&adapter).unwrap();
    assert_near(&logits(&unmerged), &said, 2e-5);
    let without = unmerged.merged().unmerged(&adapter).unwrap();
    assert_near(&logits(&without), &said, 4e-5);
}

/// dA = s · Bᵀ · dW and dB = s · dW · Aᵀ, where dW is the gradient of the merged weight. No other
/// parameter has a gradient.
#[test]
fn factors_get_their_share_of_the_weights_gradient() {
    let exits = Exits::new([1, 3]).unwrap();
    let row = |start: u32| Example::text((0..5).map(|i| (start + i * 3) % 13).collect());
    let batch = Batch::from_examples(&[&row(1), &row(4)]).unwrap();
    let gradients = |model: Llama| {
        let weighing = LossTerms {
            exits: &exits,
            weights: &[0.5, 0.5],
            normalizer: 8.0,
            distillation: None,
            gradient_limit: None,
            full_depth_head: false,
            skipping: None,
            recompute: false,
        };
        let mut found = NamedGradients::default();
        let objective = Objective::Flat;
        objective
            .differentiate(&model.train(), &batch, weighing, &mut found)
            .unwrap();
        found
    };
    let adapter = adapter();
    let mut of_factors = gradients(model().with_adapter(&adapter).unwrap());
    let mut of_weights = gradients(model().with_adapter(&adapter).unwrap().merged());
    let device = test_device();
    let matrix =
        |values: &[f32], shape: [usize; 2]| Tensor::<1>::from_data(values, &device).reshape(shape);
    for (module, factors) in &adapter.factors {
        let (rank, [d_out, d_in]) = (factors.rank, factors.shape());
        let dense = of_weights.take(&format!("{module}.weight")).unwrap();
        let dense = dense.reshape([d_out, d_in]).mul_scalar(factors.scale);
        let of_a = matrix(&factors.b, [d_out, rank])
            .transpose()
            .matmul(dense.clone());
        let of_b = dense.matmul(matrix(&factors.a, [rank, d_in]).transpose());
        for (name, wanted) in [("b", of_a), ("a", of_b)] {
            let found = of_factors.take(&format!("{module}{LORA}{name}")).unwrap();
            let found: Vec<f32> = found.try_into_vec_as().unwrap();
            let wanted: Vec<f32> = wanted.try_into_vec_as().unwrap();
            assert_near(&found, &wanted, 2e-6);
        }
    }
    assert!(of_factors.names().is_empty());
}

#[test]
fn on_disk_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    adapter().save(&path, None).unwrap();
    assert_eq!(Adapter::load(&path).unwrap(), adapter());
    assert!(adapter().save(&path, None).is_err());
    let config = path.join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let refused = |added: &str, part: &str| {
        std::fs::write(&config, text.replacen('{', &format!("{{{added},"), 1)).unwrap();
        let message = Adapter::load(&path).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused("\"use_dora\": true", "use_dora is true: expected none");
    refused("\"alpha_pattern\": {\"q.*\": 4}", "alpha_pattern is");
    refused(
        "\"init_lora_weights\": \"pissa\"",
        "init_lora_weights is \"pissa\"",
    );
    let harmless = text.replacen('{', "{\"target_modules\": \"all-linear\", \"new\": 1,", 1);
    let harmless = harmless.replacen("\"target_modules\": [", "\"others\": [", 1);
    std::fs::write(&config, harmless).unwrap();
    assert_eq!(Adapter::load(&path).unwrap(), adapter());
}

/// Saving an adapter that PEFT wrote reproduces its names, shapes and values.
#[test]
fn what_is_written_is_what_peft_writes() {
    let fixture = fixture("lora");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    Adapter::load(&fixture).unwrap().save(&path, None).unwrap();
    let tensors = |folder: &std::path::Path| {
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let all = tensors.iter();
        let all = all.map(|(name, it)| (name.to_owned(), it.shape().to_vec(), it.data().to_vec()));
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    };
    assert_eq!(tensors(&path), tensors(&fixture));
    let config = |folder: &std::path::Path| -> serde_json::Map<String, serde_json::Value> {
        let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (ours, theirs) = (config(&path), config(&fixture));
    for key in ["peft_type", "task_type", "layers_to_transform", "r", "bias"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert_eq!(ours["lora_alpha"].as_f64(), theirs["lora_alpha"].as_f64());
    let sorted = |config: &serde_json::Map<String, serde_json::Value>| {
        let names = config["target_modules"].as_array().unwrap().iter();
        let mut names: Vec<_> = names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
}

/// An adapter that PEFT wrote gives PEFT's logits. Source: `tests/fixtures/make_lora.py`.
#[test]
fn an_adapter_of_peft_says_what_it_says_there() {
    let model = Llama::from_pretrained(fixture("untied_mha"), &test_device()).unwrap();
    let adapter = Adapter::load(fixture("lora")).unwrap();
    assert_eq!((adapter.rank, adapter.alpha), (3, 5.0));
    let adapted = model.with_adapter(&adapter).unwrap();
    let path = fixture("lora").join("expected.safetensors");
    let mut expected = crate::files::safetensors::WeightFiles::open_file(&path).unwrap();
    let shape = expected.shape("logits").unwrap().to_vec();
    let wanted = expected.take("logits", &shape).unwrap();
    let tokens: Vec<i64> = (0..shape[1] as i64).map(|i| (i * 5 + 2) % 23).collect();
    let tokens = Tensor::<1, burn::tensor::Int>::from_data(tokens.as_slice(), &adapted.device());
    let exit = Exits::new([adapted.config().n_layers]).unwrap().last();
    let found = adapted
        .sub_model(&tokens.reshape([1, shape[1]]), exit)
        .unwrap();
    assert_near(&found.try_into_vec_as::<f32>().unwrap(), &wanted, 2e-5);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |lora: Lora, part: &str| {
        let message = lora.fresh(&config()).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(Lora::new(0), "lora rank is 0");
    refused(
        Lora {
            targets: vec!["query".to_owned()],
            ..Lora::new(1)
        },
        "lora target is `query`: expected q_proj",
    );
    refused(
        Lora {
            layers: Some(vec![1, 3]),
            ..Lora::new(1)
        },
        "block 3 of a model of 3",
    );
    refused(
        Lora {
            alpha: f64::NAN,
            ..Lora::new(1)
        },
        "lora alpha",
    );
    let attached = model().with_adapter(&adapter()).unwrap();
    let twice = attached.with_adapter(&adapter()).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
    let wide = LlamaConfig {
        d_model: 10,
        ..config()
    };
    let wide = Llama::random(wide, 1, &test_device()).unwrap();
    let shape = wide.with_adapter(&adapter()).unwrap_err().to_string();
    assert!(shape.contains("the weight is"), "{shape}");
    let shallow = LlamaConfig {
        n_layers: 2,
        ..config()
    };
    let shallow = Llama::random(shallow, 1, &test_device()).unwrap();
    let absent = shallow.with_adapter(&adapter()).unwrap_err().to_string();
    assert!(
        absent.contains("layers.2") && absent.contains("no such module"),
        "{absent}"
    );
}
