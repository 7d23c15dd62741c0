//! The averages that the original code keeps of a UNet's weights: their names have lost their dots.

/// Steps of the paths of a UNet's weights; what begins like another one comes after it.
const STEPS: [&str; 31] = [
    "transformer_blocks",
    "skip_connection",
    "output_blocks",
    "middle_block",
    "input_blocks",
    "emb_layers",
    "out_layers",
    "time_embed",
    "in_layers",
    "label_emb",
    "cond_proj",
    "proj_out",
    "proj_in",
    "weight",
    "to_out",
    "attn1",
    "attn2",
    "norm1",
    "norm2",
    "norm3",
    "to_k",
    "to_q",
    "to_v",
    "norm",
    "bias",
    "conv",
    "proj",
    "net",
    "out",
    "op",
    "ff",
];

/// The name with its dots: `input_blocks110op…` is ambiguous by itself, but places within a block, and in
/// the embedding of labels, have one digit. `None` for what is no weight of a UNet.
pub(super) fn dotted(flat: &str) -> Option<String> {
    let mut steps: Vec<&str> = Vec::new();
    let mut rest = flat;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (numbers, behind) = rest.split_at(digits);
        match (steps.last(), digits) {
            (_, 0) => {
                let step = STEPS.iter().find(|step| rest.starts_with(**step))?;
                steps.push(step);
                rest = &rest[step.len()..];
                continue;
            }
            (Some(&("input_blocks" | "output_blocks" | "label_emb")), 2..) => {
                let (block, place) = numbers.split_at(digits - 1);
                steps.extend([block, place]);
            }
            (Some(_), _) => steps.push(numbers),
            (None, _) => return None,
        }
        rest = behind;
    }
    matches!(steps.last(), Some(&("weight" | "bias"))).then(|| steps.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_come_back() {
        for name in [
            "input_blocks.0.0.weight",
            "input_blocks.11.0.in_layers.2.bias",
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
            "input_blocks.10.0.op.weight",
            "input_blocks.8.1.transformer_blocks.10.ff.net.0.proj.weight",
            "input_blocks.4.0.skip_connection.weight",
            "input_blocks.4.1.norm.weight",
            "input_blocks.4.1.proj_in.weight",
            "middle_block.1.transformer_blocks.9.norm3.bias",
            "middle_block.2.emb_layers.1.weight",
            "middle_block.0.out_layers.3.bias",
            "output_blocks.2.1.conv.bias",
            "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias",
            "output_blocks.3.1.transformer_blocks.0.ff.net.2.weight",
            "output_blocks.5.2.conv.weight",
            "output_blocks.5.1.proj_out.weight",
            "time_embed.0.weight",
            "time_embed.cond_proj.weight",
            "label_emb.0.2.bias",
            "out.0.bias",
            "out.2.weight",
        ] {
            assert_eq!(dotted(&name.replace('.', "")).as_deref(), Some(name));
        }
        for other in ["", "decay", "num_updates", "7weight", "input_blocks11", "weightx"] {
            assert_eq!(dotted(other), None, "{other}");
        }
    }
}
