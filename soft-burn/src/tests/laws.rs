//! The laws of soft-core hold for LLaMA on Burn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests fail by panicking

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use soft_core::conformance::{DecodingLaws, Equality, Laws, Observed};
use soft_core::model::{Head, KvCache};
use soft_core::{DecodeModel, Exit, Exits, NestedModel, Past, Prompt};

use crate::error::Error;
use crate::model::architecture::{Architecture, ModelType, SlidingWindow};
use crate::model::block::heads_of;
use crate::model::config::LlamaConfig;
use crate::model::llama::Llama;
use crate::model::parameters::map_parameters;
use crate::model::rope::RopeScaling;
use crate::ops::head::unreadable;
use crate::ops::kv_store::KvStore;
use crate::tests::{fixture, test_device};

impl Observed for Llama {
    fn logit_values(&self, logits: &Tensor<3>) -> Result<Vec<Vec<Vec<f64>>>, Error> {
        let [_, seq, vocab] = logits.dims();
        let values: Vec<f32> = logits.clone().try_into_vec_as().map_err(unreadable)?;
        let position = |values: &[f32]| values.iter().map(|&value| value.into()).collect();
        let row = |values: &[f32]| values.chunks(vocab).map(position).collect();
        Ok(values.chunks(seq * vocab).map(row).collect())
    }

    fn loss_value(&self, loss: &Tensor<1>) -> Result<f64, Error> {
        Ok(loss.clone().into_scalar::<f32>().into())
    }
}

pub(crate) fn config(n_layers: usize, n_kv_heads: usize, tied: bool) -> LlamaConfig {
    LlamaConfig {
        vocab: 19,
        d_model: 8,
        d_feed_forward: 12,
        n_layers,
        n_heads: 4,
        n_kv_heads,
        head_dim: 6,
        norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::None,
        max_positions: 128,
        tied,
        initializer_range: 0.4,
        architecture: crate::model::architecture::Architecture::default(),
        other: serde_json::Map::new(),
    }
}

/// LLaMA, and what other families add to it.
fn architectures() -> impl Strategy<Value = Architecture> {
    let windows = prop_oneof![
        Just(None),
        (1usize..6, 0usize..3)
            .prop_map(|(size, first_block)| Some(SlidingWindow { size, first_block }))
    ];
    let family = proptest::sample::select(ModelType::ALL.to_vec());
    let any = (family, any::<[bool; 2]>(), windows).prop_map(|(model_type, has, window)| {
        let (llama, qwen3) = (
            model_type == ModelType::Llama,
            model_type == ModelType::Qwen3,
        );
        let own_biases = has[0] && (llama || qwen3);
        let everywhere = model_type == ModelType::Mistral;
        let window = window.filter(|_| !llama).map(|window| SlidingWindow {
            first_block: if everywhere { 0 } else { window.first_block },
            ..window
        });
        Architecture {
            model_type,
            qkv_bias: own_biases || model_type == ModelType::Qwen2,
            output_bias: own_biases,
            mlp_bias: has[1] && llama,
            qk_norm: qwen3,
            window,
        }
    });
    prop_oneof![Just(Architecture::default()), any]
}

/// Moves norms and biases away from their initial 1 and 0.
fn shaken(model: Llama) -> Llama {
    map_parameters(model, |_, rank, value| match rank {
        1 => {
            let numbers = (0..value.dims()[0]).map(|i| 0.3 * (i as f32 * 1.7).sin());
            let added = numbers.collect::<Vec<_>>();
            let added = Tensor::<1>::from_data(added.as_slice(), &value.device());
            value + added
        }
        _ => value,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn llama_obeys_the_laws(
        seed: u64,
        n_layers in 2usize..5,
        n_kv_heads in prop_oneof![Just(1usize), Just(2), Just(4)],
        tied: bool,
        rows in (1usize..4, 4usize..9).prop_flat_map(|(rows, seq)| {
            proptest::collection::vec(proptest::collection::vec(0u32..19, seq), rows)
        }),
        with_heads: bool,
        with_blocks: bool,
        architecture in architectures(),
    ) {
        let exits = Exits::every(2, 1..=n_layers).unwrap();
        let config = LlamaConfig { architecture, ..config(n_layers, n_kv_heads, tied) };
        let model = shaken(Llama::random(config, seed, &test_device()).unwrap());
        let model = if with_heads { model.with_exit_heads(&exits).unwrap() } else { model };
        let model = if with_blocks { model.with_exit_blocks(&exits).unwrap() } else { model };
        Laws { model: &model, rows, exits, tolerance: 2e-4 }.check().unwrap();
    }
}

/// The test device, with kernels if it is flex, and the same with autodiff, where models run on
/// tensor operations as on every other backend.
fn devices() -> [(Device, Equality); 2] {
    let device = test_device();
    let has_kernels = device == Device::flex();
    let equality = if has_kernels {
        Equality::ToTheBit
    } else {
        Equality::WithinRounding
    };
    [
        (device.clone(), equality),
        (device.autodiff(), Equality::WithinRounding),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn llama_obeys_the_laws_of_decoding(
        seed: u64,
        n_layers in 2usize..5,
        n_kv_heads in prop_oneof![Just(1usize), Just(2), Just(4)],
        tied: bool,
        prompts in proptest::collection::vec(proptest::collection::vec(0u32..19, 1..9), 1..4),
        with_heads: bool,
        with_blocks: bool,
        architecture in architectures(),
    ) {
        for (device, equality) in devices() {
            // Autodiff keeps every operation until a backward pass, which decoding does not run. So
            // fewer rows and shorter answers are used there.
            let keeps_graph = equality == Equality::WithinRounding;
            let (rows, context) = if keeps_graph { (2, 14) } else { (4, 24) };
            let exits = Exits::every(1, 1..=n_layers).unwrap();
            let mut config = config(n_layers, n_kv_heads, tied);
            config.max_positions = context;
            config.architecture = architecture;
            let model = shaken(Llama::random(config, seed, &device).unwrap());
            let model = if with_heads { model.with_exit_heads(&exits).unwrap() } else { model };
            let model = if with_blocks { model.with_exit_blocks(&exits).unwrap() } else { model };
            let seeds = prompts.iter().take(rows).cloned().zip(seed..=u64::MAX);
            let prompts = seeds.map(|(tokens, seed)| Prompt { tokens, seed }).collect();
            let laws = DecodingLaws {
                tolerance: 2e-4,
                equality,
                ..DecodingLaws::new(&model, prompts, exits)
            };
            laws.check().unwrap();
        }
    }
}

/// Exits with half a block, or with a norm alone.
#[test]
fn exits_with_fewer_parts_obey_the_laws() {
    for variant in ["attention", "mlp", "norm_only", "own_heads"] {
        let folder = fixture("nested").join(variant);
        let model = Llama::from_pretrained(folder, &test_device()).unwrap();
        let exits = Exits::new([1, 2, 3, 4]).unwrap();
        let prompts = [vec![5, 3, 9, 1], vec![4], vec![8, 8, 2]].map(Prompt::from);
        let laws = DecodingLaws {
            tolerance: 2e-4,
            equality: devices()[0].1,
            ..DecodingLaws::new(&model, prompts.into(), exits.clone())
        };
        laws.check().unwrap();
        let rows = vec![vec![1, 2, 3, 4, 5], vec![9, 8, 7, 6, 5]];
        let tolerance = 2e-4;
        let laws = Laws {
            model: &model,
            rows,
            exits,
            tolerance,
        };
        laws.check().unwrap();
    }
}

#[test]
fn plain_tensor_operations_obey_the_laws() {
    let (device, _) = &devices()[1];
    let model = Llama::random(config(3, 2, true), 7, device).unwrap();
    let rows = (0..3u32).map(|row| (0..7).map(|i| (i * 5 + row) % 19).collect());
    Laws {
        model: &model,
        rows: rows.collect(),
        exits: Exits::new([1, 2, 3]).unwrap(),
        tolerance: 2e-4,
    }
    .check()
    .unwrap();
}

/// The decoding kernels match the reference on rows of unequal length in several passes.
#[test]
fn decoding_passes_are_those_of_tensor_operations() {
    for (device, _) in devices() {
        let config = LlamaConfig {
            architecture: Architecture {
                model_type: ModelType::Qwen3,
                qkv_bias: true,
                output_bias: true,
                qk_norm: true,
                window: Some(SlidingWindow {
                    size: 2,
                    first_block: 1,
                }),
                ..Architecture::default()
            },
            ..config(3, 2, true)
        };
        let model = shaken(Llama::random(config, 3, &device).unwrap());
        let norm = model.model.norm.weight.val();
        let in_tensors = KvStore::in_tensors(&norm, 3, (2, 16), heads_of(&model.config));
        let mut caches = [
            model.new_cache(2, 16).unwrap(),
            KvCache::new(in_tensors, 3, 2, 16),
        ];
        for query_lens in [[3, 5], [1, 0], [2, 1]] {
            let count: usize = query_lens.iter().sum();
            let tokens = (0..count).map(|i| (i * 7 % 19) as u32).collect();
            let tokens = model.tokens(&[tokens]).unwrap();
            let [fast, reference] = caches.each_mut().map(|cache| {
                let past = Past {
                    cache,
                    query_lens: &query_lens,
                };
                let hidden = model.embed(&tokens).unwrap();
                model.blocks(hidden, 0..3, Some(past)).unwrap()
            });
            let worst: f32 = (fast - reference).abs().max().into_scalar();
            assert!(worst < 1e-5, "{worst}");
        }
    }
}

#[test]
fn a_long_cache_is_that_of_single_passes() {
    let model = Llama::random(config(3, 2, true), 5, &test_device()).unwrap();
    let rows: Vec<Vec<u32>> = (0..2u32)
        .map(|row| (0..100).map(|i| (i * 7 + row) % 19).collect())
        .collect();
    let exits = Exits::new([1, 3]).unwrap();
    Laws {
        model: &model,
        rows,
        exits,
        tolerance: 2e-4,
    }
    .check()
    .unwrap();
}

#[test]
fn past_the_capacity_is_an_error_not_a_panic() {
    let model = Llama::random(config(2, 2, true), 5, &test_device()).unwrap();
    assert!(model.new_cache(1, 129).is_err());
    let mut cache = model.new_cache(1, 3).unwrap();
    let hidden = model
        .embed(&model.tokens(&[vec![1, 2, 3, 4]]).unwrap())
        .unwrap();
    let past = Past {
        cache: &mut cache,
        query_lens: &[4],
    };
    let error = model.blocks(hidden.clone(), 0..2, Some(past)).unwrap_err();
    assert!(error.to_string().contains("capacity is 3"), "{error}");
    assert!(model.blocks(hidden, 1..3, None).is_err());
}

#[test]
fn an_id_outside_the_vocabulary_is_named() {
    let model = Llama::random(config(2, 2, true), 5, &test_device()).unwrap();
    let error = model
        .tokens(&[vec![1, 2], vec![3, 19]])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("row 1, position 1") && error.contains("19"),
        "{error}"
    );
}

#[test]
fn rows_that_make_no_rectangle_are_refused() {
    let model = Llama::random(config(2, 2, true), 5, &test_device()).unwrap();
    for rows in [
        vec![],
        vec![vec![]],
        vec![vec![1, 2], vec![3]],
        vec![vec![1], vec![]],
    ] {
        assert!(model.tokens(&rows).is_err(), "{rows:?} was accepted");
    }
}

#[test]
fn a_cache_of_a_shallower_model_is_refused() {
    let device = test_device();
    let model = Llama::random(config(3, 2, true), 5, &device).unwrap();
    let shallow = Llama::random(config(2, 2, true), 5, &device).unwrap();
    let mut cache = shallow.new_cache(1, 8).unwrap();
    let hidden = model.embed(&model.tokens(&[vec![1, 2]]).unwrap()).unwrap();
    let past = Past {
        cache: &mut cache,
        query_lens: &[2],
    };
    assert!(model.blocks(hidden, 0..3, Some(past)).is_err());
}

#[test]
fn damaged_weights_name_no_tokens() {
    for (device, _) in devices() {
        let mut model = Llama::random(config(2, 2, true), 5, &device).unwrap();
        let nan = Tensor::full([8], f32::NAN, &device);
        model.model.norm.weight = burn::module::Param::from_tensor(nan);
        let hidden = model.embed(&model.tokens(&[vec![1, 2]]).unwrap()).unwrap();
        let head = || Head::Full(Exit::new(2).unwrap());
        assert!(model.best_tokens(&hidden, head()).is_err());
        assert!(model.scores(&hidden, head()).is_err());
        assert!(model.logit_rows(&hidden, head()).is_err());
    }
}
