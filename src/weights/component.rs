//! The networks that a model is made of.

use std::fmt;

/// One network of a model, by its role.
///
/// Names of weights ([`Site`](super::Site)) and of modules begin with the [name](Self::name) of their component,
/// which is also its folder in the diffusers layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Component {
    /// The only text encoder, or the first of two.
    TextEncoder,
    /// The second text encoder (SDXL).
    TextEncoder2,
    /// The network that predicts the noise.
    UNet,
    /// The autoencoder between pixels and latents.
    Vae,
    /// A network that is not built; its weights are only carried along.
    Other,
}

/// The components that are built and their names, in name order: the only place where these names are written.
const NAMES: [(Component, &str); 4] = [
    (Component::TextEncoder, "text_encoder"),
    (Component::TextEncoder2, "text_encoder_2"),
    (Component::UNet, "unet"),
    (Component::Vae, "vae"),
];

impl Component {
    /// Every component that is built, in name order.
    pub const ALL: [Self; 4] = [Self::TextEncoder, Self::TextEncoder2, Self::UNet, Self::Vae];

    /// The component's folder in the diffusers layout, which its weights' names begin with.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == self).map_or("other", |(_, name)| name)
    }

    /// The component whose [name](Self::name) is `name`.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(component, _)| *component)
    }

    /// The component of a weight or module by its canonical name, e.g. `unet.conv_in.weight`;
    /// [`Other`](Self::Other) for names that begin with no component.
    pub fn of(canonical: &str) -> Self {
        let first = canonical.split_once('.').map_or(canonical, |(first, _)| first);
        Self::named(first).unwrap_or(Self::Other)
    }

    /// Component and the path inside it of a canonical name.
    pub fn split(canonical: &str) -> (Self, &str) {
        let path = canonical.split_once('.').map_or("", |(_, path)| path);
        (Self::of(canonical), path)
    }

    /// The canonical name of the weight or module `path` of this component.
    pub fn path(self, path: impl fmt::Display) -> String {
        format!("{}.{path}", self.name())
    }

    /// Whether this is a text encoder.
    pub fn is_text(self) -> bool {
        matches!(self, Self::TextEncoder | Self::TextEncoder2)
    }

    /// The folder of a text encoder's vocabulary in the diffusers layout.
    pub fn tokenizer(self) -> &'static str {
        match self {
            Self::TextEncoder2 => "tokenizer_2",
            _ => "tokenizer",
        }
    }
}

impl AsRef<str> for Component {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_components_and_back() {
        assert_eq!(Component::ALL, NAMES.map(|(component, _)| component));
        let names = Component::ALL.map(Component::name);
        assert!(names.is_sorted(), "reports list components in name order");
        for component in Component::ALL {
            assert_eq!(Component::named(component.name()), Some(component));
            assert_eq!(Component::of(&component.path("a.weight")), component);
            assert_eq!(Component::of(component.name()), component);
        }
        assert_eq!(Component::split("unet.a.b"), (Component::UNet, "a.b"));
        assert_eq!(Component::split("unet"), (Component::UNet, ""));
        // Whole names alone count.
        for other in ["", "unet_2.a", "une.a", "text_encoder_3.a", "other.a", "vae_a"] {
            assert_eq!(Component::of(other), Component::Other, "{other}");
        }
    }
}
