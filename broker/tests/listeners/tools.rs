//! Kafka's own tools and kcat against a listener with SASL_SSL and access rules.
//!
//! Needs Java, Maven (`../shared/servers/kafka` fetches the tools) and kcat, so they only run when asked for:
//! `cargo test -p millrace-broker --test listeners -- --ignored`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use millrace_broker::ClientAuth;

use super::login::Authority;
use super::*;

fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared")
}

/// What a command says, and whether it is content.
fn run(mut command: Command, input: &str) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

struct Tools {
    address: String,
    ca_file: String,
    dir: PathBuf,
}

impl Tools {
    /// A tool by its class, logged in as somebody.
    fn java(&self, class: &str, user: &str, password: &str, arguments: &[&str]) -> (bool, String) {
        let login = format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-256\n\
             sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{user}\" password=\"{password}\";\n\
             ssl.truststore.type=PEM\nssl.truststore.location={}\n",
            self.ca_file
        );
        let file = self.dir.join(format!("{user}.properties"));
        std::fs::write(&file, login).unwrap();
        let mut classpath = Command::new(shared().join("servers/kafka"));
        classpath.arg("classpath");
        let (ok, jars) = run(classpath, "");
        assert!(ok, "{jars}");
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-cp", jars.trim(), class, "--bootstrap-server", &self.address, "--command-config"]);
        command.arg(&file).args(arguments);
        run(command, "")
    }

    fn kcat(&self, user: &str, password: &str, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.address, "-X", "security.protocol=SASL_SSL", "-X", "sasl.mechanism=SCRAM-SHA-256"]);
        for (key, value) in [("ssl.ca.location", &*self.ca_file), ("sasl.username", user), ("sasl.password", password)]
        {
            command.args(["-X", &format!("{key}={value}")]);
        }
        command.args(arguments);
        run(command, input)
    }
}

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const ACLS: &str = "org.apache.kafka.tools.AclCommand";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Java, Maven and kcat"]
async fn users_and_rules_are_made_by_kafkas_own_tools() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let mut config = guarded();
    config.listeners[0].tls = authority.tls(ClientAuth::None);
    let broker = Running::start(dir.path(), config).await;
    let tools = Tools {
        address: broker.door("sasl").to_string(),
        ca_file: authority.file("ca.pem"),
        dir: dir.path().to_owned(),
    };
    tokio::task::spawn_blocking(move || {
        let admin = |class: &str, arguments: &[&str]| {
            let (ok, said) = tools.java(class, "admin", "admin-secret", arguments);
            assert!(ok, "{class} {arguments:?}: {said}");
            said
        };
        admin(TOPICS, &["--create", "--topic", "logs", "--partitions", "1"]);
        let carol = ["--entity-type", "users", "--entity-name", "carol"];
        let set = ["--alter", "--add-config", "SCRAM-SHA-256=[iterations=8192,password=s3cret]"];
        admin(CONFIGS, &[&set[..], &carol].concat());
        let told = admin(CONFIGS, &[&["--describe"][..], &carol].concat());
        assert!(told.contains("SCRAM-SHA-256=iterations=8192"), "{told}");
        let (_, told) = tools.java(TOPICS, "carol", "s3cret", &["--list"]);
        assert_eq!(told.trim(), "", "nothing that she may see");
        let (ok, told) = tools.java(TOPICS, "carol", "s3cret", &["--create", "--topic", "other"]);
        assert!(!ok && told.contains("Authorization failed"), "{told}");
        admin(ACLS, &["--add", "--allow-principal", "User:carol", "--producer", "--topic", "logs"]);
        let consume = ["--add", "--allow-principal", "User:carol", "--consumer", "--topic", "log", "--group", "g"];
        admin(ACLS, &[&consume[..], &["--resource-pattern-type", "prefixed"]].concat());
        let listed = admin(ACLS, &["--list", "--principal", "User:carol"]);
        assert_eq!(listed.matches("permissionType=ALLOW").count(), 6, "{listed}");
        let (ok, told) = tools.kcat("carol", "s3cret", &["-P", "-t", "logs"], "one\ntwo\n");
        assert!(ok, "{told}");
        let group = |name: &'static str| ["-G", name, "-e", "-q", "-X", "auto.offset.reset=earliest", "logs"];
        let (ok, told) = tools.kcat("carol", "s3cret", &group("g1"), "");
        assert!(ok && told.contains("one\ntwo\n"), "{told}");
        let (_, told) = tools.kcat("carol", "s3cret", &group("other"), "");
        assert!(!told.contains("one") && told.contains("Group authorization failed"), "{told}");
        let (ok, told) = tools.kcat("carol", "s3cret", &["-P", "-t", "secret"], "one\n");
        assert!(!ok && told.contains("authorization failed"), "{told}");
        let (ok, _) = tools.kcat("carol", "wrong", &["-L", "-m", "3"], "");
        assert!(!ok);
        let (ok, told) = tools.java(ACLS, "carol", "s3cret", &["--list"]);
        assert!(!ok || told.contains("ClusterAuthorizationException"), "{told}");
        admin(ACLS, &["--remove", "--force", "--allow-principal", "User:carol", "--producer", "--topic", "logs"]);
        let listed = admin(ACLS, &["--list", "--principal", "User:carol"]);
        assert_eq!(listed.matches("permissionType=ALLOW").count(), 3, "{listed}");
        admin(CONFIGS, &[&["--alter", "--delete-config", "SCRAM-SHA-256"][..], &carol].concat());
        let (ok, _) = tools.kcat("carol", "s3cret", &["-L", "-m", "3"], "");
        assert!(!ok, "the password is gone");
    })
    .await
    .unwrap();
    broker.stop().await;
}
