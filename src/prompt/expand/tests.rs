use super::*;
use proptest::prelude::*;
use serde_json::Value as Json;

/// `dynamicprompts` 0.31.0, by `make_wildcards.py`.
fn vectors() -> Json {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/wildcards.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The collections of the vectors, as the files hold them.
fn collections() -> Collections {
    let mut all = Collections::default();
    let weighed = |text: &str, weight| Value { text: text.into(), weight };
    all.insert("colours", ["red", "green", "blue", "red"]);
    all.insert("colours-cold", ["ice blue", "teal"]);
    all.insert("animals/cats", ["siamese", "maine coon"]);
    all.insert("animals/dogs", ["poodle", "{old|young} beagle"]);
    all.insert("animals/wild/big", ["lion", "__colours__ tiger"]);
    all.insert("weights", ["2::often", "rarely"]);
    all.insert("crlf", ["one", "two"]);
    all.insert("clothes/hats", ["cap", "top hat"]);
    all.insert("clothes/shoes", ["boots"]);
    all.insert("mood", [weighed("calm", 3.0), weighed("wild", 1.0), weighed("odd", 2.0)]);
    all.insert("list", ["x", "y", "z"]);
    all.insert("deep/stars/near", ["sun"]);
    all.insert("deep/stars/far", ["vega", "deneb"]);
    all
}

fn all(template: &str, most: usize) -> Result<Vec<String>, ExpandError> {
    let wildcards = collections();
    Template::parse(template)?.all(&wildcards).take(most).collect()
}

/// What `dynamicprompts` raises at, and what is text here: `%`.
#[test]
fn enumerations_are_those_of_dynamicprompts() {
    let vectors = vectors();
    assert_eq!(vectors["collections"], Json::from(collections().names().collect::<Vec<_>>()));
    for case in vectors["combinatorial"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let found = all(template, 40);
        if case.get("error").is_some() {
            assert!(found.is_err(), "{template}");
            continue;
        }
        let mut expected: Vec<&str> =
            case["prompts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        match template {
            // An unknown wildcard is an error.
            "__nothing__" | "__pantry__" | "__COLOURS__" | "__a b__" => {
                assert!(found.unwrap_err().why.starts_with("there is no wildcard"), "{template}");
                continue;
            }
            // What never ends is taken once.
            "{~a|b}" | "{@1-2$$a|b}" => expected.truncate(1),
            _ => {}
        }
        assert_eq!(found.unwrap(), expected, "{template}");
    }
}

#[test]
fn chance_is_that_of_dynamicprompts() {
    let (vectors, wildcards) = (vectors(), collections());
    let mut count = 0;
    for case in vectors["random"].as_array().unwrap() {
        let text = case["template"].as_str().unwrap();
        let template = Template::parse(text).unwrap();
        let expected = case["prompts"].as_array().unwrap();
        let seeds = case.get("seeds").and_then(Json::as_array);
        let mut drawn = template.random(&wildcards, case["seed"].as_u64().unwrap_or_default());
        for (place, prompt) in expected.iter().enumerate() {
            if let Some(seeds) = seeds {
                drawn.reseed(seeds[place].as_u64().unwrap());
            }
            let found = drawn.next().unwrap().unwrap();
            assert_eq!(found, prompt.as_str().unwrap(), "{text}, {case}");
            count += 1;
        }
    }
    assert_eq!(count, 10 * (7 * 4 + 3));
}

#[test]
fn mistakes_are_pointed_at() {
    for (template, part, why) in [
        ("a {b|c", "{b|c", "not closed"),
        ("{a # b|c}", "{a # b|c}", "begins a comment"),
        ("$5", "$", "variable"),
        ("a_b__c d", "__c d", "no partner"),
        ("____", "____", "name is missing"),
        ("{a$$b}", "$", "no meaning"),
        ("${x}", "${x}", "has no value"),
        ("${x=${x}}${x}", "${x}", "its own value"),
        ("x __colors__", "__colors__", "did you mean `colours`"),
        ("{0::a}", "{0::a}", "weight above 0"),
        ("{-1.5::a|b}", "-1.5", "0 or more"),
        ("%{a}", "%{a", "between the two parts"),
        ("{a|${x=b}}", "${x=", "outside of braces"),
        ("__../x__", "__../x__", "no `..`"),
        ("${1}", "${", "name is missing"),
    ] {
        let error = all(template, 40).unwrap_err();
        assert_eq!(&error.text[error.span.clone()], part, "{template}: {error}");
        assert!(error.why.contains(why), "{template}: {error}");
    }
    let deep = "{".repeat(200) + &"}".repeat(200);
    assert!(all(&deep, 1).unwrap_err().why.contains("more than 100"));
}

#[test]
fn a_wildcard_in_itself_is_an_error() {
    let mut wildcards = Collections::default();
    wildcards.insert("a", ["__b__"]);
    wildcards.insert("b", ["x __a__"]);
    wildcards.insert("bad", ["{x"]);
    for method in [Method::All, Method::Random, Method::Cyclic] {
        let template = Template::parse("__a__").unwrap();
        let error = template.expansion(method, &wildcards, 0).next().unwrap().unwrap_err();
        assert!(error.why.contains("contain itself"), "{error}");
        assert!(error.collection.is_some());
    }
    let error =
        Template::parse("__bad__").unwrap().random(&wildcards, 0).next().unwrap().unwrap_err();
    assert_eq!((error.text.as_str(), error.collection.as_deref()), ("{x", Some("bad")));
    // `{…}` around it takes another way.
    let mut same = Collections::default();
    same.insert("a", ["{__a__}"]);
    assert!(Template::parse("{__a__}").unwrap().all(&same).next().unwrap().is_err());
}

#[test]
fn huge_templates_end() {
    let doubled =
        |text: String, n: usize| text + &format!("${{x{n}=${{x{}}}${{x{}}}}}", n - 1, n - 1);
    let bomb = (1..40).fold(String::new(), doubled);
    let error = all(&format!("${{x0=abc}}{bomb}${{x39}}"), 1).unwrap_err();
    assert!(error.why.contains("steps") || error.why.contains("longer"), "{error}");
    // A quintillion prompts are listed as far as they are wanted.
    assert_eq!(all(&"{a|b|c|d|e|f|g|h}".repeat(20), 3).unwrap().len(), 3);
    // Equal results of a choice come once, and looking for more of them ends.
    let equal = format!("{{9$${}}}", ["{x|x}"; 9].join("|"));
    assert!(all(&equal, 1).unwrap().is_empty());
    let alike: Vec<String> = (1..10).map(|n| format!("{{x|x|{{{n}::x}}}}")).collect();
    assert!(all(&format!("{{9$${}}}", alike.join("|")), 1).unwrap_err().why.contains("steps"));
}

#[test]
fn what_differs_from_dynamicprompts() {
    assert_eq!(all("50% {a|b}", 9).unwrap(), ["50% a", "50% b"]);
    assert_eq!(all("// {a|b} /* c */", 9).unwrap(), ["// a /* c */", "// b /* c */"]);
    assert_eq!(all("", 9).unwrap(), [""]);
    assert_eq!(all("${x={~a|b}}${x}", 9).unwrap().len(), 1);
    assert_eq!(all("a # b\nc", 9).unwrap(), ["a \nc"]);
    let mut wildcards = Collections::default();
    wildcards.insert(
        "x",
        [Value { text: "a".into(), weight: 0.5 }, Value { text: "b".into(), weight: 0.0 }],
    );
    let found: Vec<_> =
        Template::parse("__x__").unwrap().all(&wildcards).map(Result::unwrap).collect();
    assert_eq!(found, ["a"]);
    // The heavier of two equal weights is taken away where it is picked.
    let template = Template::parse("{2$$1::a|9::b|1::c}").unwrap();
    let drawn = template.random(&wildcards, 1).take(200).map(Result::unwrap);
    assert!(drawn.filter(|text| text.contains('b')).count() > 150);
}

proptest! {
    #[test]
    fn no_template_panics(text in r"([{}|$!~@:#% \n]|\$\$|\$\{|%\{|__|[0-2]|[abx]|::|=|\.\.\.|colours|\(|\)){0,24}|(?s).{0,40}", seed: u64) {
        let wildcards = collections();
        if let Ok(template) = Template::parse(&text) {
            for method in [Method::All, Method::Random, Method::Cyclic] {
                for prompt in template.expansion(method, &wildcards, seed).take(3) {
                    if let Err(error) = prompt {
                        prop_assert!(error.text.get(error.span.clone()).is_some(), "{:?}", error);
                    }
                }
            }
        } else if let Err(error) = Template::parse(&text) {
            prop_assert!(error.span.end <= text.len() && text.get(error.span).is_some());
        }
    }

    #[test]
    fn text_without_signs_stays(text in "[a-z0-9 ,.()<>:*/!?+-]{0,40}") {
        let wildcards = Collections::default();
        let template = Template::parse(&text).unwrap();
        prop_assert!(template.is_text());
        let listed: Vec<String> = template.all(&wildcards).map(Result::unwrap).collect();
        prop_assert_eq!(&listed[..], std::slice::from_ref(&text));
    }
}
