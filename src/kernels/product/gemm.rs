//! A checked view on matrices for the `gemm` crate.

/// A strided matrix inside a slice.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major with `row_stride` elements from row to row.
    pub(in crate::kernels) fn rows(
        data: &'a [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }.checked()
    }

    fn checked(self) -> Self {
        assert!(
            span(self.rows, self.columns, self.row_stride, self.column_stride) <= self.data.len(),
            "a matrix reaches beyond its slice"
        );
        self
    }
}

/// Where a product is written.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Target {
    pub pointer: *mut f32,
    pub row_stride: usize,
    /// Add to what is there instead of replacing it.
    pub accumulate: bool,
}

fn span(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * row_stride + (columns - 1) * column_stride + 1
    }
}

/// target ← (target +) scale · left · right, on the calling thread.
///
/// # Safety
/// `target` must be valid for `left.rows` rows of `right.columns` elements, and nobody else may
/// touch those elements meanwhile.
#[allow(unsafe_code)]
pub(in crate::kernels) unsafe fn multiply(
    target: Target,
    left: Matrix<'_>,
    right: Matrix<'_>,
    scale: f32,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions of a product");
    // SAFETY: both inputs were checked against their slices; the output is the caller's promise.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            target.pointer,
            1,
            target.row_stride as isize,
            target.accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
