//! Address and login of a running process, with the flags and variables of `logcli`.
//!
//! In: flags and environment. Out: requests, and answers or errors. Side effects: network.

use clap::Args;
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
}

impl DoorFlags {
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
        let request = client.get(self.url(path));
        match self.authorization() {
            Some(value) => request.header(reqwest::header::AUTHORIZATION, value),
            None => request,
        }
    }

    /// Sends; an answer that is no success is an error with the server's text.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let answer = request.send().await.map_err(|error| {
            let text = format!("{} does not answer: is Millrace running there?", self.addr);
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
}
