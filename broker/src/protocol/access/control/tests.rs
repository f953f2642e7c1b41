//! Users, rules and their file, also through a crash.

use std::sync::Arc;

use super::*;
use crate::protocol::access::acl::{Pattern, PatternFilter, Permission};
use crate::protocol::access::login::{Login, LoginFault, LoginStep};
use crate::protocol::access::scram::ScramFault;
use crate::protocol::config::listener::{AuthorizationConfig, UserConfig};
use millrace_log::fs::SimFs;
use millrace_log::value::Secret;

fn config() -> BrokerConfig {
    BrokerConfig {
        users: vec![UserConfig { name: "alice".to_owned(), password: Secret::new("wonder") }],
        authorization: AuthorizationConfig {
            enabled: true,
            super_users: vec!["User:admin".to_owned()],
            allow_everyone_if_no_acl: false,
        },
        ..BrokerConfig::default()
    }
}

fn open(fs: &SimFs, config: &BrokerConfig) -> Result<Access, BrokerError> {
    let dir = Path::new("/data");
    fs.create_dir_all(dir).unwrap();
    Access::open(config, Arc::new(fs.clone()), dir, Counter::default())
}

fn rule(name: &str) -> Binding {
    Binding {
        kind: Kind::Topic,
        name: name.to_owned(),
        pattern: Pattern::Literal,
        principal: "User:alice".to_owned(),
        host: "*".to_owned(),
        operation: Operation::Read,
        permission: Permission::Allow,
    }
}

fn all() -> Filter {
    Filter {
        kind: None,
        name: None,
        pattern: PatternFilter::Any,
        principal: None,
        host: None,
        operation: None,
        permission: None,
    }
}

#[tokio::test]
async fn what_is_answered_survives_a_power_cut() {
    let fs = SimFs::default();
    fs.create_dir_all(Path::new("/data")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    let access = open(&fs, &config()).unwrap();
    assert!(access.add_rules(vec![rule("a"), rule("b")]).await.unwrap());
    let credential = Credential::from_password(Mechanism::Scram256, "secret", b"salt", 4096).unwrap();
    let change = ("bob".to_owned(), Mechanism::Scram256, Some(credential.clone()));
    assert!(access.alter_scram(vec![change]).await.unwrap());
    let deleted = access.delete_rules(&[Filter { name: Some("a".to_owned()), ..all() }]).await.unwrap();
    assert_eq!(deleted, [vec![rule("a")]]);
    drop(access);
    fs.crash();
    let access = open(&fs, &config()).unwrap();
    assert_eq!(access.rules(&all()), [rule("b")]);
    assert_eq!(access.credential("bob", Mechanism::Scram256), (credential, true));
    assert!(!access.credential("bob", Mechanism::Scram512).1);
}

#[test]
fn a_damaged_file_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for content in ["{", r#"{"version":2,"rules":[],"scram":{}}"#, r#"{"version":1,"rules":[{}],"scram":{}}"#] {
        std::fs::write(dir.path().join("access.json"), content).unwrap();
        let opened = Access::open(&config(), millrace_log::fs::RealFs::shared(), dir.path(), Counter::default());
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("access.json") && error.contains("backup"), "{error}");
    }
}

#[tokio::test]
async fn decisions_and_operation_bits() {
    let fs = SimFs::default();
    let access = open(&fs, &config()).unwrap();
    access.add_rules(vec![rule("a")]).await.unwrap();
    let from = "127.0.0.1".parse().unwrap();
    let (alice, admin) = (access.principal("User:alice".to_owned()), access.principal("User:admin".to_owned()));
    let ask = |who: &Principal, op, resource| access.allowed(who, from, op, resource);
    assert_eq!(ask(&alice, Operation::Read, Resource::Topic("a")), Ok(()));
    assert_eq!(ask(&alice, Operation::Write, Resource::Topic("a")), Err(Code::TopicAuthorizationFailed));
    assert_eq!(ask(&alice, Operation::Read, Resource::Group("a")), Err(Code::GroupAuthorizationFailed));
    assert_eq!(ask(&alice, Operation::Alter, Resource::Cluster), Err(Code::ClusterAuthorizationFailed));
    let refused = ask(&alice, Operation::Write, Resource::TransactionalId("t"));
    assert_eq!(refused, Err(Code::TransactionalIdAuthorizationFailed));
    assert_eq!(ask(&admin, Operation::Alter, Resource::Cluster), Ok(()));
    assert_eq!(access.operations(&alice, from, Resource::Topic("a")), 1 << 3 | 1 << 8);
    assert_eq!(access.operations(&admin, from, Resource::Topic("a")), 0x0df8);
    assert!(!access.allows_any_topic(&alice, from, Operation::Write));
    assert_eq!(access.denied.get(), 4);

    let mut open_config = config();
    open_config.authorization.allow_everyone_if_no_acl = true;
    let access = open(&fs, &open_config).unwrap();
    assert!(access.allows(&alice, from, Operation::Write, Resource::Topic("b")), "no rule names b");
    assert!(!access.allows(&alice, from, Operation::Write, Resource::Topic("a")));
    let access = open(&fs, &BrokerConfig::default()).unwrap();
    assert!(access.allows(&access.anonymous(), from, Operation::Write, Resource::Topic("a")), "not enforced");
}

#[test]
fn plain_logins() {
    let fs = SimFs::default();
    let access = open(&fs, &config()).unwrap();
    for (token, want) in [
        ("\0alice\0wonder", Ok(LoginStep::Done { last: Vec::new(), user: "alice".to_owned() })),
        ("alice\0alice\0wonder", Ok(LoginStep::Done { last: Vec::new(), user: "alice".to_owned() })),
        ("root\0alice\0wonder", Err(LoginFault::Scram(ScramFault::OtherUser))),
        ("\0alice\0wonde", Err(LoginFault::WrongPassword)),
        ("\0alice\0", Err(LoginFault::Malformed)),
        ("\0nobody\0wonder", Err(LoginFault::WrongPassword)),
        ("\0alice", Err(LoginFault::Malformed)),
        ("\0alice\0wonder\0", Err(LoginFault::Malformed)),
        ("", Err(LoginFault::Malformed)),
    ] {
        let mut login = Login::default();
        assert_eq!(login.token(&access, token.as_bytes()), Err(LoginFault::NoMechanism));
        login.choose(Mechanism::Plain);
        assert_eq!(login.token(&access, token.as_bytes()), want, "{token:?}");
        assert!(!login.is_under_way());
    }
}

#[test]
fn users_that_do_not_exist_are_challenged_alike_each_time() {
    let fs = SimFs::default();
    let access = open(&fs, &config()).unwrap();
    let salt = |user: &str| {
        let mut login = Login::default();
        login.choose(Mechanism::Scram256);
        let message = format!("n,,n={user},r=x");
        match login.token(&access, message.as_bytes()) {
            Ok(LoginStep::Challenge(challenge)) => {
                let challenge = String::from_utf8(challenge).unwrap();
                let (_, rest) = challenge.split_once(",s=").unwrap();
                rest.to_owned()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(salt("nobody"), salt("nobody"));
    assert_ne!(salt("nobody"), salt("noone"));
    assert_eq!(salt("nobody").len(), salt("alice").len());
}
