//! The description of every route, in OpenAPI's form. It is kept by hand, in parts by topic; tests hold it against
//! the routes, the fields that requests are read for, and what is answered.

use std::sync::LazyLock;

use serde_json::{Value, json};

const PARTS: [&str; 8] = [
    include_str!("base.json"),
    include_str!("generate.json"),
    include_str!("infill.json"),
    include_str!("remask.json"),
    include_str!("answers.json"),
    include_str!("responses.json"),
    include_str!("tokens.json"),
    include_str!("operations.json"),
];

/// The whole of it.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut whole = json!({});
    for part in PARTS {
        // That all of them are JSON is tested below.
        merge(&mut whole, serde_json::from_str(part).unwrap_or_default());
    }
    whole["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    whole
});

/// Adds the members of an object to another, and theirs where both have the same.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn members(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    /// Calls `visit` with every value of the document.
    fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
        visit(value);
        match value {
            Value::Object(object) => object.values().for_each(|inner| walk(inner, visit)),
            Value::Array(array) => array.iter().for_each(|inner| walk(inner, visit)),
            _ => {}
        }
    }

    #[test]
    fn the_parts_make_one_document() {
        let mut names = Vec::new();
        for part in PARTS {
            let part: Value = serde_json::from_str(part).unwrap();
            for section in [&part["paths"], &part["components"]["schemas"]] {
                names.extend(section.as_object().into_iter().flat_map(|section| section.keys().cloned()));
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "no part takes the place of another's");
        assert_eq!(DOCUMENT["openapi"], "3.1.0");
        let mut ids = Vec::new();
        let mut used = BTreeSet::new();
        walk(&DOCUMENT, &mut |value| {
            if let Some(id) = value.get("operationId") {
                ids.push(id.to_string());
            }
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(DOCUMENT.pointer(pointer).is_some(), "{target} leads nowhere");
                used.insert(target.rsplit('/').next().unwrap().to_owned());
            }
        });
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "an operation's name is its own");
        for section in ["schemas", "responses", "parameters"] {
            let unused: Vec<_> =
                members(&DOCUMENT["components"][section]).into_iter().filter(|name| !used.contains(name)).collect();
            assert!(unused.is_empty(), "{unused:?} are used nowhere");
        }
    }

    #[test]
    fn every_route_is_in_it_and_nothing_else() {
        let routes = crate::routes::paths().map(|path| path.replace("{*", "{"));
        assert_eq!(routes.collect::<BTreeSet<_>>(), members(&DOCUMENT["paths"]));
    }

    /// Names that serde lists where it refuses a field.
    fn known<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
        let message = serde_json::from_value::<T>(json!({"no such field": 1})).err().unwrap().to_string();
        let (_, names) = message.split_once("expected one of ").unwrap();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn settings_of_the_decoder_are_all_in_it() {
        let schemas = &DOCUMENT["components"]["schemas"];
        let mut settings = known::<remask::core::DecodeSettings>();
        settings.extend(["step_events".to_owned(), "canvas".to_owned()]);
        assert_eq!(members(&schemas["Remask"]["properties"]), settings);
        let defaults = json!(remask::core::MorConfig::default());
        assert_eq!(members(&schemas["Mor"]["properties"]), members(&defaults));
        for (name, property) in schemas["Mor"]["properties"].as_object().unwrap() {
            // A setting is a float32, whose digits are fewer.
            let same = match (property["default"].as_f64(), defaults[name].as_f64()) {
                (Some(said), Some(real)) => (said - real).abs() < 1e-6,
                _ => property["default"] == defaults[name],
            };
            assert!(same, "{name} is {} by default", defaults[name]);
        }
        let parts: BTreeSet<_> =
            schemas["Part"]["oneOf"].as_array().unwrap().iter().flat_map(|part| members(&part["properties"])).collect();
        assert_eq!(parts, known::<remask::core::request::Part>());
    }

    /// Names of all properties of a schema, of what it refers to, and of what stands inside.
    fn properties(schema: &Value, names: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
        walk(schema, &mut |value| {
            names.extend(value["properties"].as_object().into_iter().flat_map(|inner| inner.keys().cloned()));
            let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
            if let Some(target) = target.filter(|target| seen.insert((*target).to_owned())) {
                properties(DOCUMENT.pointer(target).unwrap(), names, seen);
            }
        });
    }

    /// Fields that a source file reads of requests: the first argument of each call that reads one.
    fn read_by(source: &str) -> BTreeSet<String> {
        const READERS: [&str; 12] = [
            ".bool(",
            ".string(",
            ".number(",
            ".integer(",
            ".bits(",
            ".strings(",
            ".ids(",
            ".object(",
            ".get(",
            ".refuse_unless(",
            "refuse_true(",
            "option(",
        ];
        let mut names = BTreeSet::new();
        for reader in READERS {
            for call in source.split(reader).skip(1) {
                let name = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                names.extend(name.map(str::to_owned));
            }
        }
        names
    }

    #[test]
    fn every_field_that_is_read_is_in_it() {
        let files = [
            (include_str!("../ask.rs"), &["CompletionRequest", "ChatRequest"][..], 45),
            (include_str!("../routes/infill.rs"), &["InfillRequest"], 10),
            (include_str!("../routes/responses.rs"), &["ResponseRequest"], 8),
            (include_str!("../routes/tokens.rs"), &["TokenizeRequest", "DetokenizeRequest"], 7),
        ];
        for (source, schemas, least) in files {
            let (mut documented, mut seen) = (BTreeSet::new(), BTreeSet::new());
            for schema in schemas {
                properties(&DOCUMENT["components"]["schemas"][schema], &mut documented, &mut seen);
            }
            let read = read_by(source);
            assert!(read.len() >= least, "fields are found in the source: {read:?}");
            let missing: Vec<_> = read.difference(&documented).collect();
            assert!(missing.is_empty(), "{schemas:?} lack {missing:?}");
        }
    }
}
