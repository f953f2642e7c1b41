//! Who asks, and what they may do: roles, tenants, and the streams that they see.
//!
//! In: logins that were checked. Out: [`Identity`], which requests carry in their extensions, but those to public routes. Touches nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use millrace_log::record::Tenant;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Query, tail, look at alerts.
    Read,
    /// Push logs and alerts.
    Write,
    /// Silence and acknowledge alerts.
    Silence,
    /// All of these, and what changes the process or deletes data.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Silence, Self::Admin];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Silence => "silence",
            Self::Admin => "admin",
        }
    }
}

/// Tenants that somebody may act for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// Every one.
    All,
    /// These.
    Named(Arc<[Tenant]>),
}

impl Tenants {
    /// Whether this tenant is one of them.
    pub fn has(&self, tenant: &Tenant) -> bool {
        match self {
            Self::All => true,
            Self::Named(named) => named.contains(tenant),
        }
    }

    /// The only one.
    pub fn single(&self) -> Option<&Tenant> {
        match self {
            Self::Named(named) if named.len() == 1 => named.first(),
            Self::All | Self::Named(_) => None,
        }
    }
}

/// What somebody may do, for whom, and with which streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Roles.
    pub roles: Arc<[Role]>,
    /// Tenants.
    pub tenants: Tenants,
    /// Stream selector that is added to whatever they query; `None`: all streams.
    pub selector: Option<Arc<str>>,
}

impl Rights {
    /// Everything, for every tenant.
    pub fn all() -> Self {
        Self { roles: Arc::new([Role::Admin]), tenants: Tenants::All, selector: None }
    }

    /// Whether a role is among them; `admin` includes the others.
    pub fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|own| *own == role || *own == Role::Admin)
    }

    /// Whether nothing of what a role shows is hidden: all tenants and all streams, or an administrator.
    pub fn has_whole(&self, role: Role) -> bool {
        self.has(Role::Admin) || (self.has(role) && self.tenants == Tenants::All && self.selector.is_none())
    }
}

/// Who asks. In the extensions of every request to a route that isn't public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name for log lines.
    pub name: Arc<str>,
    /// What they may do.
    pub rights: Rights,
}

impl Identity {
    /// Nobody in particular.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// Somebody who may do everything.
    pub fn unlimited(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), rights: Rights::all() }
    }
}

/// Who sends requests, as far as shares of a limit go: a login at an address. In the extensions of
/// every request to a route that isn't public.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    /// `None` where there is nothing to log in with, as for syslog.
    login: Option<Arc<str>>,
    address: IpAddr,
}

impl Client {
    /// A login at an address. Addresses of one network of IPv6 are one.
    pub fn new(login: Arc<str>, address: IpAddr) -> Self {
        Self { login: Some(login), ..Self::at(address) }
    }

    /// Whoever is at an address.
    pub fn at(address: IpAddr) -> Self {
        Self { login: None, address: site(address) }
    }
}

/// A subscriber has a whole /64 of IPv6.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        address => address,
    }
}

/// Somebody who came by a session of the page. In the extensions of their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSession {
    /// Their name.
    pub name: String,
    /// What forms of theirs have to send as `csrf`.
    pub csrf: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn administrators_have_every_role_and_others_their_own() {
        let of = |roles: &[Role], tenants: Tenants, selector: Option<&str>| Rights {
            roles: roles.into(),
            tenants,
            selector: selector.map(Arc::from),
        };
        let own = || Tenants::Named(Arc::new([Tenant::default()]));
        for (rights, role, has, has_whole) in [
            (of(&[Role::Read], Tenants::All, None), Role::Read, true, true),
            (of(&[Role::Read], Tenants::All, None), Role::Write, false, false),
            (of(&[Role::Read], own(), None), Role::Read, true, false),
            (of(&[Role::Read], Tenants::All, Some("{a=\"b\"}")), Role::Read, true, false),
            (of(&[Role::Admin], own(), None), Role::Silence, true, true),
            (of(&[], Tenants::All, None), Role::Read, false, false),
            (Rights::all(), Role::Admin, true, true),
        ] {
            assert_eq!((rights.has(role), rights.has_whole(role)), (has, has_whole), "{rights:?} {role:?}");
        }
        assert!(own().has(&Tenant::default()) && !own().has(&Tenant::new("b").unwrap()));
        assert_eq!(own().single(), Some(&Tenant::default()));
        assert_eq!(Tenants::All.single(), None);
    }
}
