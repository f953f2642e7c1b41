//! Checks that other roles of the same process can connect to their own broker.
//!
//! In: the listeners, and the `kafka:` section of a role. Out: faults with the key to set. Touches nothing but secrets.
//! A role whose brokers are elsewhere is not looked at.

use crate::protocol::config::listener::{ListenerConfig, Mechanism, UserConfig, host_and_port};
use millrace_doors::config::ClientAuth;
use millrace_log::client::ConnectionConfig;
use millrace_log::value::Faults;

/// Whether a client that connects to `broker` reaches a listener at `listen`.
fn reaches(broker: &str, listen: &str) -> bool {
    let (Some((host, port)), Some((at, on))) = (host_and_port(broker), host_and_port(listen)) else { return false };
    let is_local = |host: &str| matches!(host, "localhost" | "::1") || host.starts_with("127.");
    let is_everywhere = matches!(at, "0.0.0.0" | "::");
    port == on && (host == at || is_local(host) && (is_local(at) || is_everywhere))
}

/// Reports what keeps a role of this process out of its own broker; keys are those of its `kafka:` section.
pub(crate) fn check_client(
    listeners: &[ListenerConfig],
    users: &[UserConfig],
    client: &ConnectionConfig,
    faults: &mut Faults,
) {
    let is_reached = |listener: &&ListenerConfig| {
        client.brokers.iter().any(|broker| {
            reaches(broker, &listener.listen) || listener.advertised.as_ref().is_some_and(|name| name == broker)
        })
    };
    let Some(listener) = listeners.iter().find(is_reached) else { return };
    let name = &listener.name;
    match (&listener.tls, client.tls) {
        (Some(_), false) => {
            faults.add("tls", format!("listener `{name}` of this broker uses TLS: set `tls: true` and `ca_file`"));
        }
        (None, true) => {
            faults.add(
                "tls",
                format!("listener `{name}` of this broker has no TLS: leave `tls` out here, or give it `tls`"),
            );
        }
        _ => {}
    }
    let wants_certificate = listener.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    if wants_certificate && !client.has_certificate() {
        let why =
            format!("listener `{name}` of this broker requires a client certificate: set `cert_file` and `key_file`");
        faults.add("cert_file", why);
    }
    let mechanism = client.sasl_mechanism.as_str();
    match &listener.sasl {
        None if !mechanism.is_empty() => {
            faults.add("sasl_mechanism", format!("listener `{name}` of this broker has no `sasl`: leave it out here"));
        }
        Some(sasl) if !sasl.mechanisms.iter().any(|offered| offered.name() == mechanism) => {
            let offered: Vec<&str> = sasl.mechanisms.iter().map(|m| m.name()).collect();
            let why = format!(
                "listener `{name}` of this broker requires a login by {}: set sasl_mechanism, sasl_username and sasl_password, or add a listener on 127.0.0.1 without `sasl` for this role",
                offered.join(" or ")
            );
            faults.add("sasl_mechanism", why);
        }
        Some(_) => check_user(users, client, faults),
        None => {}
    }
}

fn check_user(users: &[UserConfig], client: &ConnectionConfig, faults: &mut Faults) {
    let name = &client.sasl_username;
    match users.iter().find(|user| user.name == *name) {
        Some(user) => {
            if let (Ok(right), Ok(given)) = (user.password.reveal(), client.sasl_password.reveal())
                && right != given
            {
                faults.add("sasl_password", format!("is not the password of `{name}` in broker.users"));
            }
        }
        None if name.is_empty() => {
            faults.add("sasl_username", "is missing: set it to one of broker.users");
        }
        None if client.sasl_mechanism == Mechanism::Plain.name() => {
            faults.add("sasl_username", format!("`{name}` is not in broker.users, and PLAIN has no other users"));
        }
        // A user whom a client made by SCRAM, perhaps.
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::config::listener::SaslConfig;
    use millrace_doors::config::TlsConfig;
    use millrace_log::value::Secret;

    #[test]
    fn roles_of_the_same_process_are_told_what_they_lack() {
        let plain = ListenerConfig { name: "in".into(), listen: "0.0.0.0:1".into(), ..ListenerConfig::default() };
        let tls = TlsConfig { client_auth: ClientAuth::Required, ..TlsConfig::default() };
        let listeners = [
            plain.clone(),
            ListenerConfig { listen: "127.0.0.1:2".into(), sasl: Some(SaslConfig::default()), ..plain.clone() },
            ListenerConfig {
                listen: "10.0.0.1:3".into(),
                tls: Some(tls),
                advertised: Some("k:9".into()),
                ..plain.clone()
            },
            ListenerConfig {
                listen: "127.0.0.1:4".into(),
                sasl: Some(SaslConfig { mechanisms: vec![Mechanism::Plain], ..SaslConfig::default() }),
                ..plain
            },
        ];
        let users = [UserConfig { name: "agent".into(), password: Secret::new("right") }];
        let client = |broker: &str, mechanism: &str, user: &str, password: &str| ConnectionConfig {
            brokers: vec![broker.to_owned()],
            sasl_mechanism: mechanism.to_owned(),
            sasl_username: user.to_owned(),
            sasl_password: Secret::new(password),
            ..ConnectionConfig::default()
        };
        for (client, want) in [
            (client("localhost:1", "", "", ""), &[][..]),
            (client("elsewhere:2", "", "", ""), &[]),
            (client("localhost:1", "PLAIN", "agent", "right"), &["sasl_mechanism"]),
            (client("127.0.0.1:2", "", "", ""), &["sasl_mechanism"]),
            (client("127.0.0.1:2", "PLAIN", "agent", "right"), &["sasl_mechanism"]),
            (client("127.0.0.1:2", "SCRAM-SHA-256", "agent", "wrong"), &["sasl_password"]),
            (client("127.0.0.1:2", "SCRAM-SHA-256", "", ""), &["sasl_username"]),
            (client("127.0.0.1:2", "SCRAM-SHA-256", "agent", "right"), &[]),
            (client("127.0.0.1:2", "SCRAM-SHA-512", "made-by-a-client", "x"), &[]),
            (client("localhost:4", "PLAIN", "made-by-a-client", "x"), &["sasl_username"]),
            (client("k:9", "", "", ""), &["tls", "cert_file"]),
            (ConnectionConfig { tls: true, ..client("localhost:1", "", "", "") }, &["tls"]),
        ] {
            let mut faults = Faults::default();
            check_client(&listeners, &users, &client, &mut faults);
            let got: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
            assert_eq!(got, want, "{client:?}");
        }
    }
}
