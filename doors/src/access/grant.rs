//! Roles, tenants and selector of a login: checked as they stand in the configuration, and as [`Rights`].
//!
//! In: settings. Out: faults that types can't say, rights. Touches nothing.

use millrace_log::record::Tenant;
use millrace_log::value::Faults;

use crate::identity::{Rights, Role, Tenants};

/// The tenant of a login that names none.
pub(super) fn own_tenant() -> Vec<String> {
    vec![Tenant::DEFAULT.to_owned()]
}

/// Reports what types can't say.
pub(super) fn check_rights(roles: &[Role], tenants: &[String], selector: &str, faults: &mut Faults) {
    if roles.is_empty() {
        faults.add("roles", "is empty: list some of read, write, silence, admin");
    }
    if !selector.is_empty() && roles != [Role::Read] {
        faults.add("selector", "limits what is read: it needs `roles: [read]` and no other role");
    }
    check_tenants(tenants, faults);
}

/// Reports what types can't say.
pub(super) fn check_tenants(tenants: &[String], faults: &mut Faults) {
    if tenants.is_empty() {
        faults.add("tenants", "is empty: list tenants, or `*` for all");
    }
    for (i, tenant) in tenants.iter().enumerate() {
        if tenant != "*"
            && let Err(error) = Tenant::new(tenant)
        {
            faults.add(&format!("tenants[{i}]"), error.to_string());
        }
    }
}

/// What such a login may do.
pub(super) fn rights(roles: &[Role], tenants: &[String], selector: &str) -> Rights {
    let named: Vec<Tenant> = tenants.iter().filter_map(|tenant| Tenant::new(tenant).ok()).collect();
    let is_all = tenants.iter().any(|tenant| tenant == "*");
    Rights {
        roles: roles.into(),
        tenants: if is_all { Tenants::All } else { Tenants::Named(named.into()) },
        selector: (!selector.is_empty()).then(|| selector.into()),
    }
}
