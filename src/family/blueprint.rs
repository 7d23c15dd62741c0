//! The standard models without their weights: names and shapes of everything they hold.
//!
//! An adapter file names modules of its base; with a blueprint it can be looked into, and converted,
//! where no model is at hand. The networks themselves list what they need.

use super::Family;
use crate::error::{Error, Result};
use crate::models::{ClipTower, UNet};
use crate::weights::{Component, Placement, Scope, Site, Weight, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Names and shapes of a standard model; every weight is zero and takes no memory.
#[derive(Debug)]
pub struct Blueprint {
    shapes: BTreeMap<Site, Vec<usize>>,
}

/// Answers every question with zeros and writes it down.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    asked: Mutex<BTreeMap<Site, Vec<usize>>>,
}

impl Blueprint {
    /// The standard model of a family: SD 1.5, SD 2.1, SDXL base or its refiner.
    ///
    /// # Errors
    /// Never, as long as the networks can be built from their standard configs.
    pub fn of(family: Family) -> Result<Self> {
        let shapes = Self::asked(|recorder| {
            UNet::new(&Scope::new(recorder, Component::UNet), &(family.spec().unet)())?;
            for tower in family.spec().towers {
                ClipTower::new(&Scope::new(recorder, tower.component), &tower.config())?;
            }
            Ok(())
        })?;
        Ok(Self { shapes })
    }

    /// What networks ask for while `build` builds them; nothing that they can do without.
    pub(super) fn asked(
        build: impl FnOnce(&Recorder) -> Result<()>,
    ) -> Result<BTreeMap<Site, Vec<usize>>> {
        let recorder = Recorder::default();
        build(&recorder)?;
        Ok(recorder.asked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Zeros of any shape that share one number.
fn zeros(shape: &[usize]) -> Result<Weight> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    Ok(Weight::Dense(zero.broadcast_as(shape)?))
}

impl WeightSource for Recorder {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(site.clone(), shape.to_vec());
        zeros(shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        // Of optional parameters only the projection of a tower exists; its shape is asked for next.
        site.as_str().ends_with("text_projection.weight").then(Vec::new)
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

impl WeightSource for Blueprint {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        match self.shapes.get(site) {
            Some(_) => zeros(shape),
            None => Err(Error::TensorMissing {
                site: site.to_string(),
                file: "the standard model".to_owned(),
            }),
        }
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.shapes.get(site).cloned()
    }

    fn sites(&self) -> Vec<Site> {
        self.shapes.keys().cloned().collect()
    }

    fn placement(&self) -> &Placement {
        Placement::plain()
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_models_hold_what_they_should() {
        // Linear and convolution modules of the UNet, and of each tower.
        for (family, unet, towers) in [
            (Family::Sd1, 282, [72, 0]),
            (Family::Sd2, 282, [138, 0]),
            (Family::Sdxl, 794, [72, 193]),
        ] {
            let blueprint = Blueprint::of(family).unwrap();
            let count = |component| {
                let counted = blueprint.shapes.iter().filter(|(site, shape)| {
                    site.component() == component
                        && shape.len() > 1
                        && site.as_str().ends_with(".weight")
                        && !site.as_str().contains("embedding.weight")
                });
                counted.count()
            };
            assert_eq!(count(Component::UNet), unet, "{family}");
            let found = [Component::TextEncoder, Component::TextEncoder2].map(count);
            assert_eq!(found, towers, "{family}");
        }
        assert!(Blueprint::of(Family::SdxlRefiner).is_ok());
    }
}
