//! Doors under attack: garbage, torn and lying frames, floods, drips and logins that never end.
//!
//! The broker is this test binary, started again as a process of its own, so that its memory can be measured. Attackers come
//! from 127.0.0.2, one well-behaved client from 127.0.0.1 goes on beside them: its answers must come in time, the causes must
//! stand in the metrics, memory must stay bounded, and afterwards no connection may be left.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kafka_protocol::messages::*;
use millrace_broker::{ClientAuth, LimitsConfig};
use millrace_log::value::Span;
use tokio::net::TcpSocket;

use super::login::Authority;
use super::*;

const FOLDER: &str = "MILLRACE_HOSTILE_FOLDER";
const READY: &str = "doors:";
const END: &str = "end of metrics";
/// Most memory that the broker may take under any of these attacks, in MiB; debug builds take more than others.
const MOST_MEMORY: u64 = 400;
/// Longest that the well-behaved client may wait: generous, for busy machines; one that is held up waits for a stall.
const MOST_WAIT: Duration = Duration::from_secs(4);

fn config(folder: &Path) -> BrokerConfig {
    let authority = Authority::new(folder);
    let limits = LimitsConfig {
        max_connections_per_address: 600,
        login_timeout: Span(Duration::from_millis(1500)),
        failed_login_delay: Span(Duration::from_millis(20)),
        ..LimitsConfig::default()
    };
    let door = |name: &str| ListenerConfig { limits: limits.clone(), ..door(name) };
    let session_lifetime = Some(Span::secs(60));
    let sasl = Some(SaslConfig { mechanisms: vec![Mechanism::Plain, Mechanism::Scram256], session_lifetime });
    BrokerConfig {
        listeners: vec![
            door("plain"),
            ListenerConfig { tls: authority.tls(ClientAuth::None), ..door("tls") },
            ListenerConfig { sasl, ..door("sasl") },
        ],
        users: vec![user("alice", "wonder")],
        stall_timeout: Span(Duration::from_millis(1500)),
        max_connections: 1500,
        ..BrokerConfig::default()
    }
}

/// Serves until its standard input ends; a line on it asks for the metrics.
#[test]
#[ignore = "the process that other tests attack"]
fn hostile_broker_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let Running { registry, doors, token, task } = Running::start(folder, config(folder)).await;
        println!("\n{READY} {}", doors.iter().map(|(name, at)| format!("{name}={at}")).collect::<Vec<_>>().join(" "));
        let stop = token.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
                let mut text = String::new();
                prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
                println!("{text}\n{END}");
            }
            stop.cancel();
        });
        task.await.unwrap().unwrap();
    });
}

/// The broker under attack.
struct Target {
    _folder: tempfile::TempDir,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    doors: Vec<(String, SocketAddr)>,
}

impl Target {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile::hostile_broker_process", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let doors = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the broker did not start");
            if let Some(doors) = line.strip_prefix(READY) {
                let pair =
                    |pair: &str| pair.split_once('=').map(|(n, at)| (n.to_owned(), at.parse().unwrap())).unwrap();
                break doors.split_whitespace().map(pair).collect();
            }
        };
        Self { _folder: folder, child, input, output, doors }
    }

    fn door(&self, name: &str) -> SocketAddr {
        self.doors.iter().find(|(door, _)| door == name).unwrap().1
    }

    /// Resident memory in MiB, now and at most so far.
    fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
        };
        (line("VmRSS:"), line("VmHWM:"))
    }

    fn metrics(&mut self) -> String {
        writeln!(self.input.as_mut().unwrap()).unwrap();
        let mut text = String::new();
        while !text.ends_with(&format!("{END}\n")) {
            assert!(self.output.read_line(&mut text).unwrap() > 0, "the broker is gone");
        }
        text
    }

    /// One number of the metrics, 0 where it is not there.
    fn number(&mut self, of: &str) -> u64 {
        let metrics = self.metrics();
        metrics.lines().find_map(|line| line.strip_prefix(of)?.trim().parse().ok()).unwrap_or(0)
    }

    fn ended(&mut self, door: &str, cause: &str) -> u64 {
        self.number(&format!("millrace_log_connections_ended_total{{listener=\"{door}\",cause=\"{cause}\"}}"))
    }

    /// Waits until so many connections have ended for a cause.
    async fn has_ended(&mut self, door: &str, cause: &str, at_least: u64) {
        let began = Instant::now();
        while self.ended(door, cause) < at_least {
            assert!(began.elapsed() < Duration::from_secs(60), "{at_least} {cause} on {door}: {}", self.metrics());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a door has so many connections.
    async fn holds(&mut self, door: &str, connections: u64) {
        let began = Instant::now();
        while self.number(&format!("millrace_log_connections{{listener=\"{door}\"}}")) != connections {
            assert!(began.elapsed() < Duration::from_secs(60), "not {connections} on {door}: {}", self.metrics());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ended = self.child.wait();
    }
}

/// A connection of an attacker.
async fn attack(address: SocketAddr) -> std::io::Result<Raw> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
    Ok(Raw(socket.connect(address).await?))
}

/// Sends bytes and nothing more; what comes back until the broker hangs up.
async fn shout(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut raw = attack(address).await.unwrap();
    let mut told = Vec::new();
    // One that hangs up while it is written to has said enough.
    drop(raw.0.write_all(bytes).await);
    drop(raw.0.shutdown().await);
    let read = raw.0.read_to_end(&mut told);
    drop(tokio::time::timeout(WAIT, read).await.expect("the broker hangs up"));
    told
}

/// The well-behaved client, and how long each of its requests took.
struct Good {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Good {
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    async fn start(address: SocketAddr) -> Self {
        let mut raw = Raw::connect(address).await;
        super::limits::make_topic(&mut raw).await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = raw.call(9, &super::limits::produce(100)).await.unwrap();
                assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
                took.push(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Self { stop, task }
    }

    async fn stop(self, attack: &str, target: &Target) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.task.await.unwrap();
        took.sort();
        let (p50, p99, most) = (took[took.len() / 2], took[took.len() * 99 / 100], took[took.len() - 1]);
        let (now, peak) = target.memory();
        println!(
            "{attack}: {} requests, p50 {p50:?} p99 {p99:?} max {most:?}, memory {now} MiB, peak {peak}",
            took.len()
        );
        assert!(most < MOST_WAIT, "{attack}: {most:?}");
        assert!(peak < MOST_MEMORY, "{attack}: {peak} MiB");
    }
}

/// The simplest request of every API at its newest version, without the length.
fn requests() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    macro_rules! add {
        ($($request:ident $version:expr;)+) => {$({
            let header = RequestHeader::default()
                .with_request_api_key($request::KEY)
                .with_request_api_version($version)
                .with_client_id(Some(text("torn")));
            let mut body = BytesMut::new();
            header.encode(&mut body, $request::header_version($version)).unwrap();
            $request::default().encode(&mut body, $version).unwrap();
            all.push(body.to_vec());
        })+};
    }
    add! {
        ProduceRequest 12; FetchRequest 16; ListOffsetsRequest 10; MetadataRequest 13; OffsetCommitRequest 9;
        OffsetFetchRequest 9; FindCoordinatorRequest 6; JoinGroupRequest 9; HeartbeatRequest 4; LeaveGroupRequest 5;
        SyncGroupRequest 5; DescribeGroupsRequest 6; ListGroupsRequest 5; SaslHandshakeRequest 1; ApiVersionsRequest 4;
        CreateTopicsRequest 7; DeleteTopicsRequest 6; DeleteRecordsRequest 2; InitProducerIdRequest 5;
        AddPartitionsToTxnRequest 5; AddOffsetsToTxnRequest 4; EndTxnRequest 5; WriteTxnMarkersRequest 1;
        TxnOffsetCommitRequest 5; OffsetForLeaderEpochRequest 4; DescribeAclsRequest 3; CreateAclsRequest 3;
        DeleteAclsRequest 3; DescribeConfigsRequest 4; AlterConfigsRequest 2; DescribeLogDirsRequest 4;
        SaslAuthenticateRequest 2; CreatePartitionsRequest 3; DeleteGroupsRequest 2; ElectLeadersRequest 2;
        IncrementalAlterConfigsRequest 1; ListPartitionReassignmentsRequest 0; OffsetDeleteRequest 0;
        DescribeClientQuotasRequest 1; AlterClientQuotasRequest 1; DescribeUserScramCredentialsRequest 0;
        AlterUserScramCredentialsRequest 0; DescribeClusterRequest 2; DescribeProducersRequest 0;
        DescribeTransactionsRequest 0; ListTransactionsRequest 1; ConsumerGroupHeartbeatRequest 1;
        ConsumerGroupDescribeRequest 1; ListConfigResourcesRequest 1; DescribeTopicPartitionsRequest 0;
    }
    all
}

fn framed(body: &[u8], announced: i32) -> Vec<u8> {
    [&announced.to_be_bytes()[..], body].concat()
}

fn length(body: &[u8]) -> i32 {
    i32::try_from(body.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_torn_and_lying_frames_end_their_own_connection_only() {
    let mut target = Target::start();
    let plain = target.door("plain");
    let good = Good::start(plain).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 4096], &[0; 4096], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]
    {
        shout(plain, garbage).await;
    }
    // A frame of random bytes is one of an unknown API, or malformed.
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..rand::random_range(0..300)).map(|_| rand::random()).collect();
        shout(plain, &framed(&bytes, length(&bytes))).await;
    }
    let all = requests();
    for body in &all {
        for cut in 0..body.len() {
            // The rest never comes, or was never announced.
            shout(plain, &framed(&body[..cut], length(body))).await;
            shout(plain, &framed(&body[..cut], i32::try_from(cut).unwrap())).await;
        }
    }
    for announced in [-1, i32::MIN, i32::MAX, 100 << 20 | 1] {
        assert_eq!(shout(plain, &framed(b"", announced)).await, b"", "{announced}");
    }
    target.has_ended("plain", "garbage", 6).await;
    // Counts of arrays: none of them is true.
    let header = b"\x00\x03\x00\x01\x00\x00\x00\x07\xff\xff";
    for count in [-2, i32::MIN, i32::MAX, 1 << 20, (1 << 20) + 1] {
        let body = [&header[..], &i32::to_be_bytes(count)].concat();
        assert_eq!(shout(plain, &framed(&body, length(&body))).await, b"", "{count}");
    }
    // Almost a million elements that are there, for which a decoder takes memory: names without a letter.
    let count: u32 = 1_000_000;
    let body = [&header[..], &count.to_be_bytes(), &vec![0; 2 * count as usize]].concat();
    for _ in 0..3 {
        shout(plain, &framed(&body, length(&body))).await;
    }
    assert!(target.ended("plain", "malformed") > 500, "{}", target.metrics());
    assert!(target.ended("plain", "unsupported") > 50, "{}", target.metrics());
    good.stop("garbage", &target).await;
    target.holds("plain", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_and_half_open_connections_leave_room_for_others() {
    let mut target = Target::start();
    let plain = target.door("plain");
    let good = Good::start(plain).await;
    let mut held = Vec::new();
    for i in 0..2000u32 {
        let Ok(mut raw) = attack(plain).await else { continue };
        // Silent, within a length, within a request, or with a large one announced.
        let bytes: &[u8] = match i % 4 {
            0 => b"",
            1 => b"\0\0",
            2 => b"\0\0\x10\0\0\x03\0\x01",
            _ => b"\x05\0\0\0\0\x03",
        };
        drop(raw.0.write_all(bytes).await);
        held.push(raw);
    }
    // Beyond the limit of one address a connection is refused, or one makes room: the idle one that waits longest, or one
    // that was cut off meanwhile.
    let ended: u64 = ["address_limit", "shed", "stalled"].map(|cause| target.ended("plain", cause)).iter().sum();
    assert!(ended >= 1400 - 450, "{}", target.metrics());
    target.has_ended("plain", "stalled", 300).await;
    good.stop("flood", &target).await;
    drop(held);
    target.holds("plain", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_or_writes_slowly_is_ended_and_holds_up_nobody() {
    let mut target = Target::start();
    let plain = target.door("plain");
    let good = Good::start(plain).await;
    let mut filler = Raw::connect(plain).await;
    for _ in 0..40 {
        let answer = filler.call(9, &super::limits::produce(900 << 10)).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
    drop(filler);
    let mut slow = Vec::new();
    for _ in 0..60 {
        // Many fetches of 36 MB in a row, of which no byte is read.
        let mut raw = attack(plain).await.unwrap();
        for _ in 0..20 {
            drop(raw.send(4, &super::limits::fetch()).await);
        }
        slow.push(raw);
    }
    let mut drips = Vec::new();
    for _ in 0..60 {
        let mut raw = attack(plain).await.unwrap();
        raw.0.write_all(&framed(b"\0\x03\0\x01\0\0", 900_000)).await.unwrap();
        drips.push(raw);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        for raw in &mut drips {
            drop(raw.0.write_all(b"x").await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    target.has_ended("plain", "stalled", 120).await;
    good.stop("slow", &target).await;
    drop((slow, drips));
    target.holds("plain", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_never_end_are_ended() {
    let mut target = Target::start();
    let (tls, sasl) = (target.door("tls"), target.door("sasl"));
    let good = Good::start(target.door("plain")).await;
    let mut hellos = Vec::new();
    for _ in 0..50 {
        let mut raw = attack(tls).await.unwrap();
        // A record of a handshake whose rest comes a byte at a time.
        raw.0.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
        hellos.push(raw);
    }
    shout(tls, &[0; 100]).await;
    target.has_ended("tls", "tls", 1).await;
    let mut loops = Vec::new();
    for _ in 0..50 {
        loops.push(attack(sasl).await.unwrap());
    }
    let handshake = SaslHandshakeRequest::default().with_mechanism(text("SCRAM-SHA-256"));
    let began = Instant::now();
    let mut answers = 0;
    while began.elapsed() < Duration::from_millis(2500) {
        for raw in &mut hellos {
            drop(raw.0.write_all(b"\x03").await);
        }
        for (at, raw) in loops.iter_mut().enumerate() {
            // Asks for versions for ever, or is silent after its choice of a mechanism.
            match at % 2 {
                0 => answers += usize::from(raw.call(3, &ApiVersionsRequest::default()).await.is_some()),
                _ => drop(raw.send(1, &handshake).await),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(answers > 0);
    target.has_ended("tls", "login_timeout", 50).await;
    target.has_ended("sasl", "login_timeout", 25).await;
    // A second choice while one is under way is no way to log in.
    target.has_ended("sasl", "unauthenticated", 25).await;
    // Guesses: each is told later, up to a bound, and ends its connection.
    for _ in 0..6 {
        let mut raw = attack(sasl).await.unwrap();
        assert_ne!(raw.plain("alice", "guess").await.error_code, 0);
        assert!(raw.is_ended().await);
    }
    target.has_ended("sasl", "login", 6).await;
    assert_eq!(target.number("millrace_log_failed_logins_total{listener=\"sasl\",mechanism=\"PLAIN\"}"), 6);
    // Again and again on one connection, as KIP-368 has it.
    let mut raw = attack(sasl).await.unwrap();
    for _ in 0..50 {
        assert_eq!(raw.plain("alice", "wonder").await.error_code, 0);
    }
    assert_ne!(raw.plain("alice", "guess").await.error_code, 0);
    assert!(raw.is_ended().await);
    good.stop("logins", &target).await;
    drop((hellos, loops));
    for door in ["plain", "tls", "sasl"] {
        target.holds(door, 0).await;
    }
}
