//! What a record of another program says.

use crate::app::named_hash::NamedHash;
use crate::app::record::labels::Layout;
use crate::lora::LoraRef;
use crate::picture::Parameters;
use crate::prompt::PromptSyntax;

/// What a record of another program says, in A1111's words where it has some.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::app::record) struct Told {
    /// The program that wrote it.
    pub(in crate::app::record) program: &'static str,
    /// How it was written.
    pub(in crate::app::record) layout: Layout,
    /// The syntax of its prompts.
    pub(in crate::app::record) syntax: PromptSyntax,
    /// Its prompts and settings.
    pub(in crate::app::record) parameters: Parameters,
    /// Its LoRAs, but for those in tags of the prompt.
    pub(in crate::app::record) loras: Vec<LoraRef>,
    /// The hashes of files that it names.
    pub(in crate::app::record) hashes: Vec<NamedHash>,
    /// What changes the picture and is not followed, beside settings.
    pub(in crate::app::record) ignored: Vec<String>,
}

/// Why settings in JSON are not read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::app::record) enum Refusal {
    /// They are of a program that is not known, which is described.
    Program(String),
    /// They are no JSON after all.
    Broken(String),
}

impl Told {
    /// Nothing yet, of a program that writes JSON.
    pub(super) fn json(program: &'static str, syntax: PromptSyntax) -> Self {
        Self {
            program,
            layout: Layout::Json,
            syntax,
            parameters: Parameters::default(),
            loras: Vec::new(),
            hashes: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// Adds a LoRA with the weights of UNet and text encoders; one that has none is left out, and a name that no
    /// request can hold is named as not followed.
    pub(super) fn lora(&mut self, name: &str, unet: f64, text: f64) {
        if unet == 0.0 && text == 0.0 || name.eq_ignore_ascii_case("none") {
            return;
        }
        let (unet, text) = (Some(unet as f32), Some(text as f32));
        let lora = LoraRef { unet, text, ..LoraRef::new(name) };
        if lora.validate().is_ok() {
            self.loras.push(lora);
        } else {
            self.ignored.push(format!("LoRA {name}"));
        }
    }

    /// Notes that something changes the picture and is not followed, once.
    pub(super) fn ignore(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.ignored.contains(&what) {
            self.ignored.push(what);
        }
    }
}
