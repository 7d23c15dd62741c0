use super::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// A source that answers every question itself and remembers which were asked.
#[derive(Debug, Default)]
struct Base {
    source: MemorySource,
    asked: Mutex<BTreeSet<&'static str>>,
}

impl Base {
    fn note(&self, question: &'static str) {
        self.asked.lock().unwrap().insert(question);
    }
}

impl WeightSource for Base {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        self.note("get");
        self.source.get(site, shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.source.shape(site)
    }

    fn sites(&self) -> Vec<Site> {
        self.source.sites()
    }

    fn placement(&self) -> &Placement {
        self.source.placement()
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        None
    }

    fn get_pristine(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        self.note("get_pristine");
        self.source.get(site, shape)
    }

    fn get_f32(&self, site: &Site, shape: &[usize]) -> Result<Vec<f32>> {
        self.note("get_f32");
        self.source.get_f32(site, shape)
    }

    fn read_f32(&self, site: &Site, first: usize, out: &mut [f32]) -> Result<()> {
        self.note("read_f32");
        self.source.read_f32(site, first, out)
    }

    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        self.note("pack");
        self.source.pack(site, shape, arrangement, precision)
    }

    fn shared(
        &self,
        _: &Site,
        _: &str,
        _: Arrangement,
        _: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        self.note("shared");
        make()
    }

    fn in_blocks(&self, site: &Site, shape: &[usize]) -> Result<Option<BlockTensor>> {
        self.note("in_blocks");
        self.source.in_blocks(site, shape)
    }

    fn quantised(&self, site: &Site) -> Option<Quantisation> {
        self.note("quantised");
        self.source.quantised(site)
    }

    fn branches(&self, _: &Site) -> Vec<Branch> {
        self.note("branches");
        Vec::new()
    }

    fn is_exact(&self, _: &Site) -> bool {
        self.note("is_exact");
        true
    }

    fn forget(&self, _: &Site) {
        self.note("forget");
    }
}

/// A source over another one that answers no more than it must.
#[derive(Debug)]
struct Wrapper<'a>(&'a Base);

impl WeightSource for Wrapper<'_> {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        self.0.get(site, shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.0.shape(site)
    }

    fn sites(&self) -> Vec<Site> {
        self.0.sites()
    }

    fn placement(&self) -> &Placement {
        self.0.placement()
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        Some(self.0)
    }
}

#[test]
fn a_source_over_another_one_passes_every_question_on() {
    let mut base = Base::default();
    let site = Site::of(Component::UNet, "mid.weight");
    let values = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap().reshape((2, 32)).unwrap();
    base.source.insert(site.clone(), &values).unwrap();
    let (over, shape) = (Wrapper(&base), [2, 32]);
    let mut one = [0.0];
    over.get_pristine(&site, &shape).unwrap();
    assert_eq!(over.get_f32(&site, &shape).unwrap()[63], 63.0);
    over.read_f32(&site, 5, &mut one).unwrap();
    assert_eq!(one, [5.0]);
    let (plain, f32) = (Arrangement::Plain, Precision::F32);
    let packed = over.pack(&site, &shape, plain, f32).unwrap();
    over.shared(&site, "", plain, f32, &|| Ok(packed.clone())).unwrap();
    assert!(over.in_blocks(&site, &shape).unwrap().is_none());
    assert_eq!(over.quantised(&site), None);
    assert!(over.branches(&site).is_empty());
    assert!(over.is_exact(&site));
    over.forget(&site);
    let asked: Vec<&str> = base.asked.into_inner().unwrap().into_iter().collect();
    let questions = [
        "branches",
        "forget",
        "get_f32",
        "get_pristine",
        "in_blocks",
        "is_exact",
        "pack",
        "quantised",
        "read_f32",
        "shared",
    ];
    assert_eq!(asked, questions);
}

#[test]
fn numbers_of_another_shape_are_refused() {
    let mut source = MemorySource::default();
    let site = Site::of(Component::UNet, "mid.weight");
    source.insert(site.clone(), &Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(source.get_f32(&site, &[2, 3, 1, 1]).unwrap(), [1.0; 6]);
    assert!(matches!(source.get_f32(&site, &[3, 2]), Err(Error::ShapeMismatch { .. })));
    let other = Site::of(Component::UNet, "up.weight");
    assert!(matches!(source.get_f32(&other, &[3, 2]), Err(Error::TensorMissing { .. })));
}
