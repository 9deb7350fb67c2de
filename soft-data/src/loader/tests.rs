//! Invariants of the order of rows, and errors of the loader.

use proptest::prelude::*;

use super::*;

/// Rows with distinct first tokens.
fn examples(lengths: &[usize]) -> Vec<Example> {
    let row = |(id, &length): (usize, &usize)| {
        let mut tokens = vec![1; length];
        tokens[0] = id as u32;
        Example::text(tokens)
    };
    lengths.iter().enumerate().map(row).collect()
}

fn loader(lengths: &[usize], batch_size: usize, bucket_batches: usize, seed: u64) -> Loader {
    let config = LoaderConfig {
        batch_size,
        seed,
        bucket_batches,
        ..LoaderConfig::default()
    };
    Loader::new(examples(lengths), config).unwrap()
}

fn ids(batch: &Batch) -> Vec<u32> {
    batch.row_tokens().map(|row| row[0]).collect()
}

proptest! {
    #[test]
    fn every_row_comes_once_an_epoch(
        lengths in prop::collection::vec(1_usize..9, 1..80),
        batch_size in 1_usize..9, bucket in 1_usize..5, seed: u64,
    ) {
        let mut loader = loader(&lengths, batch_size, bucket, seed);
        for _ in 0..2 {
            let batches = (0..loader.batches_per_epoch()).map(|_| loader.next_batch().unwrap());
            let batches: Vec<_> = batches.collect();
            let full = batches.iter().filter(|batch| batch.rows() == batch_size).count();
            prop_assert!(full >= batches.len() - 1);
            let mut seen: Vec<_> = batches.iter().flat_map(ids).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..lengths.len() as u32));
            prop_assert_eq!(loader.position().batch, 0);
        }
        prop_assert_eq!(loader.position().epoch, 2);
    }

    #[test]
    fn packed_batches_are_full_and_hold_every_row_once(
        lengths in prop::collection::vec(1_usize..9, 1..80),
        most in 1_usize..30, bucket in 1_usize..5, seed: u64, steps in 0_usize..40,
    ) {
        let config = LoaderConfig {
            batch_size: 4,
            tokens_per_batch: Some(most),
            seed,
            bucket_batches: bucket,
        };
        let packed = || Loader::new(examples(&lengths), config).unwrap();
        let mut loader = packed();
        for _ in 0..2 {
            let batches = (0..loader.batches_per_epoch()).map(|_| loader.next_batch().unwrap());
            let batches: Vec<_> = batches.collect();
            for batch in &batches {
                let tokens: usize = batch.lengths().iter().sum();
                prop_assert!(tokens <= most || batch.rows() == 1);
            }
            let mut seen: Vec<_> = batches.iter().flat_map(ids).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..lengths.len() as u32));
        }
        // The number of batches may differ between epochs.
        let mut undisturbed = packed();
        for _ in 0..steps {
            undisturbed.next_batch().unwrap();
        }
        let mut resumed = packed();
        resumed.seek(undisturbed.position()).unwrap();
        for _ in 0..20 {
            prop_assert_eq!(resumed.next_batch().unwrap(), undisturbed.next_batch().unwrap());
        }
    }

    #[test]
    fn seeking_is_the_same_as_continuing(
        lengths in prop::collection::vec(1_usize..9, 1..40),
        batch_size in 1_usize..9, steps in 0_usize..60, seed: u64, elsewhere in 0_u64..5,
    ) {
        let mut undisturbed = loader(&lengths, batch_size, 3, seed);
        for _ in 0..steps {
            undisturbed.next_batch().unwrap();
        }
        let mut resumed = loader(&lengths, batch_size, 3, seed);
        resumed.seek(StreamPosition { epoch: elsewhere, batch: 0 }).unwrap();
        resumed.seek(undisturbed.position()).unwrap();
        for _ in 0..20 {
            prop_assert_eq!(resumed.position(), undisturbed.position());
            prop_assert_eq!(resumed.next_batch().unwrap(), undisturbed.next_batch().unwrap());
        }
    }
}

#[test]
fn epochs_and_seeds_differ() {
    let lengths = vec![3; 50];
    let first = loader(&lengths, 4, 8, 1);
    assert_ne!(first.plan, first.plan_of(1));
    assert_ne!(first.plan, loader(&lengths, 4, 8, 2).plan);
    assert_eq!(first.plan, loader(&lengths, 4, 8, 1).plan);
}

#[test]
fn bucketing_saves_padding() {
    let lengths: Vec<_> = (0..256).map(|row| 1 + row * 37 % 100).collect();
    let cost = |bucket| {
        let mut loader = loader(&lengths, 4, bucket, 0);
        let batches = (0..64).map(|_| loader.next_batch().unwrap());
        batches
            .map(|batch| batch.rows() * batch.seq())
            .sum::<usize>()
    };
    let real: usize = lengths.iter().sum();
    assert!(cost(64) < real * 102 / 100, "{} of {real}", cost(64));
    assert!(cost(1) > real * 130 / 100, "{} of {real}", cost(1));
}

#[test]
fn refuses_what_makes_no_stream() {
    let config = LoaderConfig::default();
    assert!(matches!(
        Loader::new(vec![], config),
        Err(DataError::NoExamples)
    ));
    assert!(Loader::new(vec![Example::text(vec![])], config).is_err());
    let none = LoaderConfig {
        batch_size: 0,
        ..config
    };
    let error = Loader::new(examples(&[2]), none).unwrap_err().to_string();
    assert_eq!(error, "`batch_size`: expected at least 1, found 0");
    let mut loader = loader(&[1, 2, 3], 2, 1, 0);
    let error = loader
        .seek(StreamPosition { epoch: 0, batch: 2 })
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("position {epoch 0, batch 2}: expected a batch below 2"),
        "{error}"
    );
    assert_eq!(loader.position(), StreamPosition::default());
    assert!(serde_json::from_str::<LoaderConfig>(r#"{"batchsize": 3}"#).is_err());
    let config: LoaderConfig = serde_json::from_str(r#"{"batch_size": 3}"#).unwrap();
    assert_eq!(
        config,
        LoaderConfig {
            batch_size: 3,
            ..LoaderConfig::default()
        }
    );
}

#[test]
fn validation_goes_from_short_to_long() {
    let batches = ordered_batches(&examples(&[3, 1, 2, 1]), 3).unwrap();
    assert_eq!(
        batches.iter().map(ids).collect::<Vec<_>>(),
        [vec![1, 3, 2], vec![0]]
    );
    assert!(ordered_batches(&[], 3).is_err());
}
