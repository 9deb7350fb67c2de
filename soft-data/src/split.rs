//! Splits off validation rows.
//!
//! The choice depends only on the number of rows and the seed of the split. It is independent of
//! the training seed, so that runs with different training seeds use the same validation rows.

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::shuffle::{Purpose, shuffle};

/// How many rows are held out for validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holdout {
    /// A number of rows.
    Rows(usize),
    /// A fraction of the rows in [0, 1), rounded down.
    Fraction(f64),
}

/// Training and validation rows, both in their original order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// Training rows; never empty.
    pub train: Vec<T>,
    /// Validation rows; may be empty.
    pub validation: Vec<T>,
}

/// Holds out rows for validation. The choice is determined by the number of items and `seed`.
///
/// ```
/// use soft_data::{Holdout, split};
///
/// let parts = split((0..100).collect(), Holdout::Fraction(0.1), 0)?;
/// assert_eq!((parts.train.len(), parts.validation.len()), (90, 10));
/// # Ok::<(), soft_data::DataError>(())
/// ```
///
/// # Errors
/// When the fraction is out of range or no training rows would remain.
pub fn split<T>(items: Vec<T>, holdout: Holdout, seed: u64) -> Result<Split<T>, DataError> {
    let rows = items.len();
    let validation = match holdout {
        Holdout::Rows(number) => number,
        Holdout::Fraction(share) if (0.0..1.0).contains(&share) => (rows as f64 * share) as usize,
        Holdout::Fraction(share) => {
            return Err(DataError::Setting {
                setting: "validation fraction",
                expected: "at least 0 and below 1",
                found: share.to_string(),
            });
        }
    };
    if validation >= rows {
        return Err(DataError::NothingToTrainOn { rows, validation });
    }
    let mut held_out: Vec<_> = (0..rows).map(|index| index < validation).collect();
    shuffle(&mut held_out, Purpose::Split, seed, 0);
    let mut parts = Split {
        train: Vec::with_capacity(rows - validation),
        validation: Vec::with_capacity(validation),
    };
    for (item, held_out) in items.into_iter().zip(held_out) {
        if held_out {
            parts.validation.push(item)
        } else {
            parts.train.push(item)
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Expected values from `tests/orders.py`.
    #[test]
    fn the_choice_is_pinned() {
        let parts = split((0..20).collect(), Holdout::Rows(4), 0).unwrap();
        assert_eq!(parts.validation, [5, 6, 9, 15]);
    }

    #[test]
    fn something_is_left_to_train_on() {
        assert!(split(vec![1, 2], Holdout::Rows(2), 0).is_err());
        assert!(split(vec![1, 2], Holdout::Fraction(1.0), 0).is_err());
        assert!(split(vec![1, 2], Holdout::Fraction(f64::NAN), 0).is_err());
        assert!(split(Vec::<u8>::new(), Holdout::Rows(0), 0).is_err());
        assert_eq!(
            split(vec![1, 2], Holdout::Rows(0), 0).unwrap().train,
            [1, 2]
        );
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_stable(rows in 1_usize..300, part: usize, seed: u64) {
            let holdout = Holdout::Rows(part % rows);
            let parts = split((0..rows).collect(), holdout, seed).unwrap();
            prop_assert_eq!(parts.validation.len(), part % rows);
            prop_assert!(parts.train.is_sorted() && parts.validation.is_sorted());
            prop_assert_eq!(&parts, &split((0..rows).collect(), holdout, seed).unwrap());
            let mut all = [parts.train, parts.validation].concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..rows));
        }
    }
}
