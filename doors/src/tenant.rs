//! Tenants of HTTP requests: whose data a request is about.
//!
//! In: headers. Out: a [`Tenant`] in the request's extensions, or a refusal with 400. Touches nothing.

use http::{HeaderMap, HeaderName};
use millrace_log::record::Tenant;

use crate::login::Identity;
use crate::refusal::Refusal;

/// Header that names the tenant, as in Loki and Mimir.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-scope-orgid");

/// How a listener finds the tenant of a request.
#[derive(Debug, Clone)]
pub struct TenantRule {
    /// Header that names it. `None`: clients can't.
    pub header: Option<HeaderName>,
    /// The tenant where none is named. `None`: the router decides.
    pub default: Option<Tenant>,
}

impl Default for TenantRule {
    fn default() -> Self {
        Self { header: Some(TENANT_HEADER), default: Some(Tenant::default()) }
    }
}

impl TenantRule {
    /// The tenant of a request. Whoever may log in may name any tenant.
    pub fn of(&self, headers: &HeaderMap, _who: &Identity) -> Result<Option<Tenant>, Refusal> {
        let named = self.header.as_ref().and_then(|header| headers.get(header));
        match named {
            None => Ok(self.default.clone()),
            Some(name) => Ok(Some(Tenant::new(&String::from_utf8_lossy(name.as_bytes()))?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_come_from_the_header() {
        let own = TenantRule { header: Some(HeaderName::from_static("x-team")), default: None };
        let none = TenantRule { header: None, default: None };
        let usual = TenantRule::default();
        for (rule, name, value, want) in [
            (&usual, "x-other", "a", Ok(Some("default"))),
            (&usual, "x-scope-orgid", "team-a", Ok(Some("team-a"))),
            (&usual, "x-scope-orgid", "a/b", Err("tenant `a/b`")),
            (&usual, "x-scope-orgid", "", Err("tenant ``")),
            (&own, "x-scope-orgid", "team-a", Ok(None)),
            (&own, "x-team", "team-b", Ok(Some("team-b"))),
            (&none, "x-scope-orgid", "a/b", Ok(None)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            let found = rule.of(&headers, &Identity { name: "x".into() });
            match want {
                Ok(want) => assert_eq!(found.unwrap().as_ref().map(Tenant::as_str), want, "{name}: {value}"),
                Err(text) => {
                    let refusal = found.unwrap_err();
                    assert!(refusal.status == 400 && refusal.text.starts_with(text), "{}", refusal.text);
                }
            }
        }
    }
}
