//! Matrix products on slices by the `gemm` crate, which Burn's flex backend also uses.
//!
//! Used directly so that products can be added to existing values, buffers reused, and matrices
//! transposed without a copy. The bounds that the crate leaves to its caller are checked here.

use gemm::Parallelism;

/// A matrix with arbitrary strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix with rows of `columns` values.
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        Self {
            values,
            rows: values.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The transposed matrix, without a copy.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn check(&self) {
        let last = (self.rows.max(1) - 1) * self.row_stride
            + (self.columns.max(1) - 1) * self.column_stride;
        assert!(
            self.rows * self.columns == 0 || last < self.values.len(),
            "a matrix within its slice"
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onto {
    /// Existing values are overwritten.
    Fresh,
    /// The product is added to the existing values.
    Sum,
}

/// `out = lhs · rhs`, or `out += lhs · rhs`, row-major, on all threads.
pub(crate) fn gemm(lhs: Matrix, rhs: Matrix, out: &mut [f32], onto: Onto) {
    lhs.check();
    rhs.check();
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert_eq!(k, rhs.rows, "columns of the left factor, rows of the right");
    assert_eq!(out.len(), m * n, "room for the product");
    #[allow(unsafe_code)] // the crate's interface
    // SAFETY: every element of the factors is within its slice and of the result within `out`, as
    // just checked; `out` is borrowed mutably and therefore apart from the factors.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            onto == Onto::Sum,
            lhs.values.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(matrix: Matrix, row: usize, column: usize) -> f64 {
        let index = row * matrix.row_stride + column * matrix.column_stride;
        matrix.values[index].into()
    }

    proptest! {
        #[test]
        fn is_the_product_of_whatever_strides(
            (m, n, k) in (1usize..40, 1usize..40, 1usize..40),
            turned: (bool, bool),
            onto in prop_oneof![Just(Onto::Fresh), Just(Onto::Sum)],
        ) {
            let numbers = |count: usize, salt: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * 37 + salt * 11) % 19) as f32 - 9.0).collect()
            };
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let lhs = if turned.0 { Matrix::new(&a, m).transposed() } else { Matrix::new(&a, k) };
            let rhs = if turned.1 { Matrix::new(&b, k).transposed() } else { Matrix::new(&b, n) };
            let before = numbers(m * n, 3);
            let mut out = before.clone();
            gemm(lhs, rhs, &mut out, onto);
            for (index, found) in out.into_iter().enumerate() {
                let (i, j) = (index / n, index % n);
                let product: f64 = (0..k).map(|l| at(lhs, i, l) * at(rhs, l, j)).sum();
                let start = if onto == Onto::Sum { f64::from(before[index]) } else { 0.0 };
                prop_assert_eq!(f64::from(found), start + product);
            }
        }
    }

    #[test]
    #[should_panic(expected = "room for the product")]
    fn a_result_without_room_is_refused() {
        let values = [1.0; 6];
        gemm(
            Matrix::new(&values, 3),
            Matrix::new(&values, 2),
            &mut [0.0; 3],
            Onto::Fresh,
        );
    }
}
