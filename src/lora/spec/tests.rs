//! The grammar: what is meant, what is refused, and that what is written is read again.

use super::*;
use proptest::prelude::*;

fn flag(text: &str) -> LoraRef {
    LoraRef::parse_flag(text).unwrap()
}

fn tag(text: &str) -> LoraRef {
    LoraRef::parse_tag(text).unwrap()
}

fn weights(lora: &LoraRef) -> (&str, Option<f32>, Option<f32>) {
    (&lora.name, lora.unet, lora.text)
}

#[test]
fn names_may_hold_colons() {
    for name in [
        "ink",
        "styles/ink v1.5",
        "hub:owner/name",
        "hub:o/n/f.safetensors@v2",
        "C:\\x",
        "C:\\x=1.safetensors",
        "0.5",
        "./a=b.pt",
        "x:5:foo",
        "ünï",
    ] {
        assert_eq!(flag(name), LoraRef::new(name));
        assert_eq!(weights(&flag(&format!("{name}:-0.5"))), (name, Some(-0.5), Some(-0.5)));
        assert_eq!(weights(&tag(&format!("{name}:2"))), (name, Some(2.0), Some(2.0)));
    }
}

#[test]
fn weights_of_both_parts() {
    for (text, unet, text_weight) in [
        ("x:unet=0.8", Some(0.8), None),
        ("x:te=0", None, Some(0.0)),
        ("x:unet=0.8,text=0.5", Some(0.8), Some(0.5)),
        ("x:0.8:text=0", Some(0.8), Some(0.0)),
        ("x:text=0:0.8", Some(0.8), Some(0.0)),
        ("x: w = 1.5 ", Some(1.5), Some(1.5)),
        ("x:0.8,text=.5", Some(0.8), Some(0.5)),
    ] {
        assert_eq!(weights(&flag(text)), ("x", unet, text_weight), "{text}");
        assert_eq!(weights(&tag(text)), ("x", unet, text_weight), "{text}");
    }
    assert_eq!(weights(&tag(" x :0.5:0.8")), ("x", Some(0.8), Some(0.5)), "text encoder first");
    let used = flag("x:unet=0.8").strength(Some(0.6));
    assert_eq!((used.unet, used.text), (0.8, 0.6), "the card's weight fills the gap");
    assert_eq!(flag("x").strength(None), Strength::default());
}

#[test]
fn blocks_and_steps() {
    let list = "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0.5";
    for text in [
        format!("x:0.8:lbw={list}:steps=5..15"),
        format!("x:blocks={list},steps=5..15,weight=0.8"),
        format!("x:0.8:{list}:start=5:stop=15"),
        format!("x:0.8,blocks= {} ,step=5-15", list.replace(',', " , ")),
    ] {
        for lora in [flag(&text), tag(&text)] {
            assert_eq!(lora.to_string(), format!("x:0.8:blocks={list}:steps=5..15"), "{text}");
        }
    }
    assert_eq!(tag("x:1:MIDD:stop=0.5").to_string(), "x:1:blocks=MIDD:steps=0..0.5");
    assert_eq!(flag("x:start=3").to_string(), "x:steps=3..");
}

#[test]
fn mistakes_are_explained() {
    for (text, part) in [
        ("", "name of a LoRA"),
        (":0.5", "name of a LoRA"),
        ("x:", "behind the colon"),
        ("x::0.5", "behind the colon"),
        ("x:nan", "finite"),
        ("x:unet=-inf", "finite"),
        ("x:80,text=101", "at most 100"),
        ("x:1e9", "80 % is 0.8"),
        ("x:unit=1", "did you mean `unet`"),
        ("x:qqqq=1", "known: weight, unet"),
        ("x:unet=", "expected a number"),
        ("x:unet=1,unet=2", "twice"),
        ("x:1:weight=2", "twice"),
        ("x:text=1:te=2", "twice"),
        ("x:steps=0..0.5:stop=3", "twice"),
        ("x:step=5", "step=A-B"),
        ("x:steps=5", "A..B"),
        ("x:blocks=MIDDLE", "did you mean `MIDD`"),
        ("x:1,2,3", "26 or 17"),
        ("x:dyn=4", "dynamic rank"),
    ] {
        for error in [LoraRef::parse_flag(text), LoraRef::parse_tag(text)].map(Result::unwrap_err) {
            let message = error.to_string();
            assert!(message.contains(part) && message.contains("e.g. "), "{text}: {message}");
            assert!(matches!(error, Error::BadRequest { field: "lora", .. }), "{text}");
        }
    }
    let message = LoraRef::parse_flag("x:0.5:0.8").unwrap_err().to_string();
    assert!(message.contains("unet=X,text=X") && message.contains("e.g. ink:0.8"), "{message}");
    let message = LoraRef::parse_tag("x:1:1:4").unwrap_err().to_string();
    assert!(message.contains("dynamic rank") && message.contains("<lora:"), "{message}");
}

#[test]
fn json_has_the_same_words() {
    let lora = flag("x:0.8:blocks=MIDD:steps=..0.5");
    let json = serde_json::to_string(&lora).unwrap();
    assert_eq!(json, r#"{"name":"x","weight":0.8,"blocks":"MIDD","steps":"0..0.5"}"#);
    let read = |json: &str| serde_json::from_str::<LoraRef>(json);
    assert_eq!(read(&json).unwrap(), lora);
    assert_eq!(read(r#"{"name":"x","weight":1,"text":0}"#).unwrap(), flag("x:1:text=0"));
    for bad in [
        r#"{"name":""}"#,
        r#"{"name":"x:0.5"}"#,
        r#"{"name":"x","weight":1e9}"#,
        r#"{"name":"x","wieght":1}"#,
        r#"{"name":"x","steps":"5"}"#,
        r#"{"weight":1}"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let keys = serde_json::to_value(&lora).unwrap();
    assert!(keys.as_object().unwrap().keys().all(|key| KEYS.contains(&key.as_str())));
    let strength: Strength = serde_json::from_str(r#"{"unet":0.5}"#).unwrap();
    assert_eq!((strength.unet, strength.text), (0.5, 1.0));
    assert!(serde_json::from_str::<Strength>(r#"{"unit":0.5}"#).is_err());
}

#[test]
fn strengths_stand_alone() {
    let strength: Strength = "text=0:0.8:steps=5..15".parse().unwrap();
    assert_eq!((strength.unet, strength.text), (0.8, 0.0));
    assert_eq!(strength.to_string(), "unet=0.8,text=0:steps=5..15");
    for bad in ["", "ink", "ink:0.5", "nan", "0.5:"] {
        assert!(bad.parse::<Strength>().is_err(), "{bad}");
    }
    assert!(flag("x:0.5").validate().is_ok());
    assert!(LoraRef::new("x:0.5").validate().is_err());
    assert!(Strength { text: f32::NAN, ..Strength::default() }.validate().is_err());
}

fn weight() -> impl Strategy<Value = Option<f32>> {
    proptest::option::of(-MAX_WEIGHT..=MAX_WEIGHT)
}

fn name() -> impl Strategy<Value = String> {
    let usable = |name: &String| grammar::check_name(name).is_ok();
    "[a-zA-Z:/\\\\ ._=-]{0,12}[a-z]".prop_filter("settings in the name", usable)
}

fn blocks() -> impl Strategy<Value = BlockWeights> {
    let list = proptest::sample::select(vec![26usize, 20, 17, 12])
        .prop_flat_map(|n| proptest::collection::vec(-MAX_WEIGHT..=MAX_WEIGHT, n))
        .prop_map(|list| BlockWeights::list(list).unwrap());
    let presets = vec!["NONE", "ALL", "INS", "MIDD", "OUTALL", "ALL0.5"];
    prop_oneof![list, proptest::sample::select(presets).prop_map(|p: &str| p.parse().unwrap())]
}

fn steps() -> impl Strategy<Value = StepWindow> {
    prop_oneof![
        (0.0..1.0, 0.0..=1.0).prop_filter_map("empty", |(a, b)| StepWindow::fractions(a, b).ok()),
        (0usize..50, proptest::option::of(0usize..50))
            .prop_filter_map("empty", |(a, b)| StepWindow::steps(a, b).ok()),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        name in name(), unet in weight(), text in weight(),
        blocks in proptest::option::of(blocks()), steps in proptest::option::of(steps()),
    ) {
        let lora = LoraRef { name, unet, text, blocks, steps };
        prop_assert_eq!(&flag(&lora.to_string()), &lora);
        let json = serde_json::to_string(&lora).unwrap();
        prop_assert_eq!(&serde_json::from_str::<LoraRef>(&json).unwrap(), &lora);
        let table = toml::to_string(&lora).unwrap();
        prop_assert_eq!(&toml::from_str::<LoraRef>(&table).unwrap(), &lora);
        let strength = lora.strength(Some(0.5));
        prop_assert_eq!(strength.to_string().parse::<Strength>().unwrap(), strength);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s)(x:)?[-a-z0-9.,:=MIDA]{0,24}|.*") {
        for lora in [LoraRef::parse_flag(&text), LoraRef::parse_tag(&text)].into_iter().flatten() {
            prop_assert_eq!(&flag(&lora.to_string()), &lora);
        }
        let _ = (text.parse::<Strength>(), text.parse::<StepWindow>());
    }
}

/// A tag means the same as the LoRA that it was written for, and A1111 reads its weights.
#[test]
fn tags_are_those_of_a1111() {
    for (given, tag) in [
        ("ink:0.8", "ink:0.8"),
        ("a/b/ink.safetensors:unet=0.8,text=0.5", "ink:0.5:0.8"),
        ("ink:unet=0.8,text=0.5:steps=0..0.6", "ink:0.5:0.8:steps=0..0.6"),
        ("ink", "ink"),
        ("ink:unet=0.5", "ink:unet=0.5"),
    ] {
        let lora: LoraRef = given.parse().unwrap();
        assert_eq!(lora.tag(), tag);
        let again = LoraRef::parse_tag(tag).unwrap();
        assert_eq!(LoraRef { name: lora.name.clone(), ..again }, lora, "{given}");
    }
}
