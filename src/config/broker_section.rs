//! The section `broker:` of the configuration: the broker itself, and the routes between its topics.
//!
//! In: one map of YAML. Out: the settings of two rooms that don't know each other. Touches nothing.

use millrace_broker::BrokerConfig;
use millrace_log::value::Faults;
use millrace_streams::route::config::{self as routes, RouteConfig, RoutingConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value as Json};

/// The broker, and copies from topic to topic.
#[derive(Debug, Clone, Default)]
pub struct BrokerSection {
    /// The embedded log.
    pub server: BrokerConfig,
    /// Copies records from topic to topic, each exactly once.
    pub routes: Vec<RouteConfig>,
    /// How routes run.
    pub routing: RoutingConfig,
}

impl BrokerSection {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        self.server.check(faults);
        faults.within("routes", |faults| routes::check(&self.routes, faults));
        for (i, route) in self.routes.iter().enumerate() {
            if let Err(error) = millrace_streams::route::Selector::parse(&route.selector) {
                faults.add(&format!("routes[{i}].match"), error.to_string());
            }
        }
        faults.within("routing", |faults| self.routing.check(faults));
    }
}

impl Serialize for BrokerSection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Json::Object(server) = serde_json::to_value(&self.server).map_err(S::Error::custom)? else {
            return Err(S::Error::custom("settings of the broker are a map"));
        };
        let mut map = serializer.serialize_map(Some(server.len() + 2))?;
        for (key, value) in &server {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("routes", &self.routes)?;
        map.serialize_entry("routing", &self.routing)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for BrokerSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn part<T: DeserializeOwned + Default, E: serde::de::Error>(value: Option<Json>) -> Result<T, E> {
            value.map_or_else(|| Ok(T::default()), |value| serde_json::from_value(value).map_err(E::custom))
        }
        let mut map = Map::deserialize(deserializer)?;
        let routes = part(map.shift_remove("routes"))?;
        let routing = part(map.shift_remove("routing"))?;
        let server = serde_json::from_value(Json::Object(map)).map_err(D::Error::custom)?;
        Ok(Self { server, routes, routing })
    }
}

impl JsonSchema for BrokerSection {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BrokerSection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = BrokerConfig::json_schema(generator);
        let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
        let parts = [
            (
                "routes",
                generator.subschema_for::<Vec<RouteConfig>>(),
                "Copies records from topic to topic, each exactly once.",
            ),
            ("routing", generator.subschema_for::<RoutingConfig>(), "How routes run."),
        ];
        if let Some(Json::Object(properties)) = schema.get_mut("properties") {
            for (key, mut part, description) in parts {
                part.insert("description".to_owned(), description.into());
                part.insert("default".to_owned(), defaults.get(key).cloned().unwrap_or_default());
                properties.insert(key.to_owned(), part.to_value());
            }
        }
        schema
    }
}
