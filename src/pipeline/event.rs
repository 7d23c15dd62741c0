//! Floor 5. The seams to the world: progress goes out, cancelling and adapters come in.

pub use crate::cancel::Cancel;

use crate::picture::Picture;

/// What happens while a picture is made. More events may come: match with a wildcard.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A component is being read and built.
    Loading {
        /// `text encoder`, `UNet` or `VAE`.
        component: &'static str,
    },
    /// The prompt is being encoded.
    Encoding,
    /// Sampling begins.
    Sampling {
        /// Which image of the request, from 0.
        image: usize,
        /// Steps of this image.
        steps: usize,
    },
    /// A sampling step is done.
    Step {
        /// Which image of the request, from 0.
        image: usize,
        /// Step just done, from 1.
        step: usize,
        /// Steps of this image.
        steps: usize,
        /// Noise level after the step.
        sigma: f64,
        /// A look at the estimate, when previews were asked for.
        preview: Option<Picture>,
    },
    /// Latents are being decoded.
    Decoding {
        /// Which image of the request, from 0.
        image: usize,
        /// Tile at work, from 0; of 1 when not tiled.
        tile: usize,
        /// Tiles in all.
        tiles: usize,
    },
}

/// Receives events. Called on the thread that generates: return soon.
pub trait Observer {
    /// `event` just happened or begins.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event)> Observer for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}
