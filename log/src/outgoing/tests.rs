//! Hosts as lists name them, and servers that redirect or stand where they should not.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

fn outgoing(allow: &[&str], deny: &[&str]) -> Outgoing {
    let list = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect();
    Outgoing::new(&OutgoingConfig { allow_hosts: list(allow), deny_hosts: list(deny) })
}

fn client(outgoing: &Outgoing) -> OutgoingClient {
    rustls::crypto::ring::default_provider().install_default().ok();
    outgoing.client(Redirects::SameHost, Some(Duration::from_secs(10))).unwrap()
}

#[test]
fn hosts_are_allowed_denied_and_guarded() {
    const FINE: &str = "";
    for (allow, deny, name, address, want) in [
        (vec![], vec![], "hooks.example.org", "10.0.0.1", FINE),
        (vec![], vec![], "127.0.0.1", "127.0.0.1", FINE),
        (vec![], vec![], "169.254.169.254", "169.254.169.254", "metadata"),
        (vec![], vec![], "hooks.example.org", "169.254.169.254", "metadata"),
        (vec![], vec![], "hooks.example.org", "::ffff:169.254.169.254", "metadata"),
        (vec![], vec![], "hooks.example.org", "64:ff9b::a9fe:a9fe", "metadata"),
        (vec![], vec![], "hooks.example.org", "fe80::1", "metadata"),
        (vec![], vec![], "hooks.example.org", "fd00:ec2::254", "metadata"),
        (vec![], vec![], "hooks.example.org", "100.100.100.200", "metadata"),
        (vec![], vec![], "hooks.example.org", "100.100.100.201", FINE),
        // Names, and networks of more than such addresses, do not lift the guard.
        (vec!["hooks.example.org"], vec![], "hooks.example.org", "169.254.169.254", "metadata"),
        (vec!["0.0.0.0/0"], vec![], "hooks.example.org", "169.254.169.254", "metadata"),
        (vec!["::/0"], vec![], "hooks.example.org", "169.254.169.254", "metadata"),
        (vec!["169.254.169.254"], vec![], "hooks.example.org", "169.254.169.254", FINE),
        (vec!["169.254.169.254"], vec![], "hooks.example.org", "169.254.169.253", "metadata"),
        (vec!["169.254.0.0/16"], vec![], "169.254.1.1", "169.254.1.1", FINE),
        // And lifting it confines nothing else.
        (vec!["169.254.169.254"], vec![], "hooks.example.org", "10.0.0.1", FINE),
        (vec!["hooks.example.org"], vec![], "hooks.example.org", "10.0.0.1", FINE),
        (vec!["Hooks.Example.ORG."], vec![], "hooks.example.org", "10.0.0.1", FINE),
        (vec!["hooks.example.org"], vec![], "example.org", "10.0.0.1", "allow_hosts"),
        (vec!["*.example.org"], vec![], "a.b.example.org", "10.0.0.1", FINE),
        (vec!["*.example.org"], vec![], "example.org", "10.0.0.1", "allow_hosts"),
        (vec!["*.example.org"], vec![], "evilexample.org", "10.0.0.1", "allow_hosts"),
        (vec!["10.0.0.0/8"], vec![], "hooks.example.org", "10.0.0.1", FINE),
        (vec!["10.0.0.0/8"], vec![], "hooks.example.org", "11.0.0.1", "allow_hosts"),
        (vec!["10.0.0.0/8"], vec![], "11.0.0.1", "11.0.0.1", "allow_hosts"),
        (vec![], vec!["*.internal"], "db.internal", "10.0.0.1", "deny_hosts"),
        (vec![], vec!["10.0.0.0/8"], "hooks.example.org", "10.0.0.1", "deny_hosts"),
        (vec!["hooks.example.org"], vec!["10.0.0.1"], "hooks.example.org", "10.0.0.1", "deny_hosts"),
    ] {
        let Outgoing(rules) = outgoing(&allow, &deny);
        let address = address.parse().unwrap();
        let found = if name.parse() == Ok(address) { Ok(()) } else { rules.check_name(name) };
        let found = found.and_then(|()| rules.check_address(name, address));
        let text = found.map_err(|error| error.to_string()).err().unwrap_or_default();
        let is_as_wanted = if want == FINE { text.is_empty() } else { text.contains(want) };
        assert!(is_as_wanted, "{allow:?} {deny:?} {name} {address}: {text}");
    }
}

#[test]
fn urls_are_checked_before_anything_is_sent() {
    let client = client(&outgoing(&["*.example.org", "10.0.0.0/8"], &[]));
    for (url, want) in [
        ("https://hooks.example.org/x", ""),
        ("http://10.1.2.3:80/", ""),
        ("http://169.254.169.254/latest", "metadata"),
        ("http://2852039166/latest", "metadata"),
        ("http://0xa9fea9fe/", "metadata"),
        ("http://[::ffff:a9fe:a9fe]/", "metadata"),
        ("http://11.0.0.1/", "allow_hosts"),
        ("file:///etc/passwd", "invalid URL"),
        ("hooks.example.org", "invalid URL"),
    ] {
        let found = client.request(Method::POST, url);
        let text = found.map(drop).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(if want.is_empty() { text.is_empty() } else { text.contains(want) }, "{url}: {text}");
    }
}

#[test]
fn entries_that_can_not_be_read_are_faults() {
    let hosts =
        ["a.example", "*.a.example", "10.0.0.7", "[fd00::1]", "fd00::/8", "a_b", "*", "*a", "http://a", "a/b", ""];
    let config = OutgoingConfig { allow_hosts: hosts.map(str::to_owned).to_vec(), ..OutgoingConfig::default() };
    let mut faults = Faults::default();
    config.check(&mut faults);
    let found: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
    assert_eq!(found, ["allow_hosts[6]", "allow_hosts[7]", "allow_hosts[8]", "allow_hosts[9]", "allow_hosts[10]"]);
}

/// Answers each request with the next of these, and gives the requests.
fn server(answers: Vec<String>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        answers
            .into_iter()
            .map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let head = "Content-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(format!("HTTP/1.1 {answer}\r\n{head}").as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            })
            .collect()
    };
    (address, std::thread::spawn(serve))
}

#[tokio::test]
async fn redirects_lead_to_the_same_host_only() {
    let own = "307 Temporary Redirect\r\nLocation: /again".to_owned();
    let (address, requests) = server(vec![own, "200 OK".to_owned()]);
    let client = client(&Outgoing::default());
    let request = client.request(Method::POST, &format!("http://{address}/")).unwrap().bearer_auth("s3cret");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let requests = requests.join().unwrap();
    assert!(requests[1].starts_with("POST /again") && requests[1].contains("Bearer s3cret"), "{requests:?}");

    for to in ["http://localhost:1/x", "http://169.254.169.254/latest", "//evil.example/"] {
        let (address, requests) = server(vec![format!("307 Temporary Redirect\r\nLocation: {to}")]);
        let request = client.request(Method::POST, &format!("http://{address}/")).unwrap().bearer_auth("s3cret");
        let error = crate::causes::chain(&request.send().await.unwrap_err());
        assert!(error.contains("redirects to another host"), "{to}: {error}");
        assert_eq!(requests.join().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_that_loses_the_body_is_an_error_and_not_followed() {
    for status in ["301 Moved Permanently", "302 Found", "303 See Other"] {
        for (to, shown) in [
            ("/login?next=s3cret", "/login"),
            ("/hook/t0ken?x=s3cret", " (the same path)"),
            ("/v2/t0ken", " (another path)"),
        ] {
            let (address, requests) = server(vec![format!("{status}\r\nLocation: {to}"), "200 OK".to_owned()]);
            let url = format!("http://{address}/hook/t0ken");
            let request = client(&Outgoing::default()).request(Method::POST, &url).unwrap();
            let error = crate::causes::chain(&request.send().await.unwrap_err().without_url());
            let want = format!(
                "the server redirects with {status} to http://{address}{shown}, where a request without its body"
            );
            assert!(error.contains(&want), "{error}");
            assert!(!error.contains("t0ken") && !error.contains("s3cret"), "{error}");
            // The second answer is for us: nobody else asked.
            let again = reqwest::Client::new().get(format!("http://{address}/own")).send().await.unwrap();
            assert_eq!(again.status(), 200);
            let requests = requests.join().unwrap();
            assert!(requests[1].starts_with("GET /own"), "{requests:?}");
        }
    }
}

#[tokio::test]
async fn what_a_name_resolves_to_is_checked() {
    let (address, requests) = server(vec!["200 OK".to_owned()]);
    let url = format!("http://localhost:{}/", address.port());
    let refusing = client(&outgoing(&[], &["127.0.0.0/8", "::1"]));
    let error = refusing.request(Method::GET, &url).unwrap().send().await.unwrap_err();
    let text = crate::causes::chain(&error);
    assert!(text.contains("requests to localhost (") && text.contains("`outgoing.deny_hosts`"), "{text}");
    let allowing = client(&outgoing(&["localhost"], &["::1"]));
    let answer = allowing.request(Method::GET, &url).unwrap().send().await.unwrap();
    assert_eq!((answer.status().as_u16(), requests.join().unwrap().len()), (200, 1));
}
