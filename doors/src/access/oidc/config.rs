//! The section `access.oidc:`: a login provider, and what its users may do.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing.

use millrace_log::value::{Faults, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::access::grant::{check_rights, own_tenant};
use crate::identity::Role;

/// Path to which the provider sends browsers back.
pub const CALLBACK: &str = "/login/oidc/callback";
/// Group of an entry that is for everybody whom the provider knows.
pub const EVERYBODY: &str = "*";
/// Most entries of `grants`: a session names those that matched.
const MAX_GRANTS: usize = 200;

/// A login provider (OpenID Connect): people log in by the page, programs send its tokens as `Authorization: Bearer`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// URL of the provider, exactly as it names itself, e.g. `https://id.example.org/realms/ops`. Plain `http` on
    /// loopback only.
    pub issuer: String,
    /// The name under which Millrace is registered there.
    pub client_id: String,
    /// The secret of the registration. Empty: a public client.
    #[serde(default)]
    pub client_secret: Secret,
    /// Claim with the groups of a user: a name, or a path such as `realm_access.roles`.
    #[serde(default = "groups")]
    pub roles_claim: String,
    /// Claim with the name of a user, for log lines and audit events; without it `sub` is the name.
    #[serde(default = "user_name")]
    pub name_claim: String,
    /// What is requested of the provider at a login; some send groups only with a scope of their own.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// URL that is registered at the provider, ending in `/login/oidc/callback`. Empty: made of the host by which the
    /// browser reached the page, if that is one of `access.hosts`, or loopback.
    #[serde(default)]
    pub redirect_url: String,
    /// File with the certificate authorities for the provider's certificate, PEM; empty: those of the system.
    #[serde(default)]
    pub ca_file: String,
    /// Audiences (`aud`) of tokens that programs may send; empty: `client_id` only.
    #[serde(default)]
    pub audience: Vec<String>,
    /// How long a session of the page lasts until the provider is asked again, without a question to the person
    /// (`prompt=none`): changes of groups at the provider are seen by then. 1m to 12h.
    #[serde(default = "recheck")]
    pub recheck: Span,
    /// What members of groups may do. Without a matching entry nobody gets in.
    pub grants: Vec<GrantConfig>,
}

/// What members of a group may do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Value in `roles_claim`; `*`: everybody whom the provider logs in.
    pub group: String,
    /// What they may do: `read`, `write`, `silence`, `admin`.
    pub roles: Vec<Role>,
    /// Tenants that they are for; `*`: all.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<String>,
    /// Stream selector such as `{team="pay"}` that is added to every query; only with the role `read`. It also limits
    /// members of other groups whose entries have none.
    #[serde(default)]
    pub selector: String,
}

fn groups() -> String {
    "groups".to_owned()
}

fn user_name() -> String {
    "preferred_username".to_owned()
}

fn recheck() -> Span {
    Span::secs(15 * 60)
}

fn scopes() -> Vec<String> {
    vec!["openid".to_owned(), "profile".to_owned()]
}

/// Reads a URL of the provider or of this endpoint: credentials and tokens pass there, so it is `https`, or on loopback.
pub fn safe_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "expected a URL such as https://id.example.org")?;
    let is_loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err("expected a URL with a host such as https://id.example.org"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user information in the URL is not supported: use `client_id` and `client_secret`");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        _ => Err("expected https (http is allowed on loopback only)"),
    }
}

impl OidcConfig {
    /// Audiences of tokens that programs may send.
    pub fn audiences(&self) -> Vec<String> {
        if self.audience.is_empty() { vec![self.client_id.clone()] } else { self.audience.clone() }
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        match safe_url(&self.issuer) {
            Err(error) => faults.add("issuer", format!("invalid issuer `{}`: {error}", self.issuer)),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                faults.add("issuer", format!("invalid issuer `{}`: it must not have a query or fragment", self.issuer));
            }
            Ok(_) => {}
        }
        for (key, value) in
            [("client_id", &self.client_id), ("roles_claim", &self.roles_claim), ("name_claim", &self.name_claim)]
        {
            if value.is_empty() {
                faults.add(key, "is empty");
            }
        }
        if !(Span::secs(60)..=Span::secs(12 * 3600)).contains(&self.recheck) {
            faults.add("recheck", format!("is {}: expected 1m to 12h", self.recheck));
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            faults.add("scopes", "must contain `openid`");
        }
        for (i, scope) in self.scopes.iter().enumerate() {
            if scope.is_empty() || !scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\') {
                faults.add(&format!("scopes[{i}]"), format!("invalid scope `{scope}`"));
            }
        }
        if !self.redirect_url.is_empty() {
            let fault = match safe_url(&self.redirect_url) {
                Err(error) => Some(error),
                Ok(url) if !url.path().ends_with(CALLBACK) || url.query().is_some() || url.fragment().is_some() => {
                    Some("expected a URL that ends in /login/oidc/callback")
                }
                Ok(_) => None,
            };
            if let Some(fault) = fault {
                faults.add("redirect_url", format!("invalid URL `{}`: {fault}", self.redirect_url));
            }
        }
        for (i, audience) in self.audience.iter().enumerate() {
            if audience.is_empty() {
                faults.add(&format!("audience[{i}]"), "is empty");
            }
        }
        match self.grants.len() {
            0 => faults.add("grants", "is empty: nobody could log in; list groups with their roles and tenants"),
            len if len > MAX_GRANTS => {
                faults.add("grants", format!("has {len} entries, {MAX_GRANTS} are allowed"));
            }
            _ => {}
        }
        for (i, grant) in self.grants.iter().enumerate() {
            faults.within(&format!("grants[{i}]"), |f| {
                if grant.group.is_empty() {
                    f.add("group", "is empty: name a group, or `*` for everybody whom the provider logs in");
                }
                check_rights(&grant.roles, &grant.tenants, &grant.selector, f);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OidcConfig {
        OidcConfig {
            issuer: "https://id.example.org".to_owned(),
            client_id: "millrace".to_owned(),
            client_secret: Secret::default(),
            roles_claim: groups(),
            name_claim: user_name(),
            scopes: scopes(),
            redirect_url: String::new(),
            ca_file: String::new(),
            audience: Vec::new(),
            recheck: recheck(),
            grants: vec![GrantConfig {
                group: "sre".to_owned(),
                roles: vec![Role::Admin],
                tenants: own_tenant(),
                selector: String::new(),
            }],
        }
    }

    #[test]
    fn faults_name_their_keys() {
        type Edit = fn(&mut OidcConfig);
        let cases: [(Edit, &[&str]); 20] = [
            (|_| {}, &[]),
            (|c| c.issuer = "http://127.0.0.1:4000/a".to_owned(), &[]),
            (|c| c.issuer = "http://[::1]:4000".to_owned(), &[]),
            (|c| c.issuer = "http://id.example.org".to_owned(), &["issuer"]),
            (|c| c.issuer = "http://127.0.0.1.example.org".to_owned(), &["issuer"]),
            (|c| c.issuer = "https://u:p@id.example.org".to_owned(), &["issuer"]),
            (|c| c.issuer = "https://id.example.org/?a=b".to_owned(), &["issuer"]),
            (|c| c.issuer = "id.example.org".to_owned(), &["issuer"]),
            (|c| c.client_id.clear(), &["client_id"]),
            (|c| c.scopes = vec!["profile".to_owned(), "a b".to_owned()], &["scopes", "scopes[1]"]),
            (|c| c.redirect_url = "https://logs.example.org/login/oidc/callback".to_owned(), &[]),
            (|c| c.redirect_url = "https://logs.example.org/callback".to_owned(), &["redirect_url"]),
            (|c| c.redirect_url = "http://logs.example.org/login/oidc/callback".to_owned(), &["redirect_url"]),
            (|c| c.audience = vec![String::new()], &["audience[0]"]),
            (|c| c.recheck = Span::secs(59), &["recheck"]),
            (|c| c.recheck = Span::secs(12 * 3600 + 1), &["recheck"]),
            (|c| c.grants.clear(), &["grants"]),
            (|c| c.grants = vec![c.grants[0].clone(); 201], &["grants"]),
            (|c| c.grants[0].group.clear(), &["grants[0].group"]),
            (|c| c.grants[0].selector = "{a=\"b\"}".to_owned(), &["grants[0].selector"]),
        ];
        for (edit, want) in cases {
            let mut config = config();
            edit(&mut config);
            let mut faults = Faults::default();
            config.check(&mut faults);
            let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
            assert_eq!(found, want, "{config:?}");
        }
    }
}
