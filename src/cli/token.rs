//! `millrace token`: creates tokens and hashes of passwords for the section `access`, lists and revokes tokens.
//!
//! In: flags; for a password, standard input. Out: the token, shown once, and the hash that the configuration holds. Side
//! effects: `create` writes the file of `--hash-file`, `revoke` replaces the hash where it stands: in its own file, or in
//! the configuration. A running process takes changes over at SIGHUP.

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use millrace_doors::access::config::{TokenConfig, expiry_ms};
use millrace_doors::access::hash::{REVOKED, TokenHash, hash_password, new_token};
use millrace_doors::identity::Role;
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::record::Tenant;
use serde_json::json;

use super::flags::ConfigFlags;
use super::table::Table;
use super::terminal::{Output, print, print_json};
use super::validate;
use crate::config;
use crate::exit::{Code, Failure};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Create a token and print it once, with the hash for the section `access` of the configuration
    Create(CreateArgs),
    /// List the tokens of the configuration
    List {
        #[command(flatten)]
        file: ConfigFlags,
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Revoke a token: replaces its hash, in its file or in the configuration; send SIGHUP to running processes then
    Revoke {
        /// Name of the token
        name: String,
        #[command(flatten)]
        file: ConfigFlags,
    },
}

/// A role as a flag.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleFlag {
    /// Query, tail, look at alerts
    Read,
    /// Push logs and alerts
    Write,
    /// Silence and acknowledge alerts
    Silence,
    /// All of these, and what changes the process or deletes data
    Admin,
}

impl From<RoleFlag> for Role {
    fn from(flag: RoleFlag) -> Self {
        match flag {
            RoleFlag::Read => Self::Read,
            RoleFlag::Write => Self::Write,
            RoleFlag::Silence => Self::Silence,
            RoleFlag::Admin => Self::Admin,
        }
    }
}

/// What a new token is for.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name for log lines and for `token list`
    #[arg(long)]
    name: String,
    /// Role; repeat it for several
    #[arg(long = "role", value_enum, required = true)]
    roles: Vec<RoleFlag>,
    /// Tenant; repeat it for several, `*` for all
    #[arg(long = "tenant", default_value = Tenant::DEFAULT)]
    tenants: Vec<String>,
    /// Stream selector that is added to every query, e.g. `{team="pay"}`; only with the role read
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Day or time at which the token expires, e.g. 2027-01-31
    #[arg(long, default_value = "", hide_default_value = true)]
    expires: String,
    /// Read a password from standard input and print its hash for a user, instead of creating a token
    #[arg(long)]
    password: bool,
    /// Also write the hash to this file, which must not exist
    #[arg(long, value_name = "PATH")]
    hash_file: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs the command.
pub fn token(verb: TokenVerb) -> Result<(), Failure> {
    match verb {
        TokenVerb::Create(args) => create(&args),
        TokenVerb::List { file, output } => list(&file, output),
        TokenVerb::Revoke { name, file } => revoke(&name, &file),
    }
}

fn create(args: &CreateArgs) -> Result<(), Failure> {
    check(args)?;
    let failed = |error: millrace_doors::access::hash::HashError| Failure::new(Code::Failed, error);
    let (token, hash) = if args.password {
        (None, hash_password(&read_password()?).map_err(failed)?)
    } else {
        let token = new_token().map_err(failed)?;
        let hash = TokenHash::of(&token).to_string();
        (Some(token), hash)
    };
    if let Some(path) = &args.hash_file {
        let written = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        let written = written.and_then(|mut file| {
            writeln!(file, "{hash}")?;
            file.sync_all()
        });
        written.map_err(|error| {
            Failure::text(Code::Failed, format!("hash file {} can't be written: {error}", path.display()))
        })?;
    }
    if args.output == Output::Json {
        return print_json(&match token {
            Some(token) => json!({"token": token, "hash": hash}),
            None => json!({"hash": hash}),
        });
    }
    let hash = args.hash_file.as_ref().map_or(hash, |path| format!("file:{}", path.display()));
    let shown = token.map(|token| format!("Token, shown only now: {token}\n\n")).unwrap_or_default();
    print(&format!("{shown}For the configuration:\n\naccess:\n  {}:\n    - {}\n", list_of(args), entry(args, &hash)))
}

fn list_of(args: &CreateArgs) -> &'static str {
    if args.password { "users" } else { "tokens" }
}

/// The entry for the configuration, in YAML's flow style, which is also JSON's for texts.
fn entry(args: &CreateArgs, hash: &str) -> String {
    let roles: Vec<&str> = args.roles.iter().map(|role| Role::from(*role).name()).collect();
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let tenants: Vec<String> = args.tenants.iter().map(|tenant| text(tenant)).collect();
    let mut entry = format!(
        "{{name: {}, hash: {}, roles: [{}], tenants: [{}]",
        text(&args.name),
        text(hash),
        roles.join(", "),
        tenants.join(", ")
    );
    if !args.selector.is_empty() {
        entry.push_str(&format!(", selector: {}", text(&args.selector)));
    }
    if !args.expires.is_empty() {
        entry.push_str(&format!(", expires: {}", text(&args.expires)));
    }
    entry.push('}');
    entry
}

fn check(args: &CreateArgs) -> Result<(), Failure> {
    let wrong = |text: String| Err(Failure::text(Code::Usage, text));
    for tenant in args.tenants.iter().filter(|tenant| *tenant != "*") {
        if let Err(error) = Tenant::new(tenant) {
            return wrong(format!("--tenant: {error}"));
        }
    }
    if !args.selector.is_empty() {
        if let Err(error) = millrace_logql::selector_matchers(&args.selector) {
            return wrong(format!("--selector: {error}"));
        }
        if !matches!(args.roles[..], [RoleFlag::Read]) {
            return wrong("--selector limits what is read: it needs --role read and no other role".to_owned());
        }
    }
    if !args.expires.is_empty() && (expiry_ms(&args.expires).is_none() || args.password) {
        return wrong("--expires: expected the day or time at which a token expires, e.g. 2027-01-31".to_owned());
    }
    Ok(())
}

fn read_password() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::text(Code::Usage, "--password: no password on standard input"));
    }
    Ok(password.to_owned())
}

/// State of a token in words.
fn state(token: &TokenConfig, now_ms: i64) -> &'static str {
    match token.hash.reveal() {
        Err(_) => "hash not readable",
        Ok(hash) if hash.trim() == REVOKED => REVOKED,
        Ok(_) if expiry_ms(&token.expires).is_some_and(|end| end <= now_ms) => "expired",
        Ok(_) => "valid",
    }
}

fn list(flags: &ConfigFlags, output: Output) -> Result<(), Failure> {
    let config = validate::read(flags)?;
    let now_ms = SystemClock.now_ms();
    let roles = |token: &TokenConfig| token.roles.iter().map(|role| role.name().to_owned()).collect::<Vec<_>>();
    if output == Output::Json {
        let rows = config.access.tokens.iter().map(|token| {
            json!({"name": token.name, "roles": roles(token), "tenants": token.tenants, "selector": token.selector,
                "expires": token.expires, "state": state(token, now_ms)})
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["name", "state", "roles", "tenants", "selector", "expires"]);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for token in &config.access.tokens {
        table.row([
            token.name.clone(),
            state(token, now_ms).to_owned(),
            roles(token).join(","),
            token.tenants.join(","),
            or_dash(&token.selector),
            or_dash(&token.expires),
        ]);
    }
    print(&table.to_string())
}

fn revoke(name: &str, flags: &ConfigFlags) -> Result<(), Failure> {
    let config = validate::read(flags)?;
    let Some(token) = config.access.tokens.iter().find(|token| token.name == name) else {
        return Err(Failure::text(
            Code::Usage,
            format!("no token `{name}` in access.tokens: see `millrace token list`"),
        ));
    };
    let hash = token.hash.reveal().map_err(|error| Failure::new(Code::Config, error))?;
    let place = match token.hash.file() {
        Some(path) => {
            replace(path, &format!("{REVOKED}\n"))?;
            path.to_owned()
        }
        None => {
            let path = flags.config.clone().unwrap_or_else(|| config::DEFAULT_FILE.into());
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Failure::text(Code::Config, format!("{} can't be read: {error}", path.display())))?;
            if hash.trim() != REVOKED {
                if text.matches(hash.trim()).count() != 1 {
                    let text = format!(
                        "the hash of `{name}` does not stand in {} once: replace it by `{REVOKED}` where it comes from",
                        path.display()
                    );
                    return Err(Failure::text(Code::Config, text));
                }
                replace(&path, &text.replace(hash.trim(), REVOKED))?;
            }
            path
        }
    };
    print(&format!("Token `{name}` is revoked in {}. Send SIGHUP to running processes.\n", place.display()))
}

/// Replaces a file as a whole, with its owner and its permissions.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let written = || -> std::io::Result<()> {
        let path = std::fs::canonicalize(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let old = std::fs::metadata(&path)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(old.permissions())?;
        let own = file.as_file().metadata()?;
        if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(folder)?.sync_all()
    };
    written().map_err(|error| Failure::text(Code::Failed, format!("{} can't be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn args(edit: impl FnOnce(&mut CreateArgs)) -> CreateArgs {
        let mut args = CreateArgs {
            name: "reader".to_owned(),
            roles: vec![RoleFlag::Read],
            tenants: vec!["default".to_owned()],
            selector: String::new(),
            expires: String::new(),
            password: false,
            hash_file: None,
            output: Output::Table,
        };
        edit(&mut args);
        args
    }

    fn written(folder: &Path, args: &CreateArgs, hash: &str) -> ConfigFlags {
        let path = folder.join("millrace.yaml");
        let text = format!("# kept\nbroker: {{}}\naccess:\n  {}:\n    - {}\n", list_of(args), entry(args, hash));
        std::fs::write(&path, text).unwrap();
        ConfigFlags { config: Some(path), data_dir: None }
    }

    #[test]
    fn entries_are_valid_whatever_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(|args| {
            args.name = "a \"b\" # c".to_owned();
            args.tenants = vec!["*".to_owned(), "team-a".to_owned()];
            args.selector = r#"{team="pay", path!~"a|b\\d"}"#.to_owned();
            args.expires = "2027-01-31".to_owned();
        });
        check(&args).unwrap();
        let flags = written(folder.path(), &args, &TokenHash::of("mlr_x").to_string());
        let text = std::fs::read_to_string(flags.config.as_ref().unwrap()).unwrap();
        let config = config::parse("millrace.yaml", &text, &BTreeMap::new()).unwrap();
        let token = &config.access.tokens[0];
        assert_eq!((&token.name, &token.tenants, &token.selector), (&args.name, &args.tenants, &args.selector));
        assert_eq!((token.roles.as_slice(), token.expires.as_str()), ([Role::Read].as_slice(), "2027-01-31"));
        assert_eq!((state(token, 0), state(token, i64::MAX)), ("valid", "expired"));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        type Edit = fn(&mut CreateArgs);
        let wrong: [(Edit, &str); 5] = [
            (|args| args.tenants = vec!["a/b".to_owned()], "--tenant"),
            (|args| args.selector = "{team".to_owned(), "--selector"),
            (|args| args.expires = "soon".to_owned(), "--expires"),
            (
                |args| {
                    args.selector = r#"{a="b"}"#.to_owned();
                    args.roles.push(RoleFlag::Write);
                },
                "--role read",
            ),
            (
                |args| {
                    args.password = true;
                    args.expires = "2027-01-31".to_owned();
                },
                "--expires",
            ),
        ];
        for (edit, want) in wrong {
            let error = check(&args(edit)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn tokens_are_revoked_where_their_hash_stands() {
        let folder = tempfile::tempdir().unwrap();
        let hash = TokenHash::of("mlr_x").to_string();
        let literal = written(folder.path(), &args(|_| {}), &hash);
        revoke("reader", &literal).unwrap();
        let text = std::fs::read_to_string(literal.config.as_ref().unwrap()).unwrap();
        assert!(text.starts_with("# kept\n") && !text.contains(&hash), "{text}");
        let config = validate::read(&literal).unwrap();
        assert_eq!(state(&config.access.tokens[0], 0), "revoked");
        revoke("reader", &literal).unwrap();
        assert!(revoke("other", &literal).unwrap_err().to_string().contains("no token `other`"));

        let path = folder.path().join("reader.hash");
        std::fs::write(&path, format!("{hash}\n")).unwrap();
        let in_file = written(folder.path(), &args(|_| {}), &format!("file:{}", path.display()));
        revoke("reader", &in_file).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "revoked\n");
    }
}
