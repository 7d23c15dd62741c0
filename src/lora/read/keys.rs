//! From the key of an adapter file to the module's name and the tensor's part in it.
//!
//! Every grammar that people use ends a key with one of a few words; what stands before them is the
//! module's name in some spelling, which the [`Dictionary`](crate::lora::Dictionary) resolves.

/// The part that a tensor plays in its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::lora) enum Role {
    Down,
    Up,
    Mid,
    UpBias,
    Alpha,
    Scale,
    /// LyCORIS' and kohya's DoRA magnitude; its shape determines along which axis.
    DoraScale,
    /// The norms of the weights that the magnitudes beside rotations belong to.
    InitialNorm,
    /// PEFT's DoRA magnitude: always one number an output.
    Magnitude,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    HadaT1,
    HadaT2,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    GloraA1,
    GloraA2,
    GloraB1,
    GloraB2,
    GloraBm,
    OftBlocks,
    OftRescale,
    OftDiag,
    OftR,
    /// The mark of vectors that are divided by a number that follows from their length.
    OftScaled,
    BoftR,
    BoftS,
    OnInput,
    Ia3,
    Diff,
    DiffBias,
    NormWeight,
    NormBias,
    SetWeight,
    SetBias,
    /// AdaLoRA's singular values.
    Singular,
    /// Rows of a table of tokens (PEFT).
    Tokens,
    Reshape,
    SparseIndices,
    SparseValues,
    SparseSize,
    TLora,
    EmbeddingA,
    EmbeddingB,
    /// A plain weight: IA3's vector beside `on_input`, otherwise a checkpoint's.
    Weight,
}

/// The words for a role, with that role and whether an adapter's name may follow (PEFT).
const WORDS: [(&str, Role, bool); 54] = [
    ("lora_down", Role::Down, false),
    ("lora_up", Role::Up, false),
    ("lora_mid", Role::Mid, false),
    ("lora_A", Role::Down, true),
    ("lora_B", Role::Up, true),
    ("lora_embedding_A", Role::EmbeddingA, true),
    ("lora_embedding_B", Role::EmbeddingB, true),
    ("lora_E", Role::Singular, true),
    ("lora_magnitude_vector", Role::Magnitude, true),
    ("alpha", Role::Alpha, false),
    ("scale", Role::Scale, false),
    ("dora_scale", Role::DoraScale, false),
    ("initial_norm", Role::InitialNorm, false),
    ("hada_w1_a", Role::HadaW1A, true),
    ("hada_w1_b", Role::HadaW1B, true),
    ("hada_w2_a", Role::HadaW2A, true),
    ("hada_w2_b", Role::HadaW2B, true),
    ("hada_t1", Role::HadaT1, true),
    ("hada_t2", Role::HadaT2, true),
    ("lokr_w1", Role::LokrW1, true),
    ("lokr_w1_a", Role::LokrW1A, true),
    ("lokr_w1_b", Role::LokrW1B, true),
    ("lokr_w2", Role::LokrW2, true),
    ("lokr_w2_a", Role::LokrW2A, true),
    ("lokr_w2_b", Role::LokrW2B, true),
    ("lokr_t2", Role::LokrT2, true),
    ("a1", Role::GloraA1, false),
    ("a2", Role::GloraA2, false),
    ("b1", Role::GloraB1, false),
    ("b2", Role::GloraB2, false),
    ("bm", Role::GloraBm, false),
    ("oft_blocks", Role::OftBlocks, false),
    ("rescale", Role::OftRescale, false),
    ("oft_diag", Role::OftDiag, false),
    ("oft_R", Role::OftR, true),
    ("scaled_oft", Role::OftScaled, false),
    ("boft_R", Role::BoftR, true),
    ("boft_s", Role::BoftS, true),
    ("on_input", Role::OnInput, false),
    ("ia3_l", Role::Ia3, true),
    ("diff", Role::Diff, false),
    ("diff_b", Role::DiffBias, false),
    ("w_norm", Role::NormWeight, false),
    ("b_norm", Role::NormBias, false),
    ("set_weight", Role::SetWeight, false),
    ("reshape_weight", Role::Reshape, false),
    ("bias_indices", Role::SparseIndices, false),
    ("bias_values", Role::SparseValues, false),
    ("bias_size", Role::SparseSize, false),
    ("lambda_layer", Role::TLora, false),
    ("p_layer", Role::TLora, false),
    ("q_layer", Role::TLora, false),
    ("trainable_tokens_delta", Role::Tokens, true),
    ("weight", Role::Weight, false),
];

impl Role {
    /// The word by which messages name the role.
    pub(in crate::lora) fn word(self) -> &'static str {
        match self {
            Role::UpBias => "lora_up.bias",
            Role::SetBias => "bias",
            _ => WORDS.iter().find(|(_, role, _)| *role == self).map_or("?", |(word, ..)| word),
        }
    }

    /// Whether its numbers may be whole: counts, marks, places, and single numbers that trainers keep as they
    /// were given.
    pub(in crate::lora) fn may_be_whole(self) -> bool {
        let counted = [Role::SparseIndices, Role::SparseSize, Role::Reshape];
        let single = [Role::Alpha, Role::Scale, Role::OnInput, Role::OftScaled];
        counted.contains(&self) || single.contains(&self)
    }
}

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::lora) struct Key {
    /// The module's name, in whatever spelling.
    pub(in crate::lora) stem: String,
    pub(in crate::lora) role: Role,
    /// Whether this is no tensor of the role but the number that multiplies it (fp8).
    pub(in crate::lora) gain: bool,
}

/// Takes a key apart; `None` for a key that no adapter has.
pub(in crate::lora) fn split(key: &str) -> Option<Key> {
    let parts: Vec<&str> = key.split('.').collect();
    // The longest ending counts: `lora_A.default.weight` before `weight`.
    let first = parts.len().saturating_sub(3).max(1);
    (first..parts.len()).find_map(|at| {
        let (role, gain, stem) = ending(&parts[..at], parts[at], &parts[at + 1..])?;
        let (stem, role) = parameter(tidy(&stem), role);
        (!stem.is_empty() && !stem.starts_with('.')).then_some(Key { stem, role, gain })
    })
}

/// Role and stem when `word` followed by `tail` ends a key.
fn ending(before: &[&str], word: &str, tail: &[&str]) -> Option<(Role, bool, String)> {
    if let Some((role, stem)) = old_factor(before, word) {
        let (role, gain) = tailed(role, tail, false)?;
        return Some((role, gain, stem));
    }
    let (_, role, named) = WORDS.iter().find(|(known, ..)| *known == word)?;
    let (role, gain) = tailed(*role, tail, *named)?;
    Some((role, gain, before.join(".")))
}

/// `to_q_lora.up`, `to_q.lora.up` and `q_proj.lora_linear_layer.up`: role and stem.
fn old_factor(before: &[&str], word: &str) -> Option<(Role, String)> {
    let role = match word {
        "up" => Role::Up,
        "down" => Role::Down,
        _ => return None,
    };
    let (last, rest) = before.split_last()?;
    if ["lora", "lora_linear_layer"].contains(last) {
        return Some((role, rest.join(".")));
    }
    let module = last.strip_suffix("_lora")?;
    Some((role, rest.iter().chain([&module]).copied().collect::<Vec<_>>().join(".")))
}

/// What may follow a word: nothing, `weight`, `bias`, an adapter's name, or the name of an fp8 scale.
fn tailed(role: Role, tail: &[&str], named: bool) -> Option<(Role, bool)> {
    match tail {
        [] | ["weight"] => Some((role, false)),
        ["scale_weight" | "weight_scale"] => Some((role, true)),
        ["bias"] | [_, "bias"] if role == Role::Up => Some((Role::UpBias, false)),
        ["scaled_oft"] | [_, "scaled_oft"] if role == Role::OftR => Some((Role::OftScaled, false)),
        // Other marks of the same trainer, which change the law of the rotation, are no names of adapters.
        [mark] | [_, mark] if role == Role::OftR && mark.ends_with("_oft") => None,
        [name] | [name, "weight"] if named && *name != "bias" => Some((role, false)),
        _ => None,
    }
}

/// Leaves out path elements that name no module.
fn tidy(stem: &str) -> String {
    let stem = stem.replace(".___.layer", "").replace(".___", "");
    let unnamed = ["processor", "token_adapter"];
    let parts: Vec<&str> = stem.split('.').filter(|part| !unnamed.contains(part)).collect();
    parts.join(".")
}

/// A parameter that is addressed by its full name: `conv.bias.diff` is the bias of `conv`.
fn parameter(stem: String, role: Role) -> (String, Role) {
    let of_bias = match role {
        Role::Diff => Role::DiffBias,
        Role::SetWeight => Role::SetBias,
        _ => return (stem, role),
    };
    match stem.rsplit_once('.') {
        Some((module, "bias")) => (module.to_owned(), of_bias),
        Some((module, "weight")) => (module.to_owned(), role),
        _ => (stem, role),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_of_every_grammar() {
        for (key, stem, role) in [
            ("lora_unet_a_b.lora_down.weight", "lora_unet_a_b", Role::Down),
            ("unet.a.to_q.lora_A.default_0.weight", "unet.a.to_q", Role::Down),
            ("unet.a.to_q.lora_B", "unet.a.to_q", Role::Up),
            ("unet.a.to_q.lora_B.bias", "unet.a.to_q", Role::UpBias),
            ("unet.a.to_q.lora.up.bias", "unet.a.to_q", Role::UpBias),
            ("a.attn1.processor.to_q_lora.down.weight", "a.attn1.to_q", Role::Down),
            ("a.q_proj.lora_linear_layer.up.weight", "a.q_proj", Role::Up),
            ("a.to_q.lora_magnitude_vector.default.weight", "a.to_q", Role::Magnitude),
            ("a.to_q.___.layer.lora_up.weight", "a.to_q", Role::Up),
            ("a.hada_w1_a", "a", Role::HadaW1A),
            ("a.oft_R.weight", "a", Role::OftR),
            ("a.oft_R.default.weight", "a", Role::OftR),
            ("a.oft_R.scaled_oft", "a", Role::OftScaled),
            ("a.conv.bias.diff", "a.conv", Role::DiffBias),
            ("a.conv.bias.set_weight", "a.conv", Role::SetBias),
            ("a.to_q.lora_E", "a.to_q", Role::Singular),
            ("a.emb.token_adapter.trainable_tokens_delta", "a.emb", Role::Tokens),
            ("a.weight", "a", Role::Weight),
        ] {
            assert_eq!(split(key), Some(Key { stem: stem.into(), role, gain: false }), "{key}");
        }
        assert!(split("a.lora_down.scale_weight").is_some_and(|key| key.gain));
        for key in [
            "",
            "weight",
            "a",
            ".lora_up.weight",
            "a.lora_down.weight.more.still",
            "a.up",
            "a.oft_R.cans_oft",
        ] {
            assert_eq!(split(key), None, "{key}");
        }
    }

    #[test]
    fn every_role_has_its_word() {
        for (word, role, _) in WORDS {
            let shared = [Role::Down, Role::Up, Role::TLora].contains(&role);
            assert!(shared || role.word() == word);
        }
    }
}
