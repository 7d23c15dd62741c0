//! Where and how strongly an adapter acts: components and blocks, module by module, against the published
//! tables written out once more.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::DType;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::models::UNet;
use colora::weights::{
    Arrangement, Component, Packed, Placement, Precision, Products, Resident, Scope, Site, Weight,
    WeightSource,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A tiny base, and an adapter that changes every module that kohya trains.
struct World {
    source: Arc<dyn WeightSource>,
    dictionary: Dictionary,
    lora: Arc<Lora>,
}

impl World {
    fn new(model: &str) -> Self {
        let parts = ModelParts::open(&support::golden(model), Placement::default(), None).unwrap();
        let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
        let file = format!("tests/zoo/good/{model}-kohya-full.safetensors");
        let file = AdapterFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let lora = Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap();
        Self { source: parts.source, dictionary, lora: Arc::new(lora) }
    }

    fn compose(&self, strength: &str) -> Overlay {
        let strength: Strength = strength.parse().unwrap();
        let stack = LoraStack::new(vec![StackEntry { lora: self.lora.clone(), strength }]);
        let source = self.source.clone();
        Overlay::compose(source, &self.dictionary, &stack, Apply::Merge, |_| true).unwrap()
    }

    fn changed(&self, strength: &str) -> BTreeSet<String> {
        self.compose(strength).changed_sites().map(ToString::to_string).collect()
    }

    /// How often the whole change is in what `overlay` made of `site`.
    fn factor(&self, overlay: &Overlay, site: &Site) -> f64 {
        let shape = self.source.shape(site).unwrap();
        let whole = self.lora.change(&*self.source, site, 1.0).unwrap().unwrap();
        let before = self.source.get_f32(site, &shape).unwrap();
        let after = overlay.get_f32(site, &shape).unwrap();
        let parts = after.iter().zip(&before).zip(&whole);
        let parts: Vec<(f64, f64)> =
            parts.map(|((a, b), w)| (f64::from(a - b), f64::from(*w))).collect();
        let dot: f64 = parts.iter().map(|(part, whole)| part * whole).sum();
        let factor = dot / parts.iter().map(|(_, whole)| whole * whole).sum::<f64>();
        let worst = parts.iter().fold(0f64, |max, (p, w)| max.max((p - factor * w).abs()));
        assert!(worst < 1e-5, "{site} is not changed in proportion: {worst:e}");
        factor
    }
}

/// The block of a site by the index arithmetic of the original code; `None` for what lies in no block.
fn block(site: &str) -> Option<String> {
    if site.starts_with("text_encoder") {
        return Some("BASE".into());
    }
    let parts: Vec<&str> = site.split('.').skip(1).collect();
    let number = |i: usize| parts[i].parse::<usize>().unwrap();
    match (parts[0], parts.get(2).copied()) {
        ("conv_in", _) => Some("IN00".into()),
        ("mid_block", _) => Some("M00".into()),
        ("down_blocks", Some("downsamplers")) => Some(format!("IN{:02}", 3 * number(1) + 3)),
        ("down_blocks", _) => Some(format!("IN{:02}", 3 * number(1) + number(3) + 1)),
        ("up_blocks", Some("upsamplers")) => Some(format!("OUT{:02}", 3 * number(1) + 2)),
        ("up_blocks", _) => Some(format!("OUT{:02}", 3 * number(1) + number(3))),
        _ => None,
    }
}

/// The blocks of the published lists, in their orders.
fn list(model: &str, length: usize) -> Vec<String> {
    let (down, up): (Vec<usize>, Vec<usize>) = match (model, length) {
        ("sd15", 26) => ((0..12).collect(), (0..12).collect()),
        ("sd15", 17) => (vec![1, 2, 4, 5, 7, 8], (3..12).collect()),
        ("sdxl", 20) => ((0..9).collect(), (0..9).collect()),
        ("sdxl", 12) => (vec![4, 5, 7, 8], (0..6).collect()),
        _ => unreachable!(),
    };
    let down = down.iter().map(|n| format!("IN{n:02}"));
    let up = up.iter().map(|n| format!("OUT{n:02}"));
    ["BASE".to_owned()].into_iter().chain(down).chain(["M00".to_owned()]).chain(up).collect()
}

#[test]
fn every_module_gets_the_factor_of_its_block() {
    for (model, lengths) in [("sd15", [26, 17]), ("sdxl", [20, 12])] {
        let world = World::new(model);
        for length in lengths {
            // Every block another factor; the third 0.
            let factors: Vec<f64> =
                (0..length).map(|i| if i == 2 { 0.0 } else { 0.1 * (i + 1) as f64 }).collect();
            let text: Vec<String> = factors.iter().map(ToString::to_string).collect();
            let overlay = world.compose(&format!("0.5:blocks={}", text.join(",")));
            let known: BTreeMap<String, f64> =
                list(model, length).into_iter().zip(factors).collect();
            assert_eq!(known.len(), length);
            let changed: BTreeSet<&Site> = overlay.changed_sites().collect();
            let mut seen = BTreeSet::new();
            for site in &world.lora.sites() {
                let block = block(site.as_str());
                let wanted = match &block {
                    Some(block) => 0.5 * known.get(block).copied().unwrap_or(0.0),
                    None => 0.5,
                };
                assert_eq!(changed.contains(site), wanted != 0.0, "{site} of {block:?}");
                let factor = world.factor(&overlay, site);
                assert!((factor - wanted).abs() < 1e-3, "{site}: {factor}, not {wanted}");
                seen.extend(block);
            }
            assert!(known.keys().all(|block| block == "IN00" || seen.contains(block)), "{seen:?}");
        }
    }
}

#[test]
fn presets_act_where_they_say() {
    let world = World::new("sd15");
    let blocks = |preset: &str| {
        let changed = world.changed(&format!("blocks={preset}"));
        changed.iter().filter_map(|site| block(site)).collect::<BTreeSet<String>>()
    };
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(blocks("INS"), set(&["BASE", "IN01", "IN02", "IN04"]));
    assert_eq!(blocks("IND"), set(&["BASE", "IN05", "IN07", "IN08"]));
    let middle = ["BASE", "IN05", "IN07", "IN08", "M00", "OUT03", "OUT04", "OUT05", "OUT06"];
    assert_eq!(blocks("MIDD"), set(&middle));
    assert_eq!(blocks("OUTS"), set(&["BASE", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"]));
    assert!(blocks("NONE").is_empty());
    assert_eq!(world.changed("blocks=ALL"), world.changed("1"));
    let world = World::new("sdxl");
    let changed = world.changed("blocks=OUTD");
    let blocks: BTreeSet<String> = changed.iter().filter_map(|site| block(site)).collect();
    assert_eq!(blocks, set(&["BASE", "OUT00", "OUT01", "OUT02"]));
}

#[test]
fn unet_and_text_encoders_are_weighted_apart() {
    let world = World::new("sdxl");
    let all = world.changed("1");
    let (unet, text) = (world.changed("unet=1,text=0"), world.changed("unet=0,text=1"));
    assert!(unet.iter().all(|site| site.starts_with("unet.")));
    assert!(text.iter().all(|site| site.starts_with("text_encoder")));
    assert!(text.iter().any(|site| site.starts_with("text_encoder_2.")));
    assert_eq!(unet.union(&text).cloned().collect::<BTreeSet<_>>(), all);
    let overlay = world.compose("unet=-0.5,text=1.5");
    for site in world.lora.sites() {
        let wanted = if site.as_str().starts_with("unet.") { -0.5 } else { 1.5 };
        assert!((world.factor(&overlay, &site) - wanted).abs() < 1e-3, "{site}");
    }
}

#[test]
fn parts_of_a_changed_weight_are_parts_of_the_whole() {
    let world = World::new("sd15");
    let overlay = world.compose("0.7");
    for site in overlay.changed_sites() {
        let shape = world.source.shape(site).unwrap();
        let whole = overlay.get_f32(site, &shape).unwrap();
        let middle = whole.len() / 3;
        // Whole rows, and pieces that begin and end within one.
        for (first, count) in [(0, whole.len()), (middle, middle + 1), (whole.len() - 1, 1)] {
            let mut part = vec![0f32; count];
            overlay.read_f32(site, first, &mut part).unwrap();
            // A product of one row rounds otherwise than one of many: the last bits may differ.
            for (part, whole) in part.iter().zip(&whole[first..first + count]) {
                assert!(
                    (part - whole).abs() <= 1e-6 * whole.abs().max(1e-2),
                    "{site}: {part} {whole}"
                );
            }
        }
        let &[outputs, inputs, ..] = &shape[..] else { continue };
        let packed = overlay.pack(site, &shape, Arrangement::Plain, Precision::F32).unwrap();
        let merged = overlay.get(site, &shape).unwrap();
        let same = Packed::from_tensor(merged.base(), &shape, Arrangement::Plain, Precision::F32);
        assert_eq!(packed.bytes(), same.unwrap().bytes(), "{site} of {outputs} x {inputs}");
    }
}

/// A source that counts what it packs.
#[derive(Debug)]
struct Counting {
    file: Arc<dyn WeightSource>,
    resident: Resident,
    packed: AtomicUsize,
}

impl Counting {
    fn taken(&self) -> usize {
        self.packed.swap(0, Ordering::Relaxed)
    }
}

impl WeightSource for Counting {
    fn get(&self, site: &Site, shape: &[usize]) -> colora::Result<Weight> {
        self.resident.get(site, shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.file.shape(site)
    }

    fn sites(&self) -> Vec<Site> {
        self.file.sites()
    }

    fn placement(&self) -> &Placement {
        self.file.placement()
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        Some(&*self.file)
    }

    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> colora::Result<Packed> {
        let make = || self.file.pack(site, shape, arrangement, precision);
        self.shared(site, "", arrangement, precision, &make)
    }

    fn shared(
        &self,
        site: &Site,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> colora::Result<Packed>,
    ) -> colora::Result<Packed> {
        self.resident.shared(site, variant, arrangement, precision, &|| {
            self.packed.fetch_add(1, Ordering::Relaxed);
            make()
        })
    }
}

#[test]
fn a_strength_that_changes_beside_the_weights_packs_nothing() {
    let parts = ModelParts::open(&support::golden("sd15"), Placement::default(), None).unwrap();
    let world = World::new("sd15");
    let file = parts.source.clone();
    let resident = Resident::new(file.clone());
    let counting = Arc::new(Counting { file, resident, packed: AtomicUsize::new(0) });
    let build = |strength: &str, apply| {
        let strength: Strength = strength.parse().unwrap();
        let stack = LoraStack::new(vec![StackEntry { lora: world.lora.clone(), strength }]);
        let source: Arc<dyn WeightSource> = counting.clone();
        let overlay = Overlay::compose(source, &world.dictionary, &stack, apply, |part| {
            part == Component::UNet
        })
        .unwrap();
        UNet::new(&Scope::new(&overlay, "unet"), &parts.unet).unwrap()
    };
    let base = UNet::new(&Scope::new(&*counting, "unet"), &parts.unet).unwrap();
    assert!(counting.taken() > 50);
    let first = build("0.8", Apply::Bypass);
    let factors = counting.taken();
    assert!(factors > 50, "{factors} factors");
    // The factors are those of the first network, which still lives.
    let second = build("0.3", Apply::Bypass);
    assert_eq!(counting.taken(), 0);
    drop((first, second));
    let _third = build("0.3", Apply::Bypass);
    assert_eq!(counting.taken(), factors);
    // Merged weights have to be made anew.
    let _merged = build("0.3", Apply::Merge);
    assert!(counting.taken() > 20);
    drop(base);
}

/// Copies of a model in bf16 were merged from rounded numbers where an adapter lay between.
#[test]
fn what_no_adapter_changes_is_read_as_the_base_reads_it() {
    let placement =
        Placement { dtype: DType::BF16, products: Products::Plain, ..Placement::default() };
    let base: Arc<dyn WeightSource> =
        ModelParts::open(&support::golden("sd15"), placement, None).unwrap().source;
    let world = World::new("sd15");
    let strength = "0.8".parse().unwrap();
    let stack = LoraStack::new(vec![StackEntry { lora: world.lora.clone(), strength }]);
    for apply in [Apply::Merge, Apply::Bypass] {
        let overlay =
            Overlay::compose(base.clone(), &world.dictionary, &stack, apply, |_| true).unwrap();
        let changed: BTreeSet<&Site> = overlay.changed_sites().collect();
        let (mut sites, mut rounded) = (0, 0);
        for site in base.sites() {
            if changed.contains(&site) && overlay.branches(&site).is_empty() {
                continue;
            }
            let shape = base.shape(&site).unwrap();
            let stored = base.get_f32(&site, &shape).unwrap();
            assert_eq!(overlay.get_f32(&site, &shape).unwrap(), stored, "{site}");
            assert_eq!(overlay.is_exact(&site), base.is_exact(&site), "{site}");
            rounded += stored.iter().filter(|v| half::bf16::from_f32(**v).to_f32() != **v).count();
            sites += 1;
        }
        assert!(sites > 100 && rounded > 1000, "{sites} sites, {rounded} numbers beyond bf16");
    }
}
