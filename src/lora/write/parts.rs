//! The tensors of a change with the words by which kohya's grammar ends their keys.

use crate::lora::delta::{Delta, Glora, Hada, Half, Kron, LowRank, Rotation, Side};
use crate::lora::factor::Factor;

/// A tensor and the end of its key.
pub(super) type Part<'a> = (&'static str, &'a Factor);

/// All tensors of a change but alpha, magnitudes and numbers that are no tensors of the source;
/// `None` for a kind that only PEFT's grammar can hold.
pub(super) fn parts(delta: &Delta) -> Option<Vec<Part<'_>>> {
    Some(match delta {
        Delta::LowRank(low) => low_rank(low),
        Delta::Hada(hada) => hadamard(hada),
        Delta::Kron(kron) => kronecker(kron),
        Delta::Glora(glora) => generalised(glora),
        Delta::Ia3(ia3) if ia3.neutral == 0.0 => vec![("weight", &ia3.vector)],
        Delta::Rotation(Rotation::Rows { blocks, rescale, .. }) => [("oft_blocks", blocks)]
            .into_iter()
            .chain(rescale.iter().map(|r| ("rescale", r)))
            .collect(),
        Delta::Full(factor) => vec![("diff", factor)],
        Delta::Set(factor) => vec![("set_weight", factor)],
        Delta::Magnitude => Vec::new(),
        Delta::Ia3(_) | Delta::Rotation(_) | Delta::Table { .. } | Delta::Rows { .. } => {
            return None;
        }
    })
}

fn low_rank(low: &LowRank) -> Vec<Part<'_>> {
    let mut parts = vec![("lora_down.weight", &low.down), ("lora_up.weight", &low.up)];
    parts.extend(low.mid.iter().map(|mid| ("lora_mid.weight", mid)));
    if let Some(sparse) = &low.sparse {
        parts.extend([("bias_indices", &sparse.indices), ("bias_values", &sparse.values)]);
    }
    parts
}

fn hadamard(hada: &Hada) -> Vec<Part<'_>> {
    fn half<'a>(half: &'a Half, [a, b, core]: [&'static str; 3]) -> Vec<Part<'a>> {
        let core = half.core.iter().map(|t| (core, t));
        [(a, &half.a), (b, &half.b)].into_iter().chain(core).collect()
    }
    let mut parts = half(&hada.first, ["hada_w1_a", "hada_w1_b", "hada_t1"]);
    parts.extend(half(&hada.second, ["hada_w2_a", "hada_w2_b", "hada_t2"]));
    parts
}

fn kronecker(kron: &Kron) -> Vec<Part<'_>> {
    fn side<'a>(side: &'a Side, [whole, a, b, core]: [&'static str; 4]) -> Vec<Part<'a>> {
        match side {
            Side::Whole(factor) => vec![(whole, factor)],
            Side::Product { a: left, b: right } => vec![(a, left), (b, right)],
            Side::Tucker { a: left, b: right, core: t } => vec![(a, left), (b, right), (core, t)],
        }
    }
    let mut parts = side(&kron.left, ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1"]);
    parts.extend(side(&kron.right, ["lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"]));
    parts
}

fn generalised(glora: &Glora) -> Vec<Part<'_>> {
    let mut parts = vec![
        ("a1.weight", &glora.a1),
        ("a2.weight", &glora.a2),
        ("b1.weight", &glora.b1),
        ("b2.weight", &glora.b2),
    ];
    parts.extend(glora.core.iter().map(|core| ("bm.weight", core)));
    parts
}
