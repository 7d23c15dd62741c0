use super::decoder::Decoder;
use super::encoder::Encoder;
use super::*;
use crate::models::PerBlock;
use crate::weights::{Placement, Site, Weight};
use candle_core::{DType, Device};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// A source of zeros that remembers which sites were asked for.
#[derive(Debug, Default)]
struct Zeros(Mutex<BTreeSet<Site>>);

impl WeightSource for Zeros {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        self.0.lock().unwrap().insert(site.clone());
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        Ok(Weight::Dense(zero.broadcast_as(shape)?))
    }

    fn shape(&self, _: &Site) -> Option<Vec<usize>> {
        None
    }

    fn sites(&self) -> Vec<Site> {
        Vec::new()
    }

    fn placement(&self) -> &Placement {
        Placement::plain()
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        None
    }
}

/// The sites that building asks for.
fn asked(build: impl FnOnce(&Origin<'_>) -> Result<()>) -> BTreeSet<Site> {
    let zeros = Zeros::default();
    build(&Origin::staying(Scope::new(&zeros, Component::UNet))).unwrap();
    zeros.0.into_inner().unwrap()
}

#[test]
fn the_halves_share_no_weight_and_are_the_whole() {
    let kinds = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    let config = UNetConfig {
        block_out_channels: vec![32, 64],
        down_block_types: kinds(["CrossAttnDownBlock2D", "DownBlock2D"]),
        up_block_types: kinds(["UpBlock2D", "CrossAttnUpBlock2D"]),
        cross_attention_dim: PerBlock::All(32),
        ..UNetConfig::default()
    };
    let down = asked(|origin| Encoder::new(origin, &config).map(drop));
    let up = asked(|origin| Decoder::new(origin, &config).map(drop));
    let whole = asked(|origin| UNet::of(origin, &config).map(drop));
    assert!(down.is_disjoint(&up));
    assert_eq!(down.union(&up).cloned().collect::<BTreeSet<_>>(), whole);
    // A ControlNet's weights have the names of the first half.
    for site in &down {
        let of_it = ["conv_in.", "time_embedding.", "down_blocks.", "mid_block."];
        assert!(of_it.iter().any(|start| site.path().starts_with(start)), "{site}");
    }
}
