//! What rows of the table begin with.

use super::row::{Field, Flag, Label};
use super::values::text;

/// A row in which nothing is said.
pub(super) const ROW: Field = Field {
    key: "",
    sets: &[],
    flag: None,
    label: None,
    title: None,
    setting: None,
    range: None,
    names: Vec::new,
    read: text,
    write: |_| Vec::new(),
    neutral: "",
    brings: None,
    option: false,
};
/// A flag of which nothing is said.
pub(super) const FLAG: Flag = Flag {
    long: "",
    short: None,
    alias: None,
    value: "N",
    heading: None,
    place: 0,
    help: "",
    opposite: None,
};
/// Flags under that heading.
pub(super) const PICTURE: Flag = Flag { heading: Some("Picture"), ..FLAG };
/// Flags under that heading.
pub(super) const TUNING: Flag = Flag { heading: Some("Sampler"), ..FLAG };
/// Flags under that heading.
pub(super) const GUIDANCE: Flag = Flag { heading: Some("Guidance"), value: "X", ..FLAG };
/// Flags under that heading.
pub(super) const SDXL: Flag = Flag { heading: Some("SDXL"), value: "WxH", ..FLAG };
/// Flags under that heading.
pub(super) const SAVERS: Flag = Flag { heading: Some("Step savers"), ..FLAG };
/// Flags under that heading.
pub(super) const LORA: Flag = Flag { heading: Some("LoRA"), ..FLAG };
/// A label of which nothing is said.
pub(super) const LABEL: Label = Label { name: "", place: 100, own: false, write: None };
