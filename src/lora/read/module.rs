//! One module of an adapter: its tensors by role become a change of a weight and a bias.

use crate::error::{Error, Result};
use crate::lora::delta::{Delta, Dora, Glora, Hada, Ia3, InputLaw, Kron, LowRank, Norms, Rotation};
use crate::lora::delta::{Half, Side, Sparse, several_butterflies};
use crate::lora::factor::Factor;
use crate::lora::read::header::Header;
use crate::lora::read::keys::Role;
use crate::lora::read::tuning::Tuning;
use crate::plain;
use crate::weights::Component;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Alphas above this are a mistake wherever they are applied.
const LARGE_ALPHA: f32 = 1e6;

/// Terms of the rotation's series in files without a configuration, as their trainers and PEFT have it.
const OFT_TERMS: usize = 5;

/// The changes that an adapter makes to one module.
#[derive(Debug, Clone)]
pub(in crate::lora) struct Module {
    /// How the file spells the module.
    pub(in crate::lora) stem: String,
    pub(in crate::lora) weight: Option<WeightChange>,
    pub(in crate::lora) bias: Option<BiasChange>,
}

/// The change of a weight.
#[derive(Debug, Clone)]
pub(in crate::lora) struct WeightChange {
    pub(in crate::lora) delta: Delta,
    /// alpha / rank, or what stands for it.
    pub(in crate::lora) scale: f32,
    pub(in crate::lora) dora: Option<Dora>,
}

/// The change of a bias.
#[derive(Debug, Clone)]
pub(in crate::lora) enum BiasChange {
    /// Added in proportion to the multiplier.
    Add { values: Factor, scale: f32 },
    /// Replaces the base's.
    Set(Factor),
    /// Scaled with the outputs (PEFT's IA3).
    Scale(Ia3),
}

/// The tensors of one module of a file.
#[derive(Debug, Default)]
pub(in crate::lora) struct Group {
    pub(in crate::lora) stem: String,
    pub(in crate::lora) roles: BTreeMap<Role, Factor>,
}

/// What building a module needs beside its tensors.
pub(in crate::lora) struct Context<'a> {
    pub(in crate::lora) path: &'a Path,
    /// Shape of the module's weight.
    pub(in crate::lora) shape: &'a [usize],
    /// Elements of the bias that the module has or could have.
    pub(in crate::lora) outputs: usize,
    /// Whether the base has that bias.
    pub(in crate::lora) has_bias: bool,
    /// Whether the base may take more inputs than the adapter has (an inpainting UNet's first layer).
    pub(in crate::lora) pads: bool,
    /// The rows of the adapter's product that belong to this module.
    pub(in crate::lora) rows: Option<Range<usize>>,
    pub(in crate::lora) tuning: Option<Tuning<'a>>,
    /// The part of the base that the module belongs to.
    pub(in crate::lora) component: Component,
    /// The alphas of the file's header.
    pub(in crate::lora) header: &'a mut Header,
    pub(in crate::lora) warnings: &'a mut Vec<String>,
}

/// Inputs of the first layer of a UNet whose only input is latents.
const LATENTS: usize = 4;

impl Context<'_> {
    /// Whether `group` would change the same layer of a model whose UNet takes nothing but latents.
    pub(in crate::lora) fn fits_narrower(&self, group: &Group) -> bool {
        let (true, &[outputs, inputs, height, width]) = (self.pads, self.shape) else {
            return false;
        };
        let (mut unheard, mut unread) = (Vec::new(), Header::default());
        let mut narrower = Context {
            path: self.path,
            shape: &[outputs, LATENTS, height, width],
            outputs: self.outputs,
            has_bias: self.has_bias,
            pads: false,
            rows: self.rows.clone(),
            tuning: self.tuning,
            component: self.component,
            header: &mut unread,
            warnings: &mut unheard,
        };
        inputs > LATENTS && Module::build(group, &mut narrower).is_ok()
    }
}

/// A group's roles while they are taken.
struct RoleParser<'g, 'c, 'a> {
    group: &'g Group,
    left: BTreeMap<Role, Factor>,
    context: &'c mut Context<'a>,
}

impl Module {
    /// Builds the changes of one module, and gives the roles that no change took.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for missing halves, shapes that do not fit and alphas that are none;
    /// [`Error::Unsupported`] for kinds that are refused.
    pub(in crate::lora) fn build(
        group: &Group,
        context: &mut Context<'_>,
    ) -> Result<(Vec<Module>, Vec<Role>)> {
        let mut taking = RoleParser { group, left: group.roles.clone(), context };
        taking.refuse()?;
        taking.refuse_whole_numbers()?;
        let dora = taking.dora()?;
        let mut weights = taking.weights()?;
        let biases = taking.biases(&weights)?;
        match (dora, weights.first_mut()) {
            (Some(dora), Some(first)) if !matches!(first.delta, Delta::Glora(_)) => {
                first.dora = Some(dora);
            }
            (Some(dora), None) => {
                weights.push(WeightChange {
                    delta: Delta::Magnitude,
                    scale: 1.0,
                    dora: Some(dora),
                });
            }
            _ => {}
        }
        let left = taking.left.keys().copied().filter(|role| *role != Role::Alpha).collect();
        let orphan = taking.left.contains_key(&Role::Alpha) && weights.is_empty();
        let alpha_left: Vec<Role> = if orphan { vec![Role::Alpha] } else { Vec::new() };
        let stem = || group.stem.clone();
        let mut modules: Vec<Module> = weights
            .into_iter()
            .map(|change| Module { stem: stem(), weight: Some(change), bias: None })
            .collect();
        modules.extend(biases.into_iter().map(|bias| Module {
            stem: stem(),
            weight: None,
            bias: Some(bias),
        }));
        let left: Vec<Role> = [left, alpha_left].concat();
        Ok((modules, left))
    }

    /// Every tensor of the module.
    pub(in crate::lora) fn factors(&self) -> Vec<&Factor> {
        let mut factors = Vec::new();
        if let Some(change) = &self.weight {
            factors.extend(change.delta.factors());
            factors.extend(change.dora.iter().flat_map(Dora::factors));
        }
        match &self.bias {
            Some(BiasChange::Add { values, .. } | BiasChange::Set(values)) => factors.push(values),
            Some(BiasChange::Scale(ia3)) => factors.extend(ia3.factors()),
            None => {}
        }
        factors
    }
}

impl BiasChange {
    /// target ← target + (b′ − b) at multiplier `m`; `bias` is the pristine one.
    pub(in crate::lora) fn add_to(&self, bias: &[f32], m: f32, target: &mut [f32]) -> Result<()> {
        match self {
            BiasChange::Add { values, scale } => {
                crate::lora::delta::add(target, &values.read()?, m * scale);
                Ok(())
            }
            BiasChange::Set(values) => {
                crate::lora::delta::add_difference(target, &values.read()?, bias, m);
                Ok(())
            }
            BiasChange::Scale(ia3) => ia3.change_bias(bias, m, target),
        }
    }
}

impl RoleParser<'_, '_, '_> {
    fn take(&mut self, role: Role) -> Option<Factor> {
        self.left.remove(&role)
    }

    fn has(&self, role: Role) -> bool {
        self.left.contains_key(&role)
    }

    /// The tensor of a role that others of the module make necessary.
    fn need(&mut self, role: Role, because: Role) -> Result<Factor> {
        self.take(role).ok_or_else(|| {
            let (missing, there) = (role.word(), because.word());
            self.error(&format!("{missing} is missing beside {there}; the file is incomplete"))
        })
    }

    fn error(&self, why: &str) -> Error {
        Error::corrupt(self.context.path, format!("`{}`: {why}", plain::value(&self.group.stem)))
    }

    fn misfit(&self, misfit: Option<String>) -> Result<()> {
        match misfit {
            Some(why) => Err(self
                .error(&format!("{why}; the adapter is for a model of another shape or family"))),
            None => Ok(()),
        }
    }

    fn warn(&mut self, why: &str) {
        self.context.warnings.push(format!("`{}`: {why}", self.group.stem));
    }

    /// Kinds that cannot be applied rightly are named and refused.
    fn refuse(&self) -> Result<()> {
        let refuse = |what: &str, how: &'static str| {
            Err(Error::unsupported(format!("`{}`: {what}", self.group.stem), how))
        };
        if self.has(Role::OftDiag) {
            return refuse(
                "oft_diag, the obsolete OFT of LyCORIS before 2024",
                "convert it with the LyCORIS that trained it",
            );
        }
        if self.has(Role::Reshape) {
            return refuse("reshape_weight (Flux control adapters)", "use it with a Flux model");
        }
        Ok(())
    }

    /// A factor of whole numbers is another kind of tensor under a factor's name, or damaged.
    fn refuse_whole_numbers(&self) -> Result<()> {
        let whole = |(role, factor): (&Role, &Factor)| {
            let dtype = factor.whole_numbers().filter(|_| !role.may_be_whole())?;
            Some((factor.name().to_owned(), dtype))
        };
        match self.group.roles.iter().find_map(whole) {
            Some((name, dtype)) => Err(Error::corrupt(
                self.context.path,
                format!(
                    "`{name}` holds whole numbers ({dtype}), expected floats (F32, F16, BF16); it is no factor of an adapter, or its numbers are quantised and their scale is missing"
                ),
            )),
            None => Ok(()),
        }
    }

    fn shape(&self) -> &[usize] {
        self.context.shape
    }

    /// A tensor for the first layer of another kind of the same model: what the base's further input
    /// channels (mask and masked picture) get is zero.
    fn pad(&self, factor: Factor) -> Factor {
        let (mine, base) = (factor.shape(), self.shape());
        // With a core the kernel is there.
        let kernel = if self.has(Role::Mid) { &[1, 1] } else { base.get(2..).unwrap_or_default() };
        let same_kernel = mine.len() == 4 && base.len() == 4 && mine[2..] == *kernel;
        if self.context.pads && same_kernel { factor.padded(base[1]) } else { factor }
    }

    /// This module's rows of a tensor for three modules at once; the tensor itself for a single one.
    fn third(&self, factor: Factor, role: Role) -> Result<Factor> {
        let Some(rows) = self.context.rows.clone() else { return Ok(factor) };
        let whole = rows.len() * 3;
        if factor.shape().first() != Some(&whole) {
            let (word, shape) = (role.word(), factor.shape());
            return Err(self.error(&format!("{word} has shape {shape:?}, expected {whole} rows")));
        }
        Ok(factor.rows(rows))
    }

    fn dora(&mut self) -> Result<Option<Dora>> {
        let (factor, always_output) = match (self.take(Role::DoraScale), self.take(Role::Magnitude))
        {
            (Some(factor), None) => (factor, false),
            (None, Some(_)) if self.context.tuning.is_some_and(|t| t.forbids_magnitudes()) => {
                return Err(self.error(
                    "lora_magnitude_vector is there, and use_dora is false; PEFT would leave it out",
                ));
            }
            (None, Some(factor)) => (factor, true),
            (None, None) => {
                let low = self.has(Role::Down) || self.has(Role::EmbeddingA);
                if low && self.context.tuning.is_some_and(|tuning| tuning.has_magnitudes()) {
                    return Err(self.error(
                        "use_dora is set, and lora_magnitude_vector is missing; the file is incomplete",
                    ));
                }
                return Ok(None);
            }
            (Some(_), Some(_)) => return Err(self.error("it has two DoRA magnitudes")),
        };
        if always_output && self.has(Role::EmbeddingA) {
            let dora = Dora::of_table(factor, self.shape());
            return dora.map(Some).map_err(|why| self.error(&why));
        }
        let dora = Dora::new(factor, self.shape(), always_output);
        let mut dora = dora.map_err(|why| self.error(&why))?;
        if self.has(Role::OftR) && self.context.tuning.is_none() {
            dora.norms = self.norms(&dora)?;
        }
        Ok(Some(dora))
    }

    /// The norms that the magnitudes beside a rotation of inputs belong to: a rotation keeps those of outputs.
    fn norms(&mut self, dora: &Dora) -> Result<Norms> {
        if dora.on_input {
            return Err(Error::unsupported(
                format!("`{}`: dora_scale for inputs beside oft_R", self.group.stem),
                "use a file whose magnitudes are one number an output, or merge it with its trainer",
            ));
        }
        let Some(norms) = self.take(Role::InitialNorm) else { return Ok(Norms::Pristine) };
        let (found, outputs) = (norms.elements(), self.context.outputs);
        if found != outputs {
            let why = format!("initial_norm has {found} numbers, expected {outputs}");
            return Err(self.error(&why));
        }
        Ok(Norms::Stored(norms))
    }

    fn weights(&mut self) -> Result<Vec<WeightChange>> {
        let mut changes = Vec::new();
        changes.extend(self.low_rank()?);
        changes.extend(self.hada()?);
        changes.extend(self.kron()?);
        changes.extend(self.glora()?);
        changes.extend(self.rotation()?);
        changes.extend(self.ia3()?);
        changes.extend(self.table()?);
        changes.extend(self.whole()?);
        changes.extend(self.tokens()?);
        if self.context.rows.is_some()
            && changes.iter().any(|c| !matches!(c.delta, Delta::LowRank(_) | Delta::Full(_)))
        {
            return Err(Error::unsupported(
                format!("`{}`: this kind of adapter on a fused projection", self.group.stem),
                "use a file with q, k and v apart",
            ));
        }
        Ok(changes)
    }

    /// alpha / rank and what stands for it: a scale, the configuration, or 1.
    fn scale(&mut self, rank: usize) -> Result<f32> {
        if let Some(scale) = self.take(Role::Scale) {
            self.take(Role::Alpha);
            return self.scalar(&scale);
        }
        let (whole, rank) = (rank, rank.max(1) as f32);
        if let Some(alpha) = self.take(Role::Alpha) {
            let alpha = self.scalar(&alpha)?;
            if alpha == 0.0 {
                self.warn("alpha is 0, taken as the rank (scale 1), as its trainers do");
                return Ok(1.0);
            }
            if alpha.abs() > LARGE_ALPHA {
                self.warn(&format!("alpha is {alpha}, which is hardly meant"));
            }
            return Ok(alpha / rank);
        }
        let Some(tuning) = self.context.tuning else {
            return Ok(self.context.header.scale(self.context.component, whole).unwrap_or(1.0));
        };
        if tuning.rank().is_some_and(|said| said != rank) {
            self.warn_once(
                "the rank that the configuration says (r, rank_pattern) is not that of the tensors; alpha is divided by the latter",
            );
        }
        let divisor = if tuning.rank_stabilised() { rank.sqrt() } else { rank };
        Ok(tuning.alpha() / divisor)
    }

    fn warn_once(&mut self, warning: &str) {
        if !self.context.warnings.iter().any(|known| known == warning) {
            self.context.warnings.push(warning.to_owned());
        }
    }

    fn scalar(&self, factor: &Factor) -> Result<f32> {
        if factor.elements() != 1 {
            let shape = factor.shape();
            return Err(
                self.error(&format!("alpha or scale has shape {shape:?}, expected one number"))
            );
        }
        Ok(factor.read()?.first().copied().unwrap_or(1.0))
    }

    fn low_rank(&mut self) -> Result<Option<WeightChange>> {
        let parts = [
            Role::Down,
            Role::Up,
            Role::Mid,
            Role::Singular,
            Role::SparseValues,
            Role::SparseIndices,
        ];
        let Some(because) = parts.into_iter().find(|role| self.has(*role)) else {
            return Ok(None);
        };
        let up = self.need(Role::Up, because)?;
        let down = self.need(Role::Down, because)?;
        let (down, up, allotted) = self.allotted(down, up)?;
        let (down, up) = self.in_blocks(down, up);
        let down = self.pad(down);
        let sparse = match (self.take(Role::SparseIndices), self.take(Role::SparseValues)) {
            (None, None) => None,
            (Some(indices), Some(values)) => Some(Sparse { indices, values }),
            (indices, _) => {
                let missing = if indices.is_some() { "bias_values" } else { "bias_indices" };
                return Err(self.error(&format!("{missing} is missing; the file is incomplete")));
            }
        };
        self.take(Role::SparseSize);
        let mut low = LowRank { down, up, mid: self.take(Role::Mid), sparse };
        low.up = self.third(low.up, Role::Up)?;
        let scale = match allotted {
            Some(scale) => scale,
            None => self.scale(low.rank())?,
        };
        // Of rank 0 too: one factor without rows beside another with columns is no empty module.
        if let Some(why) = low.contradiction() {
            return Err(self.error(&format!("{why}; the file is damaged")));
        }
        self.misfit(low.misfit(self.shape()))?;
        if let Some(sparse) = &low.sparse {
            self.misfit(sparse.misfit(self.shape())?)?;
        }
        Ok(Some(WeightChange { delta: Delta::LowRank(low), scale, dora: None }))
    }

    /// AdaLoRA's factors, with its singular values in one of them, and their scale; `None` for plain factors.
    fn allotted(&mut self, down: Factor, up: Factor) -> Result<(Factor, Factor, Option<f32>)> {
        let tuning = self.context.tuning.filter(|tuning| tuning.is("ADALORA"));
        let Some(tuning) = tuning else {
            if self.has(Role::Singular) {
                return Err(self.error(
                    "lora_E belongs to AdaLoRA, which needs the adapter_config.json that belongs beside the file",
                ));
            }
            return Ok((down, up, None));
        };
        let singular = self.need(Role::Singular, Role::Down)?;
        let rank = down.dim(0);
        if singular.elements() != rank {
            let (values, down) = (singular.shape().to_vec(), down.shape().to_vec());
            return Err(self.error(&format!("lora_E has shape {values:?}, lora_A {down:?}")));
        }
        let scale = tuning.allotted(rank).map_err(|why| self.error(&why))?;
        let (mut down, mut up) = (down.with_row_gains(&singular.read()?), up);
        // Its factors of convolutions are matrices.
        if let [outputs, _, height, width] = *self.shape()
            && down.shape().len() == 2
            && down.columns().is_multiple_of((height * width).max(1))
        {
            let inputs = down.columns() / (height * width).max(1);
            down = down.reshaped(vec![rank, inputs, height, width]);
            up = up.reshaped(vec![outputs, rank, 1, 1]);
        }
        Ok((down, up, Some(scale)))
    }

    /// The factors of a linear layer, of which one may hold only the blocks that are not zero (BD-LoRA).
    fn in_blocks(&self, mut down: Factor, mut up: Factor) -> (Factor, Factor) {
        let blocks = self.context.tuning.map_or(1, |tuning| tuning.blocks());
        let &[_, inputs] = self.shape() else { return (down, up) };
        let part = |whole: usize| whole.checked_div(blocks).unwrap_or(0);
        if blocks > 1 && down.columns() == part(inputs) {
            down = down.block_diagonal(blocks);
        } else if blocks > 1 && up.columns() == part(down.dim(0)) {
            up = up.block_diagonal(blocks);
        }
        (down, up)
    }

    fn hada(&mut self) -> Result<Option<WeightChange>> {
        let parts = [
            Role::HadaW1A,
            Role::HadaW1B,
            Role::HadaW2A,
            Role::HadaW2B,
            Role::HadaT1,
            Role::HadaT2,
        ];
        let Some(because) = parts.into_iter().find(|role| self.has(*role)) else {
            return Ok(None);
        };
        let (first_core, second_core) = (self.has(Role::HadaT1), self.has(Role::HadaT2));
        let cores = match (first_core, second_core) {
            (true, _) => [
                Some(self.need(Role::HadaT1, Role::HadaT1)?),
                Some(self.need(Role::HadaT2, Role::HadaT1)?),
            ],
            (false, true) => return Err(self.error("hada_t1 is missing beside hada_t2")),
            (false, false) => [None, None],
        };
        let [first, second] = cores;
        let hada = Hada {
            first: Half {
                a: self.need(Role::HadaW1A, because)?,
                b: self.need(Role::HadaW1B, because)?,
                core: first,
            },
            second: Half {
                a: self.need(Role::HadaW2A, because)?,
                b: self.need(Role::HadaW2B, because)?,
                core: second,
            },
        };
        self.misfit(hada.misfit(self.shape()))?;
        let scale = self.scale(hada.rank())?;
        Ok(Some(WeightChange { delta: Delta::Hada(hada), scale, dora: None }))
    }

    fn kron(&mut self) -> Result<Option<WeightChange>> {
        let parts = [
            Role::LokrW1,
            Role::LokrW1A,
            Role::LokrW1B,
            Role::LokrW2,
            Role::LokrW2A,
            Role::LokrW2B,
            Role::LokrT2,
        ];
        let Some(because) = parts.into_iter().find(|role| self.has(*role)) else {
            return Ok(None);
        };
        let left = self.side([Role::LokrW1, Role::LokrW1A, Role::LokrW1B], None, because)?;
        let core = self.take(Role::LokrT2);
        let right = self.side([Role::LokrW2, Role::LokrW2A, Role::LokrW2B], core, because)?;
        let kron = Kron { left, right };
        self.misfit(kron.misfit(self.shape()))?;
        let whole = kron.left.is_whole() && kron.right.is_whole();
        let peft = self.context.tuning.filter(|tuning| tuning.is("LOKR"));
        let scale = match peft.map(|tuning| tuning.alpha() / tuning.rank().unwrap_or(8.0)) {
            Some(scale) => scale,
            // LyCORIS writes an alpha that it never applies, sometimes an absurd one.
            None if whole => {
                self.take(Role::Alpha);
                1.0
            }
            None => self.scale(kron.rank().unwrap_or(1))?,
        };
        Ok(Some(WeightChange { delta: Delta::Kron(kron), scale, dora: None }))
    }

    fn side(
        &mut self,
        [whole, a, b]: [Role; 3],
        core: Option<Factor>,
        because: Role,
    ) -> Result<Side> {
        if self.has(a) || self.has(b) {
            let because = if self.has(a) { a } else { b };
            let (a, b) = (self.need(a, because)?, self.need(b, because)?);
            return Ok(match core {
                Some(core) => Side::Tucker { a, b, core },
                None => Side::Product { a, b },
            });
        }
        Ok(Side::Whole(self.need(whole, because)?))
    }

    fn glora(&mut self) -> Result<Option<WeightChange>> {
        let parts = [Role::GloraA1, Role::GloraA2, Role::GloraB1, Role::GloraB2, Role::GloraBm];
        let Some(because) = parts.into_iter().find(|role| self.has(*role)) else {
            return Ok(None);
        };
        let glora = Glora {
            a1: self.need(Role::GloraA1, because)?,
            a2: self.need(Role::GloraA2, because)?,
            b1: self.need(Role::GloraB1, because)?,
            b2: self.need(Role::GloraB2, because)?,
            core: self.take(Role::GloraBm),
        };
        self.misfit(glora.misfit(self.shape()))?;
        let scale = self.scale(glora.rank())?;
        Ok(Some(WeightChange { delta: Delta::Glora(glora), scale, dora: None }))
    }

    fn rotation(&mut self) -> Result<Option<WeightChange>> {
        let rotation = if self.has(Role::OftBlocks) || self.has(Role::OftRescale) {
            let blocks = self.need(Role::OftBlocks, Role::OftRescale)?;
            let alpha = self.take(Role::Alpha).map(|alpha| self.scalar(&alpha)).transpose()?;
            let outputs = self.shape().first().copied().unwrap_or(1) as f32;
            // Here alpha is no scale: it bounds how far all blocks together may turn.
            let limit = alpha.filter(|alpha| *alpha > 0.0).map(|alpha| alpha * outputs);
            Rotation::Rows { blocks, limit, rescale: self.take(Role::OftRescale) }
        } else if let Some(packed) = self.take(Role::OftR) {
            Rotation::Inputs { law: self.input_law(&packed)?, packed }
        } else if self.has(Role::BoftR) || self.has(Role::BoftS) {
            let blocks = self.need(Role::BoftR, Role::BoftS)?;
            let sizes = self.need(Role::BoftS, Role::BoftR)?;
            if blocks.dim(0) != 1 {
                return Err(several_butterflies(&self.group.stem));
            }
            Rotation::Butterfly { blocks, sizes }
        } else {
            return Ok(None);
        };
        self.misfit(rotation.misfit(self.shape()))?;
        Ok(Some(WeightChange { delta: Delta::Rotation(rotation), scale: 1.0, dora: None }))
    }

    /// How the vectors of `oft_R` become rotations: as PEFT's configuration sets it, or as the trainers do that write
    /// a file without one.
    fn input_law(&mut self, packed: &Factor) -> Result<InputLaw> {
        let mark = self.take(Role::OftScaled);
        if let Some(tuning) = self.context.tuning {
            let series = tuning.cayley_terms();
            let reach = tuning.reach();
            return Ok(InputLaw { series, scaled: mark.is_some(), kernels_back: false, reach });
        }
        if self.group.stem.starts_with("base_model.model.") {
            return Err(self.error(
                "PEFT's OFT needs the adapter_config.json that PEFT wrote beside the file",
            ));
        }
        let shape = packed.shape();
        if shape.len() != 2 {
            return Err(self.error(&format!(
                "oft_R has shape {shape:?}, expected [blocks, n(n-1)/2]; how other shapes turn a weight is not known"
            )));
        }
        let scaled = mark.as_ref().map(|mark| self.is_scaled(mark)).transpose()?.unwrap_or(false);
        Ok(InputLaw { series: Some(OFT_TERMS), scaled, kernels_back: true, reach: None })
    }

    /// Whether vectors are scaled: they are where the mark exists, unless it holds a zero.
    fn is_scaled(&mut self, mark: &Factor) -> Result<bool> {
        if mark.whole_numbers() == Some(Dtype::BOOL) {
            let text = "scaled_oft is stored as BOOL, as by trainers that divide oft_R by 2·sqrt(n-1); divided by sqrt(n(n-1)/2), as most do";
            if !self.context.warnings.iter().any(|known| known == text) {
                self.context.warnings.push(text.into());
            }
        }
        Ok(mark.read()?.first().is_none_or(|value| *value != 0.0))
    }

    fn ia3(&mut self) -> Result<Option<WeightChange>> {
        let ia3 = if let Some(on_input) = self.take(Role::OnInput) {
            let vector = self.need(Role::Weight, Role::OnInput)?;
            Ia3 { vector, on_input: self.scalar(&on_input)? != 0.0, neutral: 0.0 }
        } else if let Some(vector) = self.take(Role::Ia3) {
            let (outputs, inputs) = (self.shape().first(), self.shape().get(1));
            let fits = |n: Option<&usize>| n == Some(&vector.elements());
            // The shape determines which side is scaled, unless both have the same size.
            let on_input = match (fits(outputs), fits(inputs)) {
                (true, false) => false,
                (false, _) => true,
                (true, true) => {
                    let linear = vector.shape().len() == 2;
                    let feed = self.context.tuning.is_some_and(|t| t.is_feedforward());
                    if linear { vector.dim(0) == 1 } else { feed }
                }
            };
            Ia3 { vector, on_input, neutral: 1.0 }
        } else {
            return Ok(None);
        };
        self.misfit(ia3.misfit(self.shape()))?;
        Ok(Some(WeightChange { delta: Delta::Ia3(ia3), scale: 1.0, dora: None }))
    }

    fn table(&mut self) -> Result<Option<WeightChange>> {
        if !self.has(Role::EmbeddingA) && !self.has(Role::EmbeddingB) {
            return Ok(None);
        }
        let down = self.need(Role::EmbeddingA, Role::EmbeddingB)?;
        let up = self.need(Role::EmbeddingB, Role::EmbeddingA)?;
        let (rank, shape) = (down.dim(0), self.shape().to_vec());
        let fits = shape.len() == 2 && up.shape() == [shape[1], rank] && down.dim(1) == shape[0];
        if !fits {
            let (down, up) = (down.shape().to_vec(), up.shape().to_vec());
            return Err(self.error(&format!(
                "its shapes (A {down:?}, B {up:?}) do not make the table's {shape:?}"
            )));
        }
        let scale = self.scale(rank)?;
        Ok(Some(WeightChange { delta: Delta::Table { down, up }, scale, dora: None }))
    }

    /// Whole differences and replacements.
    fn whole(&mut self) -> Result<Vec<WeightChange>> {
        let mut changes = Vec::new();
        for role in [Role::Diff, Role::NormWeight, Role::SetWeight] {
            let Some(mut factor) = self.take(role) else { continue };
            factor = self.third(factor, role)?;
            let expected = self.shape().to_vec();
            // A difference does not cover further inputs, so that it is zero there; a weight keeps the base's.
            let narrow = role == Role::SetWeight && {
                let found = factor.shape();
                let same = |at: usize| found.get(at) == expected.get(at);
                self.context.pads && found.len() == 4 && found[1] < expected[1] && {
                    [0, 2, 3].into_iter().all(same)
                }
            };
            if role != Role::SetWeight {
                factor = self.pad(factor);
            }
            let found = factor.shape();
            if !narrow && !crate::weights::shapes_agree(found, &expected) {
                let name = factor.name();
                return Err(self.error(&format!(
                    "`{name}` has shape {found:?}, the model's weight {expected:?}; the adapter is for a model of another shape or family"
                )));
            }
            let scale =
                if role == Role::Diff && self.has(Role::Scale) { self.scale(1)? } else { 1.0 };
            let delta =
                if role == Role::SetWeight { Delta::Set(factor) } else { Delta::Full(factor) };
            changes.push(WeightChange { delta, scale, dora: None });
        }
        Ok(changes)
    }

    /// Rows of a table of tokens, which replace the base's.
    fn tokens(&mut self) -> Result<Option<WeightChange>> {
        let Some(values) = self.take(Role::Tokens) else { return Ok(None) };
        let tuning = self.context.tuning.ok_or_else(|| {
            self.error(
                "trained tokens (trainable_tokens_delta) need the adapter_config.json that belongs beside the file",
            )
        })?;
        let rows = tuning.tokens().map_err(|why| self.error(&why))?;
        let shape = self.shape();
        let fits = shape.len() == 2 && values.shape() == [rows.len(), shape[1]];
        if !fits {
            return Err(self.error(&format!(
                "trainable_tokens_delta has shape {:?} for {} tokens of a table of {shape:?}",
                values.shape(),
                rows.len()
            )));
        }
        if let Some(row) = rows.iter().find(|row| **row >= shape[0]) {
            return Err(self.error(&format!(
                "token {row} was trained, and the model's table ends at {}; the adapter is for a model with more tokens",
                shape[0] - 1
            )));
        }
        let delta = Delta::Rows { values, rows: rows.into() };
        Ok(Some(WeightChange { delta, scale: 1.0, dora: None }))
    }

    fn biases(&mut self, weights: &[WeightChange]) -> Result<Vec<BiasChange>> {
        let mut biases = Vec::new();
        for role in [Role::UpBias, Role::DiffBias, Role::NormBias, Role::SetBias] {
            let Some(mut values) = self.take(role) else { continue };
            values = self.third(values, role)?;
            if values.elements() != self.context.outputs {
                let (found, outputs) = (values.shape().to_vec(), self.context.outputs);
                let word = role.word();
                return Err(
                    self.error(&format!("{word} has shape {found:?}, expected [{outputs}]"))
                );
            }
            if role == Role::SetBias {
                biases.push(BiasChange::Set(values));
                continue;
            }
            let of_up = |change: &WeightChange| matches!(change.delta, Delta::LowRank(_));
            let scale = match weights.iter().find(|change| role == Role::UpBias && of_up(change)) {
                Some(change) => change.scale,
                None if role == Role::UpBias => {
                    return Err(self.error("lora_up is missing beside its bias"));
                }
                None => 1.0,
            };
            biases.push(BiasChange::Add { values, scale });
        }
        let has_bias = self.context.has_bias;
        biases.extend(weights.iter().filter_map(|change| match &change.delta {
            Delta::Ia3(ia3) if ia3.scales_bias() && has_bias => {
                Some(BiasChange::Scale(ia3.clone()))
            }
            _ => None,
        }));
        Ok(biases)
    }
}
