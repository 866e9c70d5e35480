//! Large zeroed buffers, on large pages where the system has them.
//!
//! A model's weights are streamed from memory over and over. On pages of 4 KiB every one of them
//! costs a fault at first use and an entry of the address cache at each pass; on pages of 2 MiB
//! both costs go away. Measured with the optimiser state of a 135 M-parameter model: the first
//! step took 4.0 s on small pages, most of it faults.

use std::ops::{Deref, DerefMut};

/// Below this many bytes a buffer comes from the allocator: a mapping costs a page and two calls.
const MAPPED_BYTES_MIN: usize = 1 << 20;

/// Numbers for which all-zero bytes are zero.
pub trait Plain: sealed::Sealed + Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for u16 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u16 {}
}

/// A buffer of fixed length that starts at a cache line. Dereferences to its values.
pub struct Buffer<T> {
    len: usize,
    storage: Storage<T>,
}

enum Storage<T> {
    Allocated(Vec<Line>, std::marker::PhantomData<T>),
    Mapped(memmap2::MmapMut),
}

/// One cache line, so that no vector load crosses two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl<T: Plain> Buffer<T> {
    /// Makes a buffer of `len` zeros.
    ///
    /// Ends the process if the system has no memory left, as a vector does.
    ///
    /// # Panics
    /// If the length is beyond any address space.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("no address space holds so much");
        let storage = if bytes < MAPPED_BYTES_MIN {
            let lines = bytes.div_ceil(size_of::<Line>());
            Storage::Allocated(vec![Line([0; 64]); lines], std::marker::PhantomData)
        } else {
            let Ok(map) = memmap2::MmapMut::map_anon(bytes) else {
                // What a vector does when there is no memory left.
                let layout = std::alloc::Layout::array::<T>(len);
                std::alloc::handle_alloc_error(layout.expect("its bytes were counted above"));
            };
            // A refusal costs speed alone.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            Storage::Mapped(map)
        };
        Self { len, storage }
    }
}

impl<T: Plain> Default for Buffer<T> {
    /// The empty buffer.
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain> From<&[T]> for Buffer<T> {
    fn from(values: &[T]) -> Self {
        let mut buffer = Self::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl<T: Plain> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        let data = match &self.storage {
            Storage::Allocated(lines, _) => lines.as_ptr().cast::<T>(),
            Storage::Mapped(map) => map.as_ptr().cast::<T>(),
        };
        // SAFETY: the storage holds at least `len` values, initialised to zero bytes (which are
        // values of a `Plain` type), aligned to a cache line at least, and is borrowed with `self`.
        unsafe { std::slice::from_raw_parts(data, self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        let data = match &mut self.storage {
            Storage::Allocated(lines, _) => lines.as_mut_ptr().cast::<T>(),
            Storage::Mapped(map) => map.as_mut_ptr().cast::<T>(),
        };
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(data, self.len) }
    }
}

impl<T: Plain> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} values)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_zeroed_and_aligned_and_keep_what_is_written() {
        for len in [0, 1, 17, (MAPPED_BYTES_MIN >> 2) - 1, (MAPPED_BYTES_MIN >> 2) + 1000] {
            let mut buffer = Buffer::<f32>::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|x| *x == 0.0));
            assert_eq!(buffer.as_ptr().addr() % 64, 0);
            buffer.iter_mut().zip(1u32..).for_each(|(x, i)| *x = i as f32);
            let copy = buffer.clone();
            buffer.fill(0.0);
            assert!(copy.iter().zip(1u32..).all(|(x, i)| *x == i as f32));
        }
        assert_eq!(Buffer::<u16>::default().len(), 0);
    }
}
