//! The seams to the world: progress goes out, cancelling and adapters come in.

pub use crate::cancel::Cancel;

use super::warning::Warning;
use crate::error::Result;
use crate::picture::Picture;
use std::cell::RefCell;
use std::collections::BTreeSet;

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
    /// Something that whoever asked for the picture should know. Each is told once a plan.
    Warning {
        /// What it is; its `Display` is one line.
        warning: Warning,
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

/// Who is told of a request's work, and can stop it.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) observer: &'a dyn Observer,
    pub(super) cancel: &'a Cancel,
}

impl Watch<'_> {
    pub(super) fn tell(self, event: &Event) {
        self.observer.event(event);
    }

    pub(super) fn warn(self, warning: Warning) {
        self.tell(&Event::Warning { warning });
    }

    /// [`Error::Cancelled`](crate::Error::Cancelled) when stopping was asked for.
    pub(super) fn check(self) -> Result<()> {
        self.cancel.check()
    }
}

/// Passes each warning on once: the images of a plan give the same ones.
pub(super) struct Once<'a> {
    observer: &'a dyn Observer,
    said: RefCell<BTreeSet<String>>,
}

impl<'a> Once<'a> {
    pub(super) fn new(observer: &'a dyn Observer) -> Self {
        Self { observer, said: RefCell::default() }
    }
}

impl Observer for Once<'_> {
    fn event(&self, event: &Event) {
        if let Event::Warning { warning } = event
            && !self.said.borrow_mut().insert(warning.to_string())
        {
            return;
        }
        self.observer.event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_told_once() {
        let told = RefCell::new(Vec::new());
        let observer = |event: &Event| {
            told.borrow_mut().push(format!("{event:?}"));
        };
        let once = Once::new(&observer);
        let cancel = Cancel::new();
        let watch = Watch { observer: &once, cancel: &cancel };
        for text in ["a", "b", "a"] {
            watch.warn(Warning::Stack { text: text.into() });
            watch.tell(&Event::Encoding);
        }
        assert_eq!(told.borrow().len(), 5);
        assert!(watch.check().is_ok());
    }
}
