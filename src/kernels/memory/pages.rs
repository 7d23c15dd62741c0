//! The memory of a packed weight.

use crate::error::Result;
use crate::kernels::memory::area::Area;
use crate::kernels::memory::slabs::Given;
use crate::kernels::memory::spare;
use memmap2::MmapRaw;
use std::sync::Arc;

/// The numbers of a weight, in memory of their own or in a slab with others.
pub(in crate::kernels) struct Pages(Inner);

enum Inner {
    Alone(Area),
    Part(Part),
}

/// `len` numbers of a slab from number `start` on, which no other part has.
struct Part {
    map: Arc<MmapRaw>,
    slab: u64,
    start: usize,
    len: usize,
}

impl Pages {
    /// Room for `count` numbers of a weight, whose first contents are anything: whoever takes it writes all
    /// of them. Weights of one network lie together, so that most pages are large ones whatever their sizes.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(in crate::kernels) fn of_weight(count: usize) -> Result<Self> {
        let pages = match spare::take_part(count) {
            Some(Given { map, slab, start }) => {
                Self(Inner::Part(Part { map, slab, start, len: count }))
            }
            None => Self(Inner::Alone(spare::fresh(count, "weights")?)),
        };
        // Tests see the worst that a last use can have left.
        #[cfg(test)]
        let pages = {
            let mut pages = pages;
            pages.fill(f32::from_bits(0xffff_ffff));
            pages
        };
        Ok(pages)
    }
}

impl Part {
    #[allow(clippy::cast_ptr_alignment)] // maps begin with pages
    fn pointer(&self) -> *mut f32 {
        self.map.as_mut_ptr().cast::<f32>().wrapping_add(self.start)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        spare::keep_part(self.slab, self.start, self.len);
    }
}

impl std::ops::Deref for Pages {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Alone(area) => area,
            // SAFETY: the part lies inside of its slab, whose map lives as long, and belongs to it alone; every
            // pattern of bits is a number.
            #[allow(unsafe_code)]
            Inner::Part(part) => unsafe { std::slice::from_raw_parts(part.pointer(), part.len) },
        }
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Inner::Alone(area) => area,
            // SAFETY: as above, and parts are not cloned.
            #[allow(unsafe_code)]
            Inner::Part(part) => unsafe {
                std::slice::from_raw_parts_mut(part.pointer(), part.len)
            },
        }
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self(Inner::Alone(Area::default()))
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::memory::slabs::SLAB;

    #[test]
    fn parts_of_slabs_do_not_overlap_and_are_used_again() {
        let sizes = [1, 1000, 3_000_001, SLAB, SLAB - 5, 7_000_000, SLAB + 1];
        for round in 0..3 {
            let mut parts: Vec<Pages> =
                sizes.iter().map(|n| Pages::of_weight(*n).unwrap()).collect();
            for (i, part) in parts.iter_mut().enumerate() {
                part.fill((round * 10 + i) as f32);
            }
            for (i, (part, size)) in parts.iter().zip(sizes).enumerate() {
                assert_eq!(part.len(), size);
                assert!(part.iter().all(|v| *v == (round * 10 + i) as f32));
            }
        }
    }

    #[test]
    fn parts_come_and_go_on_many_threads() {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut kept = std::collections::VecDeque::new();
                    for i in 0..300 {
                        let mark = (thread * 1000 + i) as f32;
                        let mut part = Pages::of_weight(1 + i * 7919 % 200_000).unwrap();
                        part.fill(mark);
                        kept.push_back((mark, part));
                        if kept.len() > 8 {
                            let (mark, part) = kept.pop_front().unwrap();
                            assert!(part.iter().all(|v| *v == mark));
                        }
                    }
                });
            }
        });
    }
}
