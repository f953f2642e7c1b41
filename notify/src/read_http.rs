//! `http_config` of `alertmanager.yml`.
//!
//! In: its node. Out: an [`HttpConfig`]; faults with their places. Touches nothing.

use millrace_log::yaml::Node;

use crate::credential::Credential;
use crate::http_config::{Auth, HttpConfig, bearer};
use crate::reading::{LATER, Reader};

const HTTP_KEYS: [&str; 6] =
    ["basic_auth", "authorization", "bearer_token", "bearer_token_file", "follow_redirects", "enable_http2"];
const HTTP_REFUSED: [(&str, &str); 7] = [
    ("proxy_url", LATER),
    ("no_proxy", LATER),
    ("proxy_from_environment", LATER),
    ("proxy_connect_header", LATER),
    ("http_headers", LATER),
    ("tls_config", LATER),
    ("oauth2", LATER),
];

impl Reader {
    /// Reads `http_config`.
    pub(crate) fn http(&mut self, node: &Node) -> HttpConfig {
        let mut http = HttpConfig::default();
        let Some(fields) = self.doc.map_except(node, "`http_config`", &HTTP_KEYS, &HTTP_REFUSED) else { return http };
        if let Some(node) = fields.get("follow_redirects") {
            http.follow_redirects = self.doc.flag(node, "`follow_redirects`").unwrap_or(true);
        }
        if let Some(node) = fields.get("enable_http2") {
            self.doc.flag(node, "`enable_http2`");
        }
        let given: Vec<&str> = ["basic_auth", "authorization", "bearer_token", "bearer_token_file"]
            .into_iter()
            .filter(|key| fields.get(key).is_some())
            .collect();
        if given.len() > 1 {
            let message = format!("{} are mutually exclusive", given.join(", "));
            self.doc.fault(fields.place, message, Some("leave one of them".into()));
        }
        if let Some(node) = fields.get("basic_auth") {
            http.auth = self.basic(node).unwrap_or(Auth::None);
        } else if let Some(node) = fields.get("authorization") {
            http.auth = self.authorization(node).unwrap_or(Auth::None);
        } else if let Some(node) = fields.get("bearer_token") {
            if let Some(token) = self.doc.filled(node, "`bearer_token`") {
                http.auth = bearer(Credential::Literal(token.to_owned()));
            }
        } else if let Some(node) = fields.get("bearer_token_file")
            && let Some(file) = self.path(node, "`bearer_token_file`")
        {
            http.auth = bearer(file);
        }
        http
    }

    fn basic(&mut self, node: &Node) -> Option<Auth> {
        let fields = self.doc.map(node, "`basic_auth`", &["username", "password", "password_file"])?;
        let username =
            fields.get("username").and_then(|n| self.doc.text(n, "`username`")).unwrap_or_default().to_owned();
        let password = self.either(&fields, "password", "password_file")?;
        Some(Auth::Basic { username, password: password.unwrap_or(Credential::Literal(String::new())) })
    }

    fn authorization(&mut self, node: &Node) -> Option<Auth> {
        let fields = self.doc.map(node, "`authorization`", &["type", "credentials", "credentials_file"])?;
        let kind = match fields.get("type") {
            Some(node) => {
                let kind = self.doc.filled(node, "`type`")?.trim();
                if kind.eq_ignore_ascii_case("basic") {
                    self.doc.fault(&node.place, "`type` can't be `Basic`", Some("write `basic_auth` instead".into()));
                }
                kind.to_owned()
            }
            None => "Bearer".to_owned(),
        };
        match self.either(&fields, "credentials", "credentials_file")? {
            Some(credentials) => Some(Auth::Header { kind, credentials }),
            None => {
                self.doc.fault(fields.place, "`authorization` requires `credentials` or `credentials_file`", None);
                None
            }
        }
    }
}
