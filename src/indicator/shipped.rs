//! Declarations: the shipped ones hold, and wrong ones are told with what would be right.

use std::path::Path;

use super::support::{City, profiles};
use super::{Definition, check, descriptions, parse};
use crate::inventory::Inventory;
use crate::problem::Problem;

fn shipped() -> Vec<Definition> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/indicators");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let parse = |file: &std::path::PathBuf| {
        let text = std::fs::read_to_string(file).expect("a file");
        parse(&file.display().to_string(), &text).expect("a shipped file parses")
    };
    files.iter().flat_map(parse).collect()
}

#[test]
fn the_documentation_lists_every_shipped_indicator() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/indicators.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    for definition in shipped() {
        let it = &definition.description;
        let row = format!("| {} | {} / {} | {} | `", it.id, it.name, it.name_zh, it.unit);
        assert!(text.contains(&row), "{row}");
        assert!(text.contains(&format!(" | {} |\n", it.source)), "{}", it.source);
    }
}

/// A good declaration with one line replaced.
fn declare(from: &str, to: &str) -> Result<Vec<Definition>, Vec<Problem>> {
    let text = r#"
[[indicator]]
id = "DC1"
name = "PUE"
name_zh = "电能利用效率"
unit = "1"
source = "ISO/IEC 30134-2"
site_kind = "data_centre"
levels = ["site", "city"]
windows = ["15m", "1h"]
formula = "total / it"
[indicator.inputs]
total = { metric = "total_energy_kwh", aggregate = "total" }
it = { metric = "it_energy_kwh", aggregate = "total" }
[indicator.target]
sense = "<="
value = 1.3
levels = ["city"]
source = "test"
"#;
    assert!(text.contains(from), "{from}");
    parse("dc.toml", &text.replacen(from, to, 1))
}

fn fault(from: &str, to: &str) -> String {
    let problems = match declare(from, to) {
        Err(problems) => problems,
        Ok(definitions) => check(&definitions, &profiles(), &Inventory::default()),
    };
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_indicators_parse_and_fit_the_profiles() {
    let mut city = City::new();
    city.site("DC", "data_centre", "350102", "fuzhou-cloud", &[("racks_built", 1.0), ("design_kw", 1.0)]);
    city.site("PT", "port", "350105", "fuzhou-port", &[("teu_capacity", 1.0), ("berths", 1.0)]);
    let definitions = shipped();
    assert_eq!(check(&definitions, &profiles(), &city.inventory), []);
    let ids: Vec<_> = descriptions(&definitions).iter().map(|description| description.id.clone()).collect();
    let expected =
        ["BS7", "BS8", "BS13", "BS16", "CT4", "SC1", "DC1", "DC8", "DC10", "DC11", "PT1", "PT6", "PT7", "PT9"];
    assert_eq!(ids, expected);
}

#[test]
fn the_good_declaration_has_no_problem() {
    assert_eq!(fault("id", "id"), "");
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let text = r#"
indikator = 1
[[indicator]]
id = "no good"
colour = "red"
unit = "watts"
levels = ["town"]
windows = []
formula = "a +"
[indicator.inputs]
b = { metric = "x", aggregate = "median" }
c = { metric = "x", attribute = "y" }
"#;
    let problems = parse("bad.toml", text).expect_err("problems");
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    for key in [
        "indikator",
        "indicator[0].id",
        "indicator[0].name",
        "indicator[0].name_zh",
        "indicator[0].source",
        "indicator[0].unit",
        "indicator[0].levels[0]",
        "indicator[0].windows",
        "indicator[0].formula",
        "indicator[0].colour",
        "indicator[0].inputs.b.aggregate",
        "indicator[0].inputs.c",
    ] {
        assert!(keys.contains(&key), "{key} among {keys:?}");
    }
}

#[test]
fn a_wrong_unit_is_told_with_the_factor_that_is_missing() {
    let told = fault("unit = \"1\"", "unit = \"%\"");
    assert!(told.contains("DC1: the formula gives 1, not %: multiply it by 100"), "{told}");
    let told = fault("unit = \"1\"", "unit = \"kWh\"");
    assert!(told.contains("the formula gives 1, and the unit says kWh"), "{told}");
    let told = fault("\"total / it\"", "\"total * it / it\"");
    assert!(told.contains("the formula gives kWh, and the unit says 1"), "{told}");
    let told = fault("\"total\" }\nit", "\"total\", unit = \"MWh\" }\nit");
    assert!(told.contains("has total_energy_kwh in kWh, not in MWh"), "{told}");
}

#[test]
fn what_does_not_exist_is_told_with_what_does() {
    let told = fault("total_energy_kwh", "totl_energy_kwh");
    assert!(told.contains("no profile has the metric `totl_energy_kwh`; there are allocated_s, "), "{told}");
    let told = fault("it = { metric", "it = { profiles = [\"dc-upps\"], metric");
    assert!(told.contains("no profile is called `dc-upps`"), "{told}");
    let told = fault("total / it", "total / ti");
    assert!(told.contains("names `ti`, which is none of the inputs: it, total"), "{told}");
    assert!(told.contains("indicator[0].inputs.it"), "{told}");
    let told = fault("it_energy_kwh\", aggregate = \"total\"", "inlet_temp_c\", aggregate = \"total\"");
    assert!(told.contains("total is of counters and deltas"), "{told}");
    let told = fault("it_energy_kwh\", aggregate = \"total\"", "it_energy_kwh\", aggregate = \"mean\"");
    assert!(told.contains("mean of a counter means nothing"), "{told}");
    let told = fault("it_energy_kwh\", aggregate = \"total\"", "in_use\", aggregate = \"minutes_in_band\"");
    assert!(told.contains("gives in_use no band"), "{told}");
}

#[test]
fn an_attribute_must_be_one_of_the_inventory() {
    let definitions = declare(
        "it = { metric = \"it_energy_kwh\", aggregate = \"total\" }",
        "it = { attribute = \"racks_bilt\", unit = \"kWh\" }",
    )
    .expect("it parses");
    let mut city = City::new();
    assert_eq!(check(&definitions, &profiles(), &city.inventory), [], "without sites nothing can be said");
    city.site("DC", "data_centre", "350102", "fuzhou-cloud", &[("racks_built", 1.0)]);
    let problems = check(&definitions, &profiles(), &city.inventory);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .message
            .contains("no site of kind data_centre has the attribute `racks_bilt`; there are racks_built")
    );
}

#[test]
fn an_identifier_is_declared_once() {
    let definitions = declare("id", "id").expect("it parses");
    let twice: Vec<_> = definitions.iter().chain(&definitions).cloned().collect();
    let problems = check(&twice, &profiles(), &Inventory::default());
    assert!(problems[0].message.contains("DC1 is declared before"), "{problems:?}");
}

#[test]
fn a_target_holds_at_levels_the_indicator_has() {
    let told = fault("levels = [\"city\"]", "levels = [\"district\"]");
    assert!(told.contains("district is not among the indicator's levels"), "{told}");
    let told = fault("sense = \"<=\"", "sense = \"<\"");
    assert!(told.contains("`<` is neither >= nor <="), "{told}");
    let told = fault("windows = [\"15m\", \"1h\"]", "windows = [\"15m\"]\nsite_windows = [\"1h\"]");
    assert!(told.contains("1h is not among the windows"), "{told}");
    let told = fault("it = { metric = \"it_energy_kwh\", aggregate = \"total\" }", "it = { population = true }");
    assert!(told.contains("population is known of areas"), "{told}");
}

#[test]
fn text_that_is_no_toml_is_one_problem() {
    let problems = parse("bad.toml", "[[indicator]\nid = 1").expect_err("a problem");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.starts_with("is no TOML: "), "{}", problems[0].message);
}

proptest::proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(\\[\\[indicator\\]\\]\n)?([a-z_]{1,8} = [ -~]{0,12}\n){0,6}") {
        let _ = parse("x.toml", &text);
    }
}
