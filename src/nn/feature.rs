//! The activations of the image networks: feature maps and tokens.

use crate::error::Result;
use crate::kernels::FeatureMap;
use crate::weights::Products;
use candle_core::{DType, Tensor};

/// Feature maps or tokens, in the form in which the network's layers work. Cloning shares.
#[derive(Debug, Clone)]
pub struct Feature(pub(super) Form);

#[derive(Debug, Clone)]
pub(super) enum Form {
    /// Images `[B, H, W, C]`, tokens `[B, N, C]`, contiguous.
    Plain(Tensor),
    /// On the CPU. Several maps stand for one with the channels of all.
    Maps(Vec<FeatureMap>),
}

impl Feature {
    /// Images `[B, C, H, W]` for layers that multiply in this way.
    ///
    /// # Errors
    /// For a tensor of another rank.
    pub fn image(x: &Tensor, products: Products) -> Result<Self> {
        Ok(Self(match products {
            Products::Plain => Form::Plain(x.permute((0, 2, 3, 1))?.contiguous()?),
            Products::Packed(_) => {
                Form::Maps(vec![FeatureMap::from_image(&x.to_dtype(DType::F32)?)?])
            }
        }))
    }

    /// Tokens `[B, N, C]` for layers that multiply in this way.
    ///
    /// # Errors
    /// For a tensor of another rank.
    pub fn tokens(x: &Tensor, products: Products) -> Result<Self> {
        x.dims3()?;
        Ok(Self(match products {
            Products::Plain => Form::Plain(x.contiguous()?),
            Products::Packed(_) => {
                Form::Maps(vec![FeatureMap::from_tokens(&x.to_dtype(DType::F32)?)?])
            }
        }))
    }

    /// The images as a tensor `[B, C, H, W]`.
    pub fn to_image(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Plain(x) => Ok(x.permute((0, 3, 1, 2))?.contiguous()?),
            Form::Maps(maps) => FeatureMap::joined(maps)?.to_image(),
        }
    }

    /// The tokens as a tensor `[B, N, C]`.
    pub fn to_tokens(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Plain(x) => Ok(x.clone()),
            Form::Maps(maps) => FeatureMap::joined(maps)?.to_tokens(),
        }
    }

    /// Height and width of images.
    pub fn sides(&self) -> Result<(usize, usize)> {
        match &self.0 {
            Form::Plain(x) => {
                let (_, height, width, _) = x.dims4()?;
                Ok((height, width))
            }
            Form::Maps(maps) => Ok((maps[0].height, maps[0].width)),
        }
    }

    /// Images whose channels are these and behind them those of `other`.
    pub fn concat_channels(&self, other: &Self) -> Result<Self> {
        Ok(Self(match (&self.0, &other.0) {
            (Form::Maps(a), Form::Maps(b)) => Form::Maps([a.as_slice(), b].concat()),
            _ => Form::Plain(Tensor::cat(&[self.plain()?, other.plain()?], 3)?),
        }))
    }

    /// Images as tokens, row by row.
    pub fn into_tokens(self) -> Result<Self> {
        Ok(Self(match self.0 {
            Form::Plain(x) => Form::Plain(x.flatten(1, 2)?),
            maps @ Form::Maps(_) => maps,
        }))
    }

    /// Tokens as images of this size.
    pub fn into_image(self, (height, width): (usize, usize)) -> Result<Self> {
        Ok(Self(match self.0 {
            Form::Plain(x) => {
                let (batch, _, channels) = x.dims3()?;
                Form::Plain(x.reshape((batch, height, width, channels))?)
            }
            Form::Maps(maps) => {
                Form::Maps(maps.iter().map(|map| map.arranged(height, width)).collect())
            }
        }))
    }

    /// The larger of every number and 0.
    pub fn relu(&self) -> Result<Self> {
        Ok(Self(match &self.0 {
            Form::Plain(x) => Form::Plain(x.relu()?),
            Form::Maps(maps) => {
                let positive = |map: &FeatureMap| map.mapped(|v| v.max(0.0));
                Form::Maps(maps.iter().map(positive).collect::<Result<_>>()?)
            }
        }))
    }

    /// The sum of two of the same shape.
    pub fn add(&self, other: &Self) -> Result<Self> {
        Ok(Self(match (&self.0, &other.0) {
            (Form::Maps(a), Form::Maps(b)) => {
                Form::Maps(vec![FeatureMap::joined(a)?.add(&FeatureMap::joined(b)?)?])
            }
            _ => Form::Plain((self.plain()? + other.plain()?)?),
        }))
    }

    pub(super) fn of_map(map: FeatureMap) -> Self {
        Self(Form::Maps(vec![map]))
    }

    /// The tensor of layers that multiply plainly.
    pub(super) fn plain(&self) -> Result<&Tensor> {
        match &self.0 {
            Form::Plain(x) => Ok(x),
            Form::Maps(_) => Err(mixed()),
        }
    }

    /// The maps of layers with packed weights.
    pub(super) fn maps(&self) -> Result<&[FeatureMap]> {
        match &self.0 {
            Form::Maps(maps) => Ok(maps),
            Form::Plain(_) => Err(mixed()),
        }
    }

    /// The only map of something that was never put beside another.
    pub(super) fn map(&self) -> Result<FeatureMap> {
        FeatureMap::joined(self.maps()?)
    }
}

fn mixed() -> crate::error::Error {
    crate::error::Error::Internal("features of one kind reached layers of the other".into())
}
