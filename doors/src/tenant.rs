//! Tenants of HTTP requests: whose data a request is about.
//!
//! In: headers. Out: a [`Tenant`] in the request's extensions, or [`SeveralTenants`] for routes that join them, or a
//! refusal with 400 or 403. Touches nothing.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode};
use millrace_log::record::Tenant;

use crate::identity::{Identity, Role, Tenants};
use crate::refusal::Refusal;

/// Header that names the tenant, as in Loki and Mimir.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-scope-orgid");

/// Tenant of audit events. A login for all tenants may ask for it only with the role `admin`.
pub const AUDIT_TENANT: &str = "millrace.audit";

/// Tenants that one request may name.
const MAX_TENANTS: usize = 64;

/// Two or more tenants of one request, sorted, each once. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeveralTenants(Arc<[Tenant]>);

impl SeveralTenants {
    /// Of a list with at least two different ones.
    pub fn new(mut tenants: Vec<Tenant>) -> Option<Self> {
        tenants.sort_unstable();
        tenants.dedup();
        (tenants.len() > 1).then(|| Self(tenants.into()))
    }

    /// All of them.
    pub fn all(&self) -> &[Tenant] {
        &self.0
    }

    /// The list itself, shared.
    pub fn shared(&self) -> Arc<[Tenant]> {
        Arc::clone(&self.0)
    }
}

/// As the header has them: `a|b`.
impl fmt::Display for SeveralTenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tenant) in self.0.iter().enumerate() {
            write!(f, "{}{tenant}", if i == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

/// Whose data a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One tenant's.
    One(Tenant),
    /// That of several, together.
    Several(SeveralTenants),
}

impl Whose {
    /// Of a list; `None` if it is empty.
    fn of(tenants: Vec<Tenant>) -> Option<Self> {
        let first = tenants.first().cloned();
        SeveralTenants::new(tenants).map(Self::Several).or_else(|| first.map(Self::One))
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(tenant) => tenant.fmt(f),
            Self::Several(tenants) => tenants.fmt(f),
        }
    }
}

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
    /// The tenant of a request, or several: all of them such that its sender is for them.
    pub fn of(&self, headers: &HeaderMap, who: &Identity) -> Result<Option<Whose>, Refusal> {
        let named = self.header.as_ref().and_then(|header| Some((header, headers.get(header)?)));
        let own = &who.rights.tenants;
        let Some((header, name)) = named else {
            if own.has(self.default.as_ref().unwrap_or(&self.implied)) {
                return Ok(self.default.clone().map(Whose::One));
            }
            // Whoever is for one tenant only need not say which, where it could.
            return match (own.single(), &self.header) {
                (Some(tenant), Some(_)) => Ok(Some(Whose::One(tenant.clone()))),
                (None, Some(header)) => {
                    Err(forbidden(who, &format!("name one of your tenants in the header {header}")))
                }
                (_, None) => Err(forbidden(who, &format!("the endpoint is for the tenant `{}`", self.implied))),
            };
        };
        let name = String::from_utf8_lossy(name.as_bytes());
        let count = name.split('|').count();
        if count > MAX_TENANTS {
            return Err(Refusal::bad(format!("header {header} names {count} tenants, {MAX_TENANTS} are allowed")));
        }
        let mut all = Vec::with_capacity(count);
        for part in name.split('|') {
            let tenant = Tenant::new(part)?;
            let is_hidden = tenant.as_str() == AUDIT_TENANT && own == &Tenants::All && !who.rights.has(Role::Admin);
            if is_hidden || !own.has(&tenant) {
                return Err(forbidden(who, &format!("tenant `{tenant}` is not one of yours")));
            }
            all.push(tenant);
        }
        Ok(Whose::of(all))
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
                Ok(want) => assert_eq!(found.unwrap().map(|t| t.to_string()).as_deref(), want, "{name}: {value}"),
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
            (&usual, vec!["a", "b"], Some("a|b"), Ok(Some("a|b"))),
            (&usual, vec!["a", "b", "c"], Some("b|a|b"), Ok(Some("a|b"))),
            (&usual, vec!["a", "b"], Some("b|b"), Ok(Some("b"))),
            (&usual, vec!["a", "b"], Some("a|b|c"), Err(403)),
            (&usual, vec!["a", "b"], Some("a|"), Err(400)),
            (&usual, vec!["a", "b"], Some("a|b/c"), Err(400)),
            (&usual, vec![], Some("b|a"), Ok(Some("a|b"))),
            (&usual, vec![], Some("a|millrace.audit"), Err(403)),
            (&fixed, vec!["b"], Some("a|b"), Ok(None)),
            (&pushed, vec!["a", "b"], Some("a|b"), Ok(Some("a|b"))),
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
            let found = found.map(|whose| whose.map(|whose| whose.to_string())).map_err(|r| r.status.as_u16());
            assert_eq!(found.as_ref().map(|whose| whose.as_deref()), want.as_ref().copied(), "{tenants:?} {named:?}");
        }
        // The refusal names the tenant, and there is a bound.
        let mut headers = HeaderMap::new();
        headers.insert(TENANT_HEADER, "a|b|c".parse().unwrap());
        let refusal = usual.of(&headers, &who(&["a", "c"])).unwrap_err();
        assert_eq!(refusal.text, "`x` may not do this: tenant `b` is not one of yours");
        headers.insert(TENANT_HEADER, ["a"; 65].join("|").parse().unwrap());
        let refusal = usual.of(&headers, &who(&[])).unwrap_err();
        assert_eq!(
            (refusal.status.as_u16(), refusal.text.as_str()),
            (400, "header x-scope-orgid names 65 tenants, 64 are allowed")
        );
        let mut headers = HeaderMap::new();
        headers.insert(TENANT_HEADER, AUDIT_TENANT.parse().unwrap());
        assert!(usual.of(&headers, &Identity::unlimited("admin")).is_ok());
    }
}
