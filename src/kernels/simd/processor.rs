//! Which vector instructions the products use.

use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets with kernels of their own, the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor of the build's target has.
    Portable,
    /// NEON, which every 64-bit ARM processor has.
    Neon,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with products of bf16 pairs.
    Avx512Bf16,
}

/// Index of the set that the kernels use; `u8::MAX` until the processor was asked.
static USED: AtomicU8 = AtomicU8::new(u8::MAX);

impl Instructions {
    /// Every set, the narrowest first.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The widest set that this processor has.
    pub fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma")) {
                return Self::Portable;
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
                return Self::Avx2;
            }
            if has!("avx512bf16") { Self::Avx512Bf16 } else { Self::Avx512 }
        }
        #[cfg(target_arch = "aarch64")]
        return Self::Neon;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self::Portable
    }

    /// Whether this processor has the set.
    pub fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => self <= Self::detected(),
        }
    }

    /// The set that the kernels use: what the processor has, unless limited.
    pub fn used() -> Self {
        // The processor is asked once: the smallest loops come here for every row.
        if let Some(set) = Self::ALL.get(usize::from(USED.load(Ordering::Relaxed))) {
            return *set;
        }
        let detected = Self::detected();
        // A limit that was set meanwhile stays.
        match USED.compare_exchange(u8::MAX, detected as u8, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => detected,
            Err(_) => Self::used(),
        }
    }

    /// Whether a tile is only sixteen columns wide: there are registers for no more.
    pub(in crate::kernels) fn is_narrow(self) -> bool {
        matches!(self, Self::Neon | Self::Avx2)
    }

    /// Lets the kernels of the whole process use no wider set than this one, for measurements.
    ///
    /// # Errors
    /// [`Error::BadRequest`](crate::Error::BadRequest) when another set is in use already: weights are laid out
    /// for one, and would be multiplied as if for another.
    pub fn limit(self) -> crate::error::Result<()> {
        let set = self.nearest();
        match USED.compare_exchange(u8::MAX, set as u8, Ordering::Relaxed, Ordering::Relaxed) {
            Err(used) if used != set as u8 => Err(crate::error::Error::bad_request(
                "cpu",
                self.name(),
                format!(
                    "the kernels of this process use {} already; choose before the first model is opened",
                    Self::used().name()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The widest set up to this one that this processor has.
    fn nearest(self) -> Self {
        let sets = Self::ALL.into_iter().rev();
        sets.filter(|set| *set <= self).find(|set| set.is_here()).unwrap_or(Self::Portable)
    }

    /// As [`limit`](Self::limit), again and again: tests know what is laid out for which set.
    #[cfg(test)]
    pub(in crate::kernels) fn set(self) {
        USED.store(self.nearest() as u8, Ordering::Relaxed);
    }
}

impl std::str::FromStr for Instructions {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> crate::error::Result<Self> {
        Self::ALL.into_iter().find(|set| set.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            crate::error::Error::bad_request("cpu", text, format!("expected one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit that came while products ran changed the kernels under them.
    #[test]
    fn the_set_is_chosen_once() {
        let _alone = crate::kernels::tests::SETTINGS.lock().unwrap();
        let used = Instructions::used();
        assert!(used.limit().is_ok());
        let mut others = Instructions::ALL.into_iter().filter(|set| set.is_here() && *set != used);
        if let Some(other) = others.next() {
            let error = other.limit().unwrap_err();
            assert!(error.to_string().contains("already"), "{error}");
            assert_eq!(Instructions::used(), used);
        }
    }
}
