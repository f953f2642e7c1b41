//! What somebody may do of whom the provider says which groups they are in.
//!
//! In: entries of `access.oidc.grants`, claims of a token. Out: which entries match, and [`Rights`]. Touches nothing.
//!
//! Rights are one set of roles for one set of tenants. Entries that match are therefore joined only where the result
//! allows nothing that neither of them allows: `read` for tenant `a` and `admin` for tenant `b` must not become `admin`
//! for `a`. What can't be joined is left out, in the order of the file. A selector is a limit: who matches an entry with
//! one is limited by it, whatever entries without one match as well.

use millrace_log::record::Tenant;
use serde_json::Value as Json;

use super::config::{EVERYBODY, GrantConfig};
use super::token::Claims;
use crate::access::grant::rights;
use crate::identity::{Rights, Role, Tenants};

/// Longest name that is kept.
const MAX_NAME: usize = 100;

/// Entries of `grants`, in their order.
pub(super) struct Grants(Vec<(String, Rights)>);

/// What entries that match allow together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// It.
    pub rights: Rights,
    /// Groups whose entries could not be joined with the others.
    pub left_out: Vec<String>,
}

impl Grants {
    /// Of the configuration.
    pub fn new(config: &[GrantConfig]) -> Self {
        let of = |grant: &GrantConfig| (grant.group.clone(), rights(&grant.roles, &grant.tenants, &grant.selector));
        Self(config.iter().map(of).collect())
    }

    /// Places of the entries for these groups.
    pub fn matching(&self, groups: &[&str]) -> Vec<usize> {
        let matches = |group: &str| group == EVERYBODY || groups.contains(&group);
        self.0.iter().enumerate().filter(|(_, (group, _))| matches(group)).map(|(at, _)| at).collect()
    }

    /// What the entries at these places allow. `None`: there are none.
    pub fn allowed(&self, places: &[usize]) -> Option<Allowed> {
        let entries: Vec<&(String, Rights)> = places.iter().filter_map(|at| self.0.get(*at)).collect();
        let limited = entries.iter().find(|(_, rights)| rights.selector.is_some());
        let (_, first) = *limited.or(entries.first())?;
        let mut allowed = Allowed { rights: first.clone(), left_out: Vec::new() };
        for (group, rights) in entries {
            match joined(&allowed.rights, rights) {
                Some(rights) => allowed.rights = rights,
                None => allowed.left_out.push(group.clone()),
            }
        }
        Some(allowed)
    }
}

/// Rights that allow what each of two allows, and nothing else. `None`: there are none such.
fn joined(a: &Rights, b: &Rights) -> Option<Rights> {
    if a.selector != b.selector {
        return None;
    }
    let roles = |a: &Rights, b: &Rights| b.roles.iter().all(|role| a.has(*role));
    let tenants = |a: &Rights, b: &Rights| match (&a.tenants, &b.tenants) {
        (Tenants::All, _) => true,
        (Tenants::Named(_), Tenants::All) => false,
        (Tenants::Named(_), Tenants::Named(named)) => named.iter().all(|tenant| a.tenants.has(tenant)),
    };
    let (roles, tenants) = ((roles(a, b), roles(b, a)), (tenants(a, b), tenants(b, a)));
    match (roles, tenants) {
        ((true, _), (true, _)) => Some(a.clone()),
        ((_, true), (_, true)) => Some(b.clone()),
        ((true, true), _) => {
            let (Tenants::Named(a_named), Tenants::Named(b_named)) = (&a.tenants, &b.tenants) else { return None };
            let new = b_named.iter().filter(|tenant| !a_named.contains(tenant));
            let all: Vec<Tenant> = a_named.iter().chain(new).cloned().collect();
            Some(Rights { tenants: Tenants::Named(all.into()), ..a.clone() })
        }
        (_, (true, true)) => {
            let all: Vec<Role> = Role::ALL.into_iter().filter(|role| a.has(*role) || b.has(*role)).collect();
            Some(Rights { roles: all.into(), ..a.clone() })
        }
        _ => None,
    }
}

/// A claim by its name, or by a path of names with dots.
pub(super) fn claim<'c>(claims: &'c Claims, name: &str) -> Option<&'c Json> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// Groups in a claim: a list of texts, or one text. `None`: the claim is missing.
pub(super) fn groups<'c>(claims: &'c Claims, name: &str) -> Option<Vec<&'c str>> {
    Some(match claim(claims, name)? {
        Json::String(group) => vec![group.as_str()],
        Json::Array(groups) => groups.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    })
}

/// Name of a user for log lines. Names of the configuration have no colon: nobody here can be mistaken for one of those.
pub(super) fn user(claims: &Claims, name: &str) -> String {
    let text = |name: &str| claim(claims, name).and_then(Json::as_str).filter(|text| !text.is_empty());
    let name = text(name).or_else(|| text("sub")).unwrap_or_default();
    let shown = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    format!("oidc:{}", shown.take(MAX_NAME).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants() -> Grants {
        use Role::{Admin, Read, Silence, Write};
        let grant = |group: &str, roles: &[Role], tenants: &[&str], selector: &str| GrantConfig {
            group: group.to_owned(),
            roles: roles.to_vec(),
            tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
            selector: selector.to_owned(),
        };
        Grants::new(&[
            grant("sre", &[Admin], &["*"], ""),
            grant("a-read", &[Read], &["a"], ""),
            grant("b-read", &[Read], &["b"], ""),
            grant("a-write", &[Write], &["a"], ""),
            grant("b-admin", &[Admin], &["b"], ""),
            grant("pay", &[Read], &["a"], r#"{team="pay"}"#),
            grant("web", &[Read], &["a"], r#"{team="web"}"#),
            grant("pay-b", &[Read], &["b"], r#"{team="pay"}"#),
            grant("call", &[Silence, Read], &["a"], ""),
        ])
    }

    #[test]
    fn entries_are_joined_only_where_that_allows_nothing_more() {
        let grants = grants();
        for (groups, roles, tenants, selector, left_out) in [
            (vec![], "", "", None, vec![]),
            (vec!["nobody"], "", "", None, vec![]),
            (vec!["a-read"], "read", "a", None, vec![]),
            (vec!["a-read", "other"], "read", "a", None, vec![]),
            (vec!["b-read", "a-read"], "read", "a,b", None, vec![]),
            (vec!["a-read", "a-write"], "read,write", "a", None, vec![]),
            (vec!["a-read", "a-write", "call"], "read,write,silence", "a", None, vec![]),
            (vec!["a-read", "call"], "silence,read", "a", None, vec![]),
            // `admin` for b must not become `admin` for a, nor `write` for b.
            (vec!["a-read", "b-admin"], "read", "a", None, vec!["b-admin"]),
            (vec!["b-read", "a-write"], "read", "b", None, vec!["a-write"]),
            (vec!["b-read", "b-admin"], "admin", "b", None, vec![]),
            (vec!["sre", "a-read", "b-admin"], "admin", "*", None, vec![]),
            // A selector limits, whatever else matches.
            (vec!["pay"], "read", "a", Some(r#"{team="pay"}"#), vec![]),
            (vec!["pay", "sre"], "read", "a", Some(r#"{team="pay"}"#), vec!["sre"]),
            (vec!["pay", "a-read", "a-write"], "read", "a", Some(r#"{team="pay"}"#), vec!["a-read", "a-write"]),
            (vec!["web", "pay"], "read", "a", Some(r#"{team="pay"}"#), vec!["web"]),
            (vec!["pay", "pay-b"], "read", "a,b", Some(r#"{team="pay"}"#), vec![]),
        ] {
            let found = grants.allowed(&grants.matching(&groups));
            let Some(found) = found else {
                assert_eq!(roles, "", "{groups:?}");
                continue;
            };
            let names: Vec<&str> = found.rights.roles.iter().map(|role| role.name()).collect();
            let of = match &found.rights.tenants {
                Tenants::All => "*".to_owned(),
                Tenants::Named(named) => named.iter().map(Tenant::as_str).collect::<Vec<_>>().join(","),
            };
            let shown = (names.join(","), of, found.rights.selector.as_deref());
            assert_eq!((shown.0.as_str(), shown.1.as_str(), shown.2), (roles, tenants, selector), "{groups:?}");
            assert_eq!(found.left_out, left_out, "{groups:?}");
        }
    }

    #[test]
    fn groups_and_names_come_from_claims() {
        let claims = |text: &str| serde_json::from_str::<Claims>(text).unwrap();
        for (text, name, want) in [
            (r#"{"groups": ["a", "b"]}"#, "groups", Some(vec!["a", "b"])),
            (r#"{"groups": "a"}"#, "groups", Some(vec!["a"])),
            (r#"{"groups": ["a", 1, null]}"#, "groups", Some(vec!["a"])),
            (r#"{"groups": 1}"#, "groups", Some(vec![])),
            (r#"{"x": 1}"#, "groups", None),
            (r#"{"realm_access": {"roles": ["a"]}}"#, "realm_access.roles", Some(vec!["a"])),
            (r#"{"realm.roles": ["a"], "realm": {"roles": ["b"]}}"#, "realm.roles", Some(vec!["a"])),
            (r#"{"https://x.example/groups": ["a"]}"#, "https://x.example/groups", Some(vec!["a"])),
            (r#"{"realm": []}"#, "realm.roles", None),
        ] {
            assert_eq!(groups(&claims(text), name), want, "{text}");
        }
        for (text, want) in [
            (r#"{"sub": "1", "name": "alice"}"#, "oidc:alice"),
            (r#"{"sub": "1", "name": ""}"#, "oidc:1"),
            (r#"{"sub": "1", "name": 7}"#, "oidc:1"),
            (r#"{"sub": "1", "name": "a\u001b[2Jb"}"#, "oidc:a\u{fffd}[2Jb"),
        ] {
            assert_eq!(user(&claims(text), "name"), want, "{text}");
        }
        assert_eq!(groups(&claims("{}"), "groups"), None);
        assert_eq!(grants().matching(&["sre"]), [0]);
        assert_eq!(
            Grants::new(&[GrantConfig {
                group: "*".to_owned(),
                roles: vec![Role::Read],
                tenants: vec!["a".to_owned()],
                selector: String::new(),
            }])
            .matching(&[]),
            [0]
        );
    }
}
