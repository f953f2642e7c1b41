//! Tenants of HTTP requests: whose data a request is about.
//!
//! In: headers. Out: a [`Tenant`] in the request's extensions, or a refusal with 400 or 403. Touches nothing.

use http::{HeaderMap, HeaderName, StatusCode};
use millrace_log::record::Tenant;

use crate::identity::{Identity, Role, Tenants};
use crate::refusal::Refusal;

/// Header that names the tenant, as in Loki and Mimir.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Tenant of audit events. A login for all tenants may ask for it only with the role `admin`.
pub const AUDIT_TENANT: &str = "millrace.audit";

/// How a listener finds the tenant of a request.
#[derive(Debug, Clone)]
pub struct TenantRule {
    /// Header that names it. `None`: clients can't.
    pub header: Option<HeaderName>,
    /// The tenant where none is named. `None`: the router decides, for `implied`.
    pub default: Option<Tenant>,
    /// Whose data the router takes a request for that names no tenant, where there is no `default`.
    pub implied: Tenant,
}

impl Default for TenantRule {
    fn default() -> Self {
        Self { header: Some(TENANT_HEADER), default: Some(Tenant::default()), implied: Tenant::default() }
    }
}

impl TenantRule {
    /// The tenant of a request: one that its sender is for.
    pub fn of(&self, headers: &HeaderMap, who: &Identity) -> Result<Option<Tenant>, Refusal> {
        let named = self.header.as_ref().and_then(|header| Some((header, headers.get(header)?)));
        let own = &who.rights.tenants;
        let Some((header, name)) = named else {
            if own.has(self.default.as_ref().unwrap_or(&self.implied)) {
                return Ok(self.default.clone());
            }
            // Whoever is for one tenant only need not say which, where it could.
            return match (own.single(), &self.header) {
                (Some(tenant), Some(_)) => Ok(Some(tenant.clone())),
                (None, Some(header)) => {
                    Err(forbidden(who, &format!("name one of your tenants in the header {header}")))
                }
                (_, None) => Err(forbidden(who, &format!("the endpoint is for the tenant `{}`", self.implied))),
            };
        };
        let name = String::from_utf8_lossy(name.as_bytes());
        let mut all = Vec::new();
        for part in name.split('|') {
            let tenant = Tenant::new(part)?;
            let is_hidden = tenant.as_str() == AUDIT_TENANT && own == &Tenants::All && !who.rights.has(Role::Admin);
            if is_hidden || !own.has(&tenant) {
                return Err(forbidden(who, &format!("tenant `{tenant}` is not one of yours")));
            }
            all.push(tenant);
        }
        if all.len() > 1 {
            return Err(Refusal::bad(format!("header {header}: queries over several tenants are not supported yet")));
        }
        Ok(all.pop())
    }
}

fn forbidden(who: &Identity, why: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, format!("`{}` may not do this: {why}", who.name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Rights;

    fn who(tenants: &[&str]) -> Identity {
        let named: Vec<Tenant> = tenants.iter().map(|name| Tenant::new(name).unwrap()).collect();
        let tenants = if named.is_empty() { Tenants::All } else { Tenants::Named(named.into()) };
        Identity { name: "x".into(), rights: Rights { roles: Arc::new([Role::Read]), tenants, selector: None } }
    }

    #[test]
    fn tenants_come_from_the_header() {
        let own =
            TenantRule { header: Some(HeaderName::from_static("x-team")), default: None, ..TenantRule::default() };
        let none = TenantRule { header: None, default: None, ..TenantRule::default() };
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
            let found = rule.of(&headers, &who(&[]));
            match want {
                Ok(want) => assert_eq!(found.unwrap().as_ref().map(Tenant::as_str), want, "{name}: {value}"),
                Err(text) => {
                    let refusal = found.unwrap_err();
                    assert!(refusal.status == 400 && refusal.text.starts_with(text), "{}", refusal.text);
                }
            }
        }
    }

    #[test]
    fn nobody_gets_a_tenant_that_is_not_theirs() {
        let usual = TenantRule::default();
        let fixed = TenantRule { header: None, default: None, implied: Tenant::new("b").unwrap() };
        let pushed = TenantRule { default: None, ..TenantRule::default() };
        for (rule, tenants, named, want) in [
            (&usual, vec!["a"], None, Ok(Some("a"))),
            (&usual, vec!["a"], Some("a"), Ok(Some("a"))),
            (&usual, vec!["a"], Some("b"), Err(403)),
            (&usual, vec!["a"], Some("a|b"), Err(403)),
            (&usual, vec!["a"], Some("default"), Err(403)),
            (&usual, vec!["a", "b"], None, Err(403)),
            (&usual, vec!["a", "b"], Some("b"), Ok(Some("b"))),
            (&usual, vec!["a", "b"], Some("a|b"), Err(400)),
            (&usual, vec!["default", "b"], None, Ok(Some("default"))),
            (&fixed, vec!["a"], None, Err(403)),
            (&fixed, vec!["a", "b"], None, Ok(None)),
            (&fixed, vec![], None, Ok(None)),
            (&usual, vec![], Some(AUDIT_TENANT), Err(403)),
            (&usual, vec![AUDIT_TENANT], Some(AUDIT_TENANT), Ok(Some(AUDIT_TENANT))),
            (&pushed, vec!["a"], None, Ok(Some("a"))),
            (&pushed, vec!["default"], None, Ok(None)),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(named.map(|named| (TENANT_HEADER, named.parse().unwrap())));
            let found = rule.of(&headers, &who(&tenants));
            let found = found.as_ref().map(|t| t.as_ref().map(Tenant::as_str)).map_err(|r| r.status.as_u16());
            assert_eq!(found, want, "{tenants:?} {named:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(TENANT_HEADER, AUDIT_TENANT.parse().unwrap());
        assert!(usual.of(&headers, &Identity::unlimited("admin")).is_ok());
    }
}
