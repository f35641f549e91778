//! Hidden states as a tensor of candle's, and the steps of a network as its operations.

use std::{cell::Cell, mem};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::room_for;

/// Hidden states: a row for each token or patch of each sequence, one sequence after the other. They are a tensor in f32, rows ×
/// columns, and change by operations in place, whose memory is used again: as much as a layer is one operation, because kernels have
/// several steps share a block of rows while it is in a cache.
pub(crate) struct Hidden(Tensor);

/// What is done with hidden states, once.
struct Operation<F> {
    name: &'static str,
    work: Cell<Option<F>>,
}

impl<F: FnOnce(&mut Vec<f32>)> InplaceOp1 for Operation<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(numbers), Some((0, end)), Some(work)) =
            (storage, layout.contiguous_offsets(), self.work.take())
        else {
            bail!("{} takes rows in f32 without gaps, once", self.name);
        };
        work(numbers);
        // None are left when the memory was taken.
        debug_assert!(numbers.is_empty() || numbers.len() >= end, "{} has room for all rows", self.name);
        Ok(())
    }
}

impl Hidden {
    /// So many rows and columns of any numbers, in this memory.
    pub(crate) fn new(mut memory: Vec<f32>, rows: usize, columns: usize) -> Self {
        room_for(&mut memory, rows * columns);
        let tensor = || {
            let length = memory.len();
            Tensor::from_vec(memory, length, &Device::Cpu)?.narrow(0, 0, rows * columns)?.reshape((rows, columns))
        };
        Self(tensor().expect("there are as many numbers"))
    }

    /// What the operation of this name gives. It finds all rows at the beginning of what it may change, and may put other memory in
    /// the place of it that has room for them.
    pub(crate) fn apply<T>(&mut self, name: &'static str, work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
        let mut result = None;
        let work = |numbers: &mut Vec<f32>| result = Some(work(numbers));
        let operation = Operation { name, work: Cell::new(Some(work)) };
        self.0.inplace_op1(&operation).expect("rows are in f32 without gaps");
        drop(operation);
        result.expect("it was applied")
    }

    /// The memory.
    pub(crate) fn into_memory(mut self) -> Vec<f32> {
        self.apply("take", mem::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_change_rows_in_memory_that_is_used_again() {
        let memory = vec![7.0; 9];
        let begin = memory.as_ptr();
        let mut hidden = Hidden::new(memory, 2, 3);
        assert_eq!(hidden.0.dims(), [2, 3]);
        hidden.apply("count", |numbers| numbers.iter_mut().zip(0_u8..).for_each(|(to, number)| *to = number.into()));
        assert_eq!(hidden.0.to_vec2::<f32>().expect("is read"), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
        let sum: f32 = hidden.apply("sum", |numbers| numbers[..6].iter().sum());
        assert_eq!(sum, 15.0);
        let memory = hidden.into_memory();
        assert!(memory.as_ptr() == begin && memory.len() == 9);
    }

    #[test]
    fn an_operation_may_put_other_memory_in_the_place_of_theirs() {
        let (mut hidden, mut other) = (Hidden::new(Vec::new(), 1, 2), vec![3.0; 5]);
        hidden.apply("swap", |numbers| mem::swap(numbers, &mut other));
        assert_eq!(hidden.0.to_vec2::<f32>().expect("is read"), [[3.0, 3.0]]);
        assert_eq!((other.len(), hidden.into_memory().len()), (2, 5));
    }
}
