//! Address and login of a running process, with the flags and variables of `logcli`.
//!
//! In: flags and environment. Out: requests, and answers or errors. Side effects: network; reads certificates.

use std::path::{Path, PathBuf};

use clap::Args;
use millrace_doors::tenant::TENANT_HEADER;
use reqwest::StatusCode;

use crate::exit::{Code, Failure};
use crate::ledger::LedgerView;

/// Address and login of a running process.
#[derive(Debug, Clone, Args)]
pub struct DoorFlags {
    /// Address of the aggregator, or of `agent.http` or `broker.http` where no aggregator runs
    #[arg(long, env = "LOKI_ADDR", default_value = "http://127.0.0.1:3100", help_heading = "Connection options")]
    pub addr: String,
    /// Bearer token
    #[arg(
        long,
        env = "LOKI_BEARER_TOKEN",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        help_heading = "Connection options"
    )]
    pub token: String,
    /// User name
    #[arg(
        long,
        env = "LOKI_USERNAME",
        default_value = "",
        hide_default_value = true,
        help_heading = "Connection options"
    )]
    pub username: String,
    /// Password
    #[arg(
        long,
        env = "LOKI_PASSWORD",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        help_heading = "Connection options"
    )]
    pub password: String,
    /// CA certificates to trust besides those of the system, PEM
    #[arg(
        long = "ca",
        alias = "ca-cert",
        value_name = "FILE",
        env = "LOKI_CA_CERT_PATH",
        help_heading = "Connection options"
    )]
    pub ca: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "LOKI_CLIENT_CERT_PATH",
        requires = "key",
        help_heading = "Connection options"
    )]
    pub cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "LOKI_CLIENT_KEY_PATH",
        requires = "cert",
        help_heading = "Connection options"
    )]
    pub key: Option<PathBuf>,
    /// Tenant, for logins that are for several
    #[arg(
        long = "org-id",
        value_name = "TENANT",
        env = "LOKI_ORG_ID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Connection options"
    )]
    pub org_id: String,
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::text(Code::Usage, format!("{flag} {}: {error}", path.display())))
}

impl DoorFlags {
    /// A client that trusts what the flags say, and shows the certificate that they name. Redirects are not followed: another
    /// host would get the login.
    pub fn client(&self) -> Result<reqwest::Client, Failure> {
        let mut builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        if let Some(ca) = &self.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(&read("--ca", ca)?);
            let certificates = certificates.map_err(|error| {
                let text = format!("--ca {}: {}", ca.display(), millrace_log::causes::chain(&error));
                Failure::text(Code::Usage, text)
            })?;
            if certificates.is_empty() {
                return Err(Failure::text(Code::Usage, format!("--ca {}: no certificate in it", ca.display())));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let pem = [read("--cert", cert)?, b"\n".to_vec(), read("--key", key)?].concat();
            let identity = reqwest::Identity::from_pem(&pem).map_err(|error| {
                let (cert, key) = (cert.display(), key.display());
                let text = format!("--cert {cert}, --key {key}: {}", millrace_log::causes::chain(&error));
                Failure::text(Code::Usage, text)
            })?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| {
            let text = "can't create the HTTP client: are the system's certificates installed (ca-certificates)?";
            Failure::new(Code::Usage, anyhow::Error::new(error).context(text))
        })
    }

    /// The whole address of a path.
    pub fn url(&self, path: &str) -> String {
        // `host:port` alone is what people type.
        let scheme = if self.addr.contains("://") { "" } else { "http://" };
        format!("{scheme}{}{path}", self.addr.trim_end_matches('/'))
    }

    /// Value of the header `Authorization`, if there is a login.
    pub fn authorization(&self) -> Option<String> {
        if !self.token.is_empty() {
            Some(format!("Bearer {}", self.token))
        } else if !self.username.is_empty() {
            Some(millrace_doors::login::basic(&self.username, &self.password))
        } else {
            None
        }
    }

    /// A request with the login.
    pub fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        let mut request = client.get(self.url(path));
        if !self.org_id.is_empty() {
            request = request.header(TENANT_HEADER, &self.org_id);
        }
        match self.authorization() {
            Some(value) => request.header(reqwest::header::AUTHORIZATION, value),
            None => request,
        }
    }

    /// Sends; an answer that is no success is an error with the server's text.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let answer = request.send().await.map_err(|error| {
            let text = match self.is_tls_fault(&error) {
                true => format!("TLS to {} failed: does --ca name the authority of its certificate?", self.addr),
                false => format!("{} does not answer: is Millrace running there?", self.addr),
            };
            Failure::new(Code::Unavailable, anyhow::Error::new(error).context(text))
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let text = text.trim();
        Err(match status {
            StatusCode::UNAUTHORIZED => Failure::text(
                Code::Unavailable,
                format!("{} requires a login: give --token, or --username and --password ({text})", self.addr),
            ),
            StatusCode::BAD_REQUEST => Failure::text(Code::Usage, text.to_owned()),
            _ => Failure::text(Code::Unavailable, format!("{} answers {status}: {text}", self.addr)),
        })
    }

    /// Whether somebody answered, and was not trusted.
    fn is_tls_fault(&self, error: &reqwest::Error) -> bool {
        // Not its own text, which has the address.
        let causes = std::error::Error::source(error).map(millrace_log::causes::chain);
        let text = causes.unwrap_or_default().to_ascii_lowercase();
        self.url("").starts_with("https") && ["certificate", "tls", "handshake"].iter().any(|word| text.contains(word))
    }

    /// The ledger of the process.
    pub async fn ledger(&self, client: &reqwest::Client) -> Result<LedgerView, Failure> {
        let request = self.get(client, "/api/v1/ledger").timeout(std::time::Duration::from_secs(10));
        let answer = self.send(request).await?;
        answer.json().await.map_err(|error| {
            let text = format!("unexpected answer of {}: is it Millrace of this version?", self.addr);
            Failure::new(Code::Unavailable, anyhow::Error::new(error).context(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_logins_become_requests() {
        let flags = |addr: &str, token: &str, username: &str, password: &str| DoorFlags {
            addr: addr.to_owned(),
            token: token.to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
            ca: None,
            cert: None,
            key: None,
            org_id: String::new(),
        };
        for (flags, url, authorization) in [
            (flags("http://h:1/", "", "", ""), "http://h:1/api/v1/ledger", None),
            (flags("h:1", "", "", ""), "http://h:1/api/v1/ledger", None),
            (flags("https://h:1", "", "", ""), "https://h:1/api/v1/ledger", None),
            (flags("https://h/x", "t", "u", "p"), "https://h/x/api/v1/ledger", Some("Bearer t")),
            (flags("http://h:1", "", "u", "p"), "http://h:1/api/v1/ledger", Some("Basic dTpw")),
        ] {
            assert_eq!(flags.url("/api/v1/ledger"), url);
            assert_eq!(flags.authorization().as_deref(), authorization);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn endpoints_with_a_private_authority_and_client_certificates_are_reached() {
        use millrace_doors::config::{ClientAuth, TlsConfig};
        use rcgen::generate_simple_self_signed;

        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let certified = |name: &str| {
            let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            (
                file(&format!("{name}.pem"), made.cert.pem()),
                file(&format!("{name}.key"), made.signing_key.serialize_pem()),
            )
        };
        let ((server, server_key), (own, own_key)) = (certified("server"), certified("own"));
        let text = |path: &Path| path.display().to_string();
        let mut config = crate::config::Config { data_dir: folder.path().join("data"), ..Default::default() };
        let mut broker = crate::config::Config::embedded().broker.unwrap();
        broker.server.listen = "127.0.0.1:0".to_owned();
        broker.server.http = Some("127.0.0.1:0".to_owned());
        broker.server.http_tls = Some(TlsConfig {
            cert_file: text(&server),
            key_file: text(&server_key),
            client_auth: ClientAuth::Required,
            client_ca_file: text(&own),
        });
        config.broker = Some(broker);
        let process = crate::run::Process::start_config(config).await.unwrap();
        let port = process.addresses().status.unwrap().port();
        let asked = async |ca: Option<&Path>, pair: Option<(&Path, &Path)>| {
            let flags = DoorFlags {
                addr: format!("https://localhost:{port}"),
                token: String::new(),
                username: String::new(),
                password: String::new(),
                ca: ca.map(Path::to_owned),
                cert: pair.map(|(cert, _)| cert.to_owned()),
                key: pair.map(|(_, key)| key.to_owned()),
                org_id: String::new(),
            };
            let client = flags.client().map_err(|failure| failure.to_string())?;
            flags.ledger(&client).await.map(drop).map_err(|failure| failure.to_string())
        };
        let pair = Some((own.as_path(), own_key.as_path()));
        assert_eq!(asked(Some(&server), pair).await, Ok(()));
        for (ca, pair, want) in [
            (None, pair, "does --ca name the authority"),
            (Some(own.as_path()), pair, "does --ca name the authority"),
            (Some(server_key.as_path()), pair, "no certificate in it"),
            (Some(server.as_path()), Some((own.as_path(), server.as_path())), "--cert"),
            (Some(Path::new("none")), None, "--ca none: No such file"),
        ] {
            let error = asked(ca, pair).await.unwrap_err();
            assert!(error.contains(want), "{ca:?}: {error}");
        }
        assert!(asked(Some(&server), None).await.is_err(), "without the certificate that is required");
        process.stop().await.unwrap();
    }
}
