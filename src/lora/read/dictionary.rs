//! The names of a base model's modules, in every spelling that adapter files use.
//!
//! Names are never converted back from underscores to dots. The dictionary generates all spellings
//! of every module that the base has, and looks keys up in them.

use crate::weights::names::{Part, UNetNames, open_clip_name};
use crate::weights::{Component, Site, WeightSource};
use std::collections::HashMap;

/// A module of the base, or some rows of what the adapter thinks is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::lora) struct Target {
    /// Canonical name without `.weight`.
    pub(in crate::lora) module: String,
    /// First row, and row behind the last, of the adapter's product that belong to this module;
    /// `None` for all.
    pub(in crate::lora) rows: Option<(usize, usize)>,
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lora) enum Unknown {
    /// The base has the component, but no such module.
    Module,
    /// The base has no such component (a second text encoder).
    Component,
    /// Several components have such a module, and the key does not name which.
    Ambiguous,
}

impl Unknown {
    /// The reason in words, behind a key.
    pub(in crate::lora) fn why(self) -> &'static str {
        match self {
            Unknown::Module => "the model has no such module",
            Unknown::Component => "the model has no such text encoder",
            Unknown::Ambiguous => "several parts of the model have such a module",
        }
    }
}

/// The part of the base that a prefix of a key means; which component that is depends on the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lora) enum Meaning {
    UNet,
    /// The only text encoder, or the first of two.
    Text,
    /// The first of two text encoders.
    Text1,
    Text2,
    Any,
}

/// Prefixes and the part of the base they mean; longer ones before those that begin them.
pub(in crate::lora) const PREFIXES: [(&str, Meaning); 39] = [
    ("lora_unet__", Meaning::UNet),
    ("lora_unet_", Meaning::UNet),
    ("lycoris_unet_", Meaning::UNet),
    ("oft_unet_", Meaning::UNet),
    ("lora_te1_", Meaning::Text1),
    ("lora_te2_", Meaning::Text2),
    ("lora_te_", Meaning::Text),
    ("lycoris_te1_", Meaning::Text1),
    ("lycoris_te2_", Meaning::Text2),
    ("lycoris_te_", Meaning::Text),
    ("oft_te1_", Meaning::Text1),
    ("oft_te2_", Meaning::Text2),
    ("oft_te_", Meaning::Text),
    ("lycoris_", Meaning::Any),
    // The original code's paths, flattened (NTC's sliders).
    ("diffusion_model_", Meaning::UNet),
    ("transformer_text_model_", Meaning::Text),
    ("0_transformer_", Meaning::Text1),
    ("1_model_", Meaning::Text2),
    ("model_", Meaning::Text),
    ("model.diffusion_model.", Meaning::UNet),
    ("diffusion_model.", Meaning::UNet),
    ("unet.", Meaning::UNet),
    ("text_encoders.clip_l.", Meaning::Text1),
    ("text_encoders.clip_g.", Meaning::Text2),
    ("text_encoders.clip_h.", Meaning::Text),
    ("text_encoder_2.", Meaning::Text2),
    ("text_encoder.", Meaning::Text),
    ("clip_l.", Meaning::Text1),
    ("clip_g.", Meaning::Text2),
    ("clip_h.", Meaning::Text),
    ("te1.", Meaning::Text1),
    ("te2.", Meaning::Text2),
    ("te.", Meaning::Text),
    ("cond_stage_model.", Meaning::Text),
    ("conditioner.embedders.0.", Meaning::Text1),
    ("conditioner.embedders.1.", Meaning::Text2),
    ("base_model.model.unet.", Meaning::UNet),
    ("base_model.model.text_encoder.", Meaning::Text),
    ("base_model.model.", Meaning::Any),
];

/// Wrappers that may stand between a prefix and the module's own name.
const WRAPPERS: [&str; 3] = ["base_model.model.", "transformer.", "model."];

/// Every spelling of every module of one base.
#[derive(Debug, Clone)]
pub struct Dictionary {
    /// Component and spelling without separators → modules.
    spellings: HashMap<(Component, String), Vec<Target>>,
    components: Vec<Component>,
    /// Shapes of weights and biases, by site.
    shapes: HashMap<String, Vec<usize>>,
    names: UNetNames,
    modules: Vec<String>,
    /// The family in words.
    family: String,
    /// Width of the text features that the UNet listens to.
    context: Option<usize>,
}

impl Dictionary {
    /// The dictionary of a base; `family` is what messages call it.
    pub fn new(base: &dyn WeightSource, family: impl Into<String>) -> Self {
        let sites = base.sites();
        let unet = sites.iter().filter(|site| site.component() == Component::UNet);
        let names = UNetNames::from_diffusers(unet.map(Site::path));
        let mut dictionary = Dictionary {
            spellings: HashMap::new(),
            components: Vec::new(),
            shapes: HashMap::new(),
            names: names.unwrap_or_else(|| UNetNames::new(Vec::new(), Vec::new())),
            modules: Vec::new(),
            family: family.into(),
            context: None,
        };
        for site in &sites {
            dictionary.add(site, base);
        }
        dictionary
    }

    fn add(&mut self, site: &Site, base: &dyn WeightSource) {
        let component = site.component();
        if component != Component::UNet && !component.is_text() {
            return;
        }
        let Some((module, parameter)) = site.as_str().rsplit_once('.') else { return };
        let shape = base.shape(site).unwrap_or_default();
        if parameter == "weight" && module.ends_with(".attn2.to_k") && component == Component::UNet
        {
            self.context = self.context.or(shape.get(1).copied());
        }
        self.shapes.insert(site.as_str().to_owned(), shape.clone());
        if parameter != "weight" {
            return;
        }
        if !self.components.contains(&component) {
            self.components.push(component);
        }
        self.modules.push(module.to_owned());
        let (_, inner) = Component::split(module);
        for (spelling, rows) in self.spellings_of(component, inner, &shape) {
            let target = Target { module: module.to_owned(), rows };
            let known = self.spellings.entry((component, compact(&spelling))).or_default();
            if !known.contains(&target) {
                known.push(target);
            }
        }
    }

    /// Every way to write `inner`, and the rows that it has in a fused module.
    fn spellings_of(
        &self,
        component: Component,
        inner: &str,
        shape: &[usize],
    ) -> Vec<(String, Option<(usize, usize)>)> {
        let mut all = vec![(inner.to_owned(), None)];
        if component == Component::UNet {
            all.extend(self.names.to_ldm(inner).map(|ldm| (ldm, None)));
            let short =
                |name: &String| name.strip_suffix(".to_out.0").map(|s| format!("{s}.to_out"));
            let shorts: Vec<String> = all.iter().filter_map(|(name, _)| short(name)).collect();
            all.extend(shorts.into_iter().map(|name| (name, None)));
            return all;
        }
        // Old diffusers files call the projections of CLIP as those of the UNet.
        for (ours, theirs) in
            [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")]
        {
            let module = inner.strip_suffix(ours).filter(|module| module.ends_with("self_attn."));
            all.extend(module.map(|module| (format!("{module}{theirs}"), None)));
        }
        let bare: Vec<String> = all
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("text_model.").map(str::to_owned))
            .collect();
        all.extend(bare.into_iter().map(|name| (name, None)));
        let width = shape.first().copied().unwrap_or(0);
        match open_clip_name(inner, width) {
            Some((name, Part::Whole)) => all.push((name, None)),
            Some((name, Part::Rows { start, len })) => all.push((name, Some((start, start + len)))),
            _ => {}
        }
        all
    }

    /// The parts of the base that a prefix may mean.
    pub(in crate::lora) fn meant(&self, meaning: Meaning) -> Vec<Component> {
        match meaning {
            Meaning::UNet => vec![Component::UNet],
            Meaning::Text | Meaning::Text1 if !self.has_component(Component::TextEncoder) => {
                vec![Component::TextEncoder2]
            }
            Meaning::Text | Meaning::Text1 => vec![Component::TextEncoder],
            Meaning::Text2 => vec![Component::TextEncoder2],
            Meaning::Any => self.components.clone(),
        }
    }

    /// The modules of a part of the base that are called `rest`.
    pub(in crate::lora) fn modules_of(
        &self,
        meaning: Meaning,
        rest: &str,
    ) -> Result<Vec<Target>, Unknown> {
        let candidates = self.meant(meaning);
        if !candidates.iter().any(|component| self.has_component(*component)) {
            return Err(Unknown::Component);
        }
        let mut found = candidates.iter().filter_map(|component| self.find(*component, rest));
        match (found.next(), found.next()) {
            (None, _) => Err(Unknown::Module),
            (Some(targets), None) => Ok(targets),
            (Some(_), Some(_)) => Err(Unknown::Ambiguous),
        }
    }

    /// Whether some module's spelling, without separators, begins with `start`.
    pub(in crate::lora) fn begins(&self, meaning: Meaning, start: &str) -> bool {
        let (candidates, start) = (self.meant(meaning), compact(start));
        let begins = |(part, spelling): &(Component, String)| {
            candidates.contains(part) && spelling.starts_with(&start)
        };
        self.spellings.keys().any(begins)
    }

    fn find(&self, component: Component, name: &str) -> Option<Vec<Target>> {
        if let Some(targets) = self.spellings.get(&(component, compact(name))) {
            // Two whole modules under one spelling cannot be distinguished.
            let unique = targets.len() == 1 || targets.iter().all(|t| t.rows.is_some());
            return unique.then(|| targets.clone());
        }
        WRAPPERS.iter().find_map(|wrapper| self.find(component, name.strip_prefix(wrapper)?))
    }

    /// Shape of a weight or bias, by site.
    pub(in crate::lora) fn shape(&self, site: &str) -> Option<&[usize]> {
        self.shapes.get(site).map(Vec::as_slice)
    }

    /// All modules, canonical names without `.weight`, in the order of the base.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// The layout of the UNet's names.
    pub fn names(&self) -> &UNetNames {
        &self.names
    }

    /// The name of the base in messages.
    pub fn family(&self) -> &str {
        &self.family
    }

    /// Width of the text features that the UNet listens to; `None` without cross-attention.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// Whether the base has this component.
    pub fn has_component(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    /// Whether an attention of the UNet has more than one transformer block (SDXL).
    pub(in crate::lora) fn deep(&self) -> bool {
        self.modules.iter().any(|module| module.contains(".transformer_blocks.1."))
    }
}

/// The spelling without separators and case, which is unique in every known base.
fn compact(name: &str) -> String {
    name.chars().filter(|c| *c != '.' && *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether a stem calls the text encoder as a base with only one has it.
pub(in crate::lora) fn is_only_encoder(stem: &str) -> bool {
    ["lora_te_", "lycoris_te_", "oft_te_"].iter().any(|prefix| stem.starts_with(prefix))
}
