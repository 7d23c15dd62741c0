//! The model and the LoRAs that a verb works on.

use crate::app::Setup;
use crate::app::base::{self, Base};
use crate::cli::flags::ProgressKind;
use crate::cli::interrupt;
use crate::cli::progress::Progress;
use crate::cli::style::Talk;
use crate::error::Result;
use crate::lora::write::Kept;
use crate::lora::{Lora, ReadOptions};
use crate::pipeline::Cancel;
use crate::store::{STARTER, Store};

/// What Ctrl-C sets; to be asked for once in a run.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn cancel() -> anyhow::Result<Cancel> {
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    Ok(cancel)
}

/// Opens the model `name`, or the configured one.
///
/// # Errors
/// What finding and opening it gives.
pub(super) fn base(setup: &Setup, name: Option<&str>, talk: Talk, cancel: &Cancel) -> Result<Base> {
    let configured = setup.settings.config.model.as_deref().filter(|name| !name.is_empty());
    let name = name.or(configured).unwrap_or(STARTER);
    let progress = Progress::new(ProgressKind::Auto, talk, false);
    let base = Base::open(&setup.store, name, cancel, &|transfer| progress.transfer(transfer));
    progress.finish();
    base
}

/// Opens the LoRA `name` for `base`, and prints its warnings.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound) without such a file; as [`Lora::resolve`].
pub(super) fn adapter(store: &Store, name: &str, base: &Base, talk: Talk) -> Result<Lora> {
    let (file, other) = base::adapter(store, name)?;
    if let Some(other) = other {
        talk.say(&format!("warning: {name}: {other}"));
    }
    let lora = Lora::resolve(file, &base.names, ReadOptions::default())?;
    for warning in &lora.report().warnings {
        talk.say(&format!("warning: {name}: {warning}"));
    }
    Ok(lora)
}

/// What new factors hold, in words.
pub(super) fn kept(part: &Kept) -> String {
    let Kept { component, modules, ranks: (low, high), energy } = part;
    let ranks = if low == high { low.to_string() } else { format!("{low} to {high}") };
    let share = energy * 100.0;
    format!("{component}: {modules} modules of rank {ranks} keep {share:.1} % of the change")
}
