//! Kafka connection settings: the `kafka:` section that every role shares, its checks, and librdkafka's settings that still count.
//!
//! In: YAML as the binary read it. Out: [`ConnectionConfig`] as written, [`ClientOptions`] as checked. Touches nothing but
//! secrets. Leaves connecting to [`crate::native`].

use std::time::Duration;

use crate::value::Faults;

/// Declares the `kafka:` section of a role: the keys of [`ConnectionConfig`], then those of the role with their defaults.
/// (serde can't both flatten a struct and refuse unknown keys.) Derives need `serde` and `schemars` in the calling crate.
#[macro_export]
macro_rules! kafka_section {
    ($(#[$about:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* pub $field:ident: $kind:ty = $default:expr,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// Bootstrap addresses of the brokers, `host:port`.
            pub brokers: Vec<String>,
            /// TLS to the brokers.
            pub tls: bool,
            /// File with the certificates of the authorities to trust, PEM. Empty: those of the system.
            pub ca_file: String,
            /// File with this client's own certificate and those between it and its authority, PEM, for listeners that
            /// require one.
            pub cert_file: String,
            /// File with the private key of `cert_file`, PEM, not encrypted.
            pub key_file: String,
            /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Empty: no authentication.
            pub sasl_mechanism: String,
            /// User for SASL.
            pub sasl_username: String,
            /// Password for SASL.
            pub sasl_password: $crate::value::Secret,
            /// Client settings under the names that librdkafka gives them, such as `socket.timeout.ms`,
            /// `message.timeout.ms`, `compression.type`, `fetch.wait.max.ms`, `queued.max.messages.kbytes`. Names that have
            /// no effect are errors. Besides these `millrace.max.unpacked.bytes` (64 MiB): compressed batches whose records
            /// take more are not read but go to the dead letters.
            pub options: std::collections::BTreeMap<String, String>,
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    brokers: vec!["127.0.0.1:9092".to_owned()],
                    tls: false,
                    ca_file: String::new(),
                    cert_file: String::new(),
                    key_file: String::new(),
                    sasl_mechanism: String::new(),
                    sasl_username: String::new(),
                    sasl_password: $crate::value::Secret::default(),
                    options: std::collections::BTreeMap::new(),
                    $($field: $default,)*
                }
            }
        }

        impl $name {
            /// The part that says how to reach the log.
            pub fn connection(&self) -> $crate::kafka::ConnectionConfig {
                $crate::kafka::ConnectionConfig {
                    brokers: self.brokers.clone(),
                    tls: self.tls,
                    ca_file: self.ca_file.clone(),
                    cert_file: self.cert_file.clone(),
                    key_file: self.key_file.clone(),
                    sasl_mechanism: self.sasl_mechanism.clone(),
                    sasl_username: self.sasl_username.clone(),
                    sasl_password: self.sasl_password.clone(),
                    options: self.options.clone(),
                }
            }
        }
    };
}

kafka_section! {
    /// How to reach the log: the keys that every role's `kafka:` section has.
    pub struct ConnectionConfig {}
}

impl ConnectionConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        if self.brokers.is_empty() {
            faults.add("brokers", "is empty: name at least one address as host:port");
        }
        for (i, broker) in self.brokers.iter().enumerate() {
            let port = broker.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                faults.add(&format!("brokers[{i}]"), format!("invalid address `{broker}`: expected host:port"));
            }
        }
        if !["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&self.sasl_mechanism.as_str()) {
            faults.add("sasl_mechanism", "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
        }
        match (self.cert_file.is_empty(), self.key_file.is_empty()) {
            (false, true) => faults.add("key_file", "is missing: name the file with the private key of `cert_file`"),
            (true, false) => faults.add("cert_file", "is missing: name the file with the certificate of `key_file`"),
            (false, false) if !self.tls => faults.add("cert_file", "has no effect without TLS: set `tls: true`"),
            _ => {}
        }
        for error in self.read_options().1 {
            faults.add("options", error);
        }
    }

    /// The settings of `options`, each at its default where it is not set. The first error names the setting.
    pub fn client_options(&self) -> Result<ClientOptions, String> {
        let (options, errors) = self.read_options();
        match errors.into_iter().next() {
            None => Ok(options),
            Some(error) => Err(error),
        }
    }

    /// Whether this client shows a certificate of its own.
    pub fn has_certificate(&self) -> bool {
        !self.cert_file.is_empty() || self.options.contains_key(OWN_CERTIFICATE)
    }

    fn read_options(&self) -> (ClientOptions, Vec<String>) {
        let mut options = ClientOptions {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            ..ClientOptions::default()
        };
        let mut errors = Vec::new();
        for (name, value) in &self.options {
            if let Err(error) = options.set(name, value.trim()) {
                errors.push(format!("`{name}`: {error}"));
            }
        }
        (options, errors)
    }
}

const OWN_CERTIFICATE: &str = "ssl.certificate.location";

/// What the client does about things that have no key of their own; durations and sizes as checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientOptions {
    /// How this client names itself to brokers.
    pub client_id: String,
    /// Authorities to trust; empty: those of the system.
    pub ca_file: String,
    /// This client's certificate; empty: none.
    pub cert_file: String,
    /// Its private key.
    pub key_file: String,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long connecting, TLS and login may take together.
    pub connect_timeout: Duration,
    /// First and longest wait between two attempts.
    pub backoff: (Duration, Duration),
    /// How often group leaders look for new partitions.
    pub metadata_refresh: Duration,
    /// How long a batch is tried; `None` inside: for ever; outside: as its user wants.
    pub delivery_timeout: Option<Option<Duration>>,
    /// Whether batches are compressed, with zstd.
    pub compress: bool,
    /// Level of zstd.
    pub compression_level: i32,
    /// How long a broker may hold back a fetch for which it has nothing.
    pub fetch_wait: Duration,
    /// Bytes that a broker waits for, within that time.
    pub fetch_min_bytes: i32,
    /// Bytes of one answer to a fetch at most.
    pub fetch_max_bytes: i32,
    /// Bytes of one partition in it at most.
    pub partition_max_bytes: i32,
    /// Bytes fetched ahead at most, as they come from the broker.
    pub queue_bytes: usize,
    /// Bytes that the records of one batch may have decompressed, if it is compressed.
    pub unpacked_bytes: usize,
    /// Whether records of open and aborted transactions are read, where it is set.
    pub read_uncommitted: Option<bool>,
    /// Time without a sign after which a group takes partitions from a member, where it is set.
    pub session_timeout: Option<Duration>,
    /// How often a member sends a heartbeat, where it is set.
    pub heartbeat: Option<Duration>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            client_id: "millrace".to_owned(),
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            metadata_refresh: Duration::from_secs(30),
            delivery_timeout: None,
            compress: true,
            compression_level: 3,
            fetch_wait: Duration::from_millis(250),
            fetch_min_bytes: 1,
            fetch_max_bytes: 16 << 20,
            partition_max_bytes: 2 << 20,
            queue_bytes: 64 << 20,
            unpacked_bytes: 64 << 20,
            read_uncommitted: None,
            session_timeout: None,
            heartbeat: None,
        }
    }
}

impl ClientOptions {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "client.id" => self.client_id = value.to_owned(),
            "ssl.ca.location" => self.ca_file = value.to_owned(),
            OWN_CERTIFICATE => self.cert_file = value.to_owned(),
            "ssl.key.location" => self.key_file = value.to_owned(),
            "socket.timeout.ms" | "request.timeout.ms" => self.request_timeout = millis(value, 10, 300_000)?,
            "socket.connection.setup.timeout.ms" => self.connect_timeout = millis(value, 100, 300_000)?,
            "retry.backoff.ms" => {
                self.backoff.0 = millis(value, 1, 300_000)?;
                self.backoff.1 = self.backoff.1.max(self.backoff.0);
            }
            "retry.backoff.max.ms" => {
                self.backoff.1 = millis(value, 1, 300_000)?;
                self.backoff.0 = self.backoff.0.min(self.backoff.1);
            }
            "topic.metadata.refresh.interval.ms" | "metadata.max.age.ms" => {
                self.metadata_refresh = millis(value, 10, 3_600_000)?;
            }
            "message.timeout.ms" | "delivery.timeout.ms" => {
                let limit = millis(value, 0, i32::MAX as u64)?;
                self.delivery_timeout = Some(Some(limit).filter(|limit| !limit.is_zero()));
            }
            "compression.type" | "compression.codec" => {
                self.compress = match value {
                    "zstd" => true,
                    "none" => false,
                    _ => return Err(format!("invalid value `{value}`: expected `zstd` or `none`")),
                };
            }
            "compression.level" => self.compression_level = number(value, 1, 22)? as i32,
            "fetch.wait.max.ms" => self.fetch_wait = millis(value, 0, 300_000)?,
            "fetch.min.bytes" => self.fetch_min_bytes = number(value, 1, 100_000_000)? as i32,
            "fetch.max.bytes" => self.fetch_max_bytes = number(value, 1024, 200_000_000)? as i32,
            "fetch.message.max.bytes" | "max.partition.fetch.bytes" => {
                self.partition_max_bytes = number(value, 1024, 200_000_000)? as i32;
            }
            "queued.max.messages.kbytes" => {
                self.queue_bytes = usize::try_from(number(value, 1, 2_097_151)?).unwrap_or(usize::MAX) * 1024;
            }
            "millrace.max.unpacked.bytes" => {
                self.unpacked_bytes = usize::try_from(number(value, 1 << 20, 1 << 30)?).unwrap_or(usize::MAX);
            }
            "isolation.level" => {
                self.read_uncommitted = Some(match value {
                    "read_uncommitted" => true,
                    "read_committed" => false,
                    _ => {
                        return Err(format!(
                            "invalid value `{value}`: expected `read_committed` or `read_uncommitted`"
                        ));
                    }
                });
            }
            "session.timeout.ms" => self.session_timeout = Some(millis(value, 1000, 3_600_000)?),
            "heartbeat.interval.ms" => self.heartbeat = Some(millis(value, 10, 3_600_000)?),
            // What this client does anyway.
            "enable.idempotence" if value == "true" => {}
            "acks" | "request.required.acks" if matches!(value, "all" | "-1") => {}
            "socket.nagle.disable" if value == "true" => {}
            _ => return Err(without_effect(name).to_owned()),
        }
        Ok(())
    }
}

/// Why a setting is refused, with what to do instead.
fn without_effect(name: &str) -> &'static str {
    match name {
        "bootstrap.servers" | "metadata.broker.list" => "is set by `brokers`: remove it here",
        "security.protocol" => "is set by `tls` and `sasl_mechanism`: remove it here",
        "sasl.mechanism" | "sasl.mechanisms" => "is set by `sasl_mechanism`: remove it here",
        "sasl.username" => "is set by `sasl_username`: remove it here",
        "sasl.password" => "is set by `sasl_password`: remove it here",
        "group.id" | "group.instance.id" | "transactional.id" | "transaction.timeout.ms" | "auto.offset.reset" => {
            "is set by the role that uses the connection: remove it here"
        }
        "enable.idempotence" | "acks" | "request.required.acks" => {
            "is fixed: records are sent with acks=all and idempotence"
        }
        "linger.ms"
        | "queue.buffering.max.ms"
        | "batch.size"
        | "batch.num.messages"
        | "queue.buffering.max.messages"
        | "queue.buffering.max.kbytes" => "has no effect: batches are formed by the roles themselves, remove it",
        _ if name.starts_with("ssl.") => {
            "is not supported: certificates are PEM files in `ca_file`, `cert_file` and `key_file`"
        }
        _ if name.starts_with("sasl.") => "is not supported: PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 are",
        _ => "is not a setting of this client: remove it",
    }
}

fn number(value: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = value.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("invalid value `{value}`: expected a number from {least} to {most}"))
}

fn millis(value: &str, least: u64, most: u64) -> Result<Duration, String> {
    number(value, least, most).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn faults_of_a_connection_name_the_key() {
        let of = ConnectionConfig::default;
        let (cert_file, key_file) = ("own.pem".to_owned(), "own.key".to_owned());
        let options = BTreeMap::from([("linger.ms".to_owned(), "5".to_owned())]);
        for (config, want) in [
            (of(), &[][..]),
            (ConnectionConfig { brokers: vec!["kafka".to_owned()], ..of() }, &["brokers[0]"]),
            (ConnectionConfig { brokers: Vec::new(), ..of() }, &["brokers"]),
            (ConnectionConfig { sasl_mechanism: "SCRAM".to_owned(), ..of() }, &["sasl_mechanism"]),
            (ConnectionConfig { tls: true, cert_file: cert_file.clone(), ..of() }, &["key_file"]),
            (ConnectionConfig { tls: true, key_file: key_file.clone(), ..of() }, &["cert_file"]),
            (ConnectionConfig { cert_file: cert_file.clone(), key_file: key_file.clone(), ..of() }, &["cert_file"]),
            (ConnectionConfig { tls: true, cert_file, key_file, ..of() }, &[]),
            (ConnectionConfig { options, ..of() }, &["options"]),
        ] {
            let mut faults = Faults::default();
            config.check(&mut faults);
            let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
            assert_eq!(paths, want, "{config:?}");
        }
    }

    #[test]
    fn settings_of_librdkafka_count_or_are_refused_by_name() {
        let of = |name: &str, value: &str| {
            let options = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            ConnectionConfig { options, ..ConnectionConfig::default() }.client_options()
        };
        let ms = Duration::from_millis;
        assert_eq!(of("fetch.wait.max.ms", "7").unwrap().fetch_wait, ms(7));
        assert_eq!(of("message.timeout.ms", "0").unwrap().delivery_timeout, Some(None));
        assert_eq!(of("message.timeout.ms", "9").unwrap().delivery_timeout, Some(Some(ms(9))));
        assert_eq!(of("queued.max.messages.kbytes", "2").unwrap().queue_bytes, 2048);
        assert_eq!(of("isolation.level", "read_uncommitted").unwrap().read_uncommitted, Some(true));
        assert_eq!(of("retry.backoff.ms", "5000").unwrap().backoff, (ms(5000), ms(5000)));
        assert!(of("acks", "all").is_ok() && !of("compression.type", "none").unwrap().compress);
        for (name, value, want) in [
            ("acks", "1", "`acks`: is fixed"),
            ("linger.ms", "5", "`linger.ms`: has no effect"),
            ("security.protocol", "ssl", "set by `tls`"),
            ("ssl.keystore.location", "x", "PEM files"),
            ("fetch.wait.max.ms", "soon", "invalid value `soon`"),
            ("compression.type", "lz4", "expected `zstd` or `none`"),
            ("no.such", "x", "`no.such`: is not a setting"),
        ] {
            let error = of(name, value).unwrap_err();
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
