//! The JSON schema of the configuration, made from its types: for editors (`millrace schema`), for the check of a file
//! and for the reference.
//!
//! In: types. Out: a schema with tagged kinds written out. Touches nothing.

use schemars::JsonSchema;
use serde_json::Value as Json;

use super::types::Config;

/// The JSON schema of the configuration, for editors (`millrace schema`) and for the check.
pub fn schema() -> Json {
    schema_of::<Config>()
}

pub(super) fn schema_of<T: JsonSchema>() -> Json {
    let mut schema = schemars::schema_for!(T).to_value();
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    inline_tagged(&mut schema, &definitions);
    schema
}

/// A kind that is distinguished by `type:` refers to its struct and adds the tag beside the reference; the struct alone
/// would refuse the tag as an unknown key. Joins the two.
fn inline_tagged(schema: &mut Json, definitions: &Json) {
    match schema {
        Json::Array(items) => items.iter_mut().for_each(|item| inline_tagged(item, definitions)),
        Json::Object(map) => {
            map.values_mut().for_each(|value| inline_tagged(value, definitions));
            let target = map.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
            let target = target.and_then(|name| definitions.get(name)).and_then(Json::as_object).cloned();
            if let (Some(target), Some(Json::Object(own))) = (target, map.get("properties").cloned()) {
                map.remove("$ref");
                let mut properties = own;
                properties.extend(target.get("properties").and_then(Json::as_object).cloned().unwrap_or_default());
                map.insert("properties".to_owned(), Json::Object(properties));
                for (key, value) in target {
                    map.entry(key).or_insert(value);
                }
            }
        }
        _ => {}
    }
}
