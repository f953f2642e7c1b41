"""The attacks: each sends what a stranger could send, from addresses of its own, and returns what the server answered.

In: the server's ports. Out: for each attack, its name, the answers, and those that are right. Runs in a process of its own, so that
neither its memory nor its CPU is the probe's. Status 0 is a connection closed without an answer.
"""

import base64
import contextlib
import json
import os
import threading
import time
import urllib.parse
from collections import Counter

import wire

STRANGER = "127.0.0.66"
JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
ATTACKS = []


def attack(name, *right):
    def put(function):
        ATTACKS.append((name, function, set(right)))
        return function
    return put


def query(ports, text, path="query_range", timeout=70, **params):
    params = {"query": text, **params}
    path = f"/loki/api/v1/{path}?{urllib.parse.urlencode(params)}"
    return wire.http(ports.http, "GET", path, {"X-Scope-OrgID": "stranger"}, source=STRANGER, timeout=timeout)[0]


def push(ports, body, headers):
    headers = {"X-Scope-OrgID": "stranger", **headers}
    return wire.http(ports.http, "POST", "/loki/api/v1/push", headers, body, STRANGER, 60)[0]


def elastic(ports, path, body, headers=None, method="POST"):
    return wire.http(ports.elastic, method, path, {**JSON, **(headers or {})}, body, STRANGER, 70)[0]


def together(count, work):
    """Runs `work` so many times at once; the answers."""
    seen = []
    threads = [threading.Thread(target=lambda at=at: seen.append(work(at))) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


@attack("Loki push: 1 GiB of one letter by gzip, three at once", 400, 413, 429)
def loki_gzip_bomb(ports):
    body = wire.gzip_of(b'{"streams":[{"stream":{"a":"b"},"values":[["1","', b"x" * (1 << 20), 1024)
    return together(3, lambda _: push(ports, body, {**JSON, "Content-Encoding": "gzip"}))


@attack("Loki push: 63 million empty streams in 5.9 MB of snappy", 400, 413, 429)
def loki_empty_streams(ports):
    body = wire.snappy_of_pairs(b"\x0a\0", 126 << 20)
    return together(3, lambda _: push(ports, body, PROTOBUF))


@attack("Loki push: JSON nested 1,000,000 deep", 400, 413)
def loki_nesting(ports):
    return [push(ports, b"[" * 1_000_000, JSON), push(ports, b'{"streams":' * 300_000, JSON)]


@attack("Loki push: 100,000 streams; 10,000 labels; a label of 1 MB; time beyond all bounds", 204, 400, 413, 429)
def loki_labels(ports):
    now = str(time.time_ns())
    stream = lambda labels, at=now: {"stream": labels, "values": [[at, "x"]]}
    bodies = [
        [stream({"n": str(i)}) for i in range(100_000)],
        [stream({f"l{i}": "v" for i in range(10_000)})],
        [stream({"a": "v" * 1_000_000})],
        [stream({"a": "b"}, str(2**63)), stream({"a": "b"}, "-" + "9" * 400)],
    ]
    return [push(ports, json.dumps({"streams": streams}).encode(), JSON) for streams in bodies]


@attack("OTLP: 4 million empty resources in a body by gzip", 400, 404, 413, 429)
def otlp_empty_resources(ports):
    body = wire.gzip_of(b"", b"\x0a\0" * (1 << 19), 8)
    headers = {**PROTOBUF, "Content-Encoding": "gzip"}
    post = lambda port, path: wire.http(port, "POST", path, headers, body, STRANGER)[0]
    return [post(ports.otlp, "/v1/logs"), post(ports.http, "/otlp/v1/logs")]


@attack("Elasticsearch _bulk: 2 million actions; 1 GiB by gzip", 400, 413, 429)
def bulk_bombs(ports):
    line = b'{"index":{"_index":"s"}}\n{}\n'
    bomb = wire.gzip_of(line, b" " * (1 << 20), 1024)
    return [
        elastic(ports, "/_bulk", line * 2_000_000, {"Content-Type": "application/x-ndjson"}),
        elastic(ports, "/_bulk", bomb, {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}),
    ]


@attack("Elasticsearch search: 500,000 clauses; 2,000 aggregations; nested 10,000 deep; a script; size 1e9", 400, 413)
def elastic_searches(ports):
    term = {"term": {"a": "b"}}
    deep = b'{"query":' + b'{"bool":{"must":' * 10_000 + b"{}" + b"}}" * 10_000 + b"}"
    bodies = [
        json.dumps({"query": {"bool": {"should": [term] * 500_000}}}).encode(),
        json.dumps({"aggs": {f"a{i}": {"terms": {"field": f"f{i}"}} for i in range(2_000)}}).encode(),
        deep,
        json.dumps({"query": {"script": {"script": "while(true){}"}}}).encode(),
        json.dumps({"size": 1_000_000_000}).encode(),
        json.dumps({"query": {"regexp": {"message": "(a{1000}){1000}{1000}"}}}).encode(),
    ]
    return [elastic(ports, "/_search", body) for body in bodies]


@attack("LogQL: 1 MB of text; 50,000 parentheses; 20,000 filters; huge regexes", 400, 413, 414, 431)
def logql_texts(ports):
    form = {"Content-Type": "application/x-www-form-urlencoded", "X-Scope-OrgID": "stranger"}
    texts = [
        '{a="b"}' + "x" * 1_000_000,
        "(" * 50_000 + '{a="b"}' + ")" * 50_000,
        '{a="b"}' + ' |= "x"' * 20_000,
        '{a="b"} |~ "(a{1000}){1000}"',
        '{a=~"(((((a{100}){100}){100}){100}){100})"}',
        "1" + "+1" * 100_000,
    ]
    ask = lambda text: wire.http(
        ports.http, "POST", "/loki/api/v1/query_range", form, urllib.parse.urlencode({"query": text}).encode(), STRANGER)
    return [ask(text)[0] for text in texts]


@attack("LogQL: ranges of centuries in steps of a nanosecond", 400)
def logql_steps(ports):
    count = 'count_over_time({app="load"}[1m])'
    return [
        query(ports, count, start="0", end="9000000000", step="0.000000001"),
        query(ports, 'count_over_time({app="load"}[9223372036854775807y])'),
        query(ports, count, start="-1e308", end="1e308", step="1"),
    ]


@attack("40 heavy queries of one tenant at once, over 200,000 lines", 200, 400, 429, 504)
def heavy_queries(ports):
    text = 'sum by (x) (count_over_time({app="load"} | regexp "(?P<x>[0-9a-f]+)-(.*)-(.*)" [1h]))'
    return together(40, lambda at: query(ports, text, step="1s", since="1h"))


@attack("300 heavy queries whose clients go away", 0)
def deserted_queries(ports):
    text = urllib.parse.quote('{app="load"} | json | line_format "{{.a}}{{.b}}" |~ "never.*found"')

    def ask(_):
        with wire.connect(ports.http, STRANGER) as conn:
            host = f"Host: 127.0.0.1\r\nX-Scope-OrgID: stranger\r\n\r\n"
            conn.sendall(f"GET /loki/api/v1/query_range?query={text}&limit=5000 HTTP/1.1\r\n{host}".encode())
            time.sleep(0.05)
        return 0

    return [status for _ in range(10) for status in together(30, ask)]


@attack("Headers: 1 MB in one, 5,000 of them, two lengths, length and chunks", 0, 400, 431)
def headers(ports):
    def raw(text):
        with wire.connect(ports.http, STRANGER) as conn:
            try:
                conn.sendall(text)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return wire.answer(conn)[0]

    start = b"POST /loki/api/v1/push HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return [
        raw(start + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n"),
        raw(start + b"".join(b"x%d: y\r\n" % i for i in range(5_000)) + b"\r\n"),
        raw(start + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n12345"),
        raw(start + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
    ]


@attack("600 connections that send a header byte by byte, on each HTTP port", 0, 400, 408, 503)
def slow_headers(ports):
    with contextlib.ExitStack() as stack:
        conns = [conn for port in (ports.http, ports.elastic, ports.alerts)
                 for conn in stack.enter_context(wire.held(port, 200, STRANGER))]
        for at in range(6):
            for conn in conns:
                with contextlib.suppress(OSError):
                    conn.sendall(b"GET / HTTP/1.1\r\nHost:"[at:at + 1])
            time.sleep(0.5)
    return [0]


@attack("Another page in the browser: foreign Origin, foreign Host, a form's body", 400, 403, 415, 421)
def browser(ports):
    tail = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "Origin": "http://evil.example"}
    path = "/loki/api/v1/tail?query=" + urllib.parse.quote('{app=~".+"}')
    ask = lambda port, method, path, headers, body=b"": wire.http(port, method, path, headers, body, STRANGER)[0]
    return [
        ask(ports.http, "GET", path, tail),
        ask(ports.http, "GET", "/loki/api/v1/labels", {"Host": "evil.example"}),
        ask(ports.elastic, "GET", "/_search", {"Host": "evil.example"}),
        ask(ports.alerts, "POST", "/api/v2/alerts", {"Content-Type": "text/plain"}, b'[{"labels":{"a":"b"}}]'),
        ask(ports.http, "POST", "/loki/api/v1/push", {**JSON, "Origin": "http://evil.example"}, b"{}"),
    ]


@attack("Alertmanager API: 100,000 alerts; a label of 1 MB; a silence with a huge regex", 200, 400, 413, 429)
def alerts(ports):
    post = lambda path, value: wire.http(
        ports.alerts, "POST", path, JSON, json.dumps(value).encode(), STRANGER, 60)[0]
    silence = {"matchers": [{"name": "a", "value": "(a{1000}){1000}", "isRegex": True}], "createdBy": "x", "comment": "x",
               "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z"}
    return [
        post("/api/v2/alerts", [{"labels": {"alertname": "Flood", "m": str(i)}} for i in range(100_000)]),
        post("/api/v2/alerts", [{"labels": {"alertname": "x" * 1_000_000}}]),
        post("/api/v2/silences", silence),
    ]


@attack("Kafka: records that unpack to 200 MiB and to 3 GiB", 10, 87)
def kafka_bombs(ports):
    seen = []
    for mebibytes in (200, 3000):
        with wire.connect(ports.kafka, STRANGER, 60) as conn:
            answer = wire.call_kafka(conn, wire.produce("logs", 0, wire.huge_record(mebibytes)))
            seen.append(wire.error_of_produce(answer) if answer else 0)
    return seen


@attack("Kafka: lying counts and lengths in batches", 2, 87)
def kafka_lies(ports):
    good = wire.zigzag(8) + b"\0\0\0" + wire.zigzag(-1) + wire.zigzag(1) + b"x" + b"\0"
    seen = []
    for records, count in [(good, 2_000_000_000), (good, 0), (good[:-3], 1), (wire.zigzag(1 << 40) + good, 1)]:
        with wire.connect(ports.kafka, STRANGER) as conn:
            answer = wire.call_kafka(conn, wire.produce("logs", 0, wire.batch(records, count)))
            seen.append(wire.error_of_produce(answer) if answer else 2)
    return seen


@attack("Kafka: frames of 2 GiB, arrays of 2 billion, garbage, 1,500 idle connections", 0)
def kafka_frames(ports):
    starts = [b"", b"\x7f\xff\xff\xff", b"\0\0\0\x20\0\x03\0\x01\0\0\0\x07\xff\xff\x7f\xff\xff\xff", os.urandom(64)]
    with wire.held(ports.kafka, 1500, STRANGER) as conns:
        for at, conn in enumerate(conns):
            with contextlib.suppress(OSError):
                conn.sendall(starts[at % 4])
        time.sleep(2)
    return [0]


@attack("Syslog over TCP: a message of 200 MB without an end, lying lengths, garbage", 0)
def syslog(ports):
    def send(chunk, count):
        with wire.connect(ports.syslog, STRANGER, 20) as conn:
            try:
                for _ in range(count):
                    conn.sendall(chunk)
            except OSError:
                pass
        return 0

    return [send(b"<13>" + b"x" * (1 << 20), 200), send(b"99999999999 <13>x", 1), send(os.urandom(1 << 16), 64)]


@attack("Live tail: 300 of them that read nothing", 101, 429)
def tails(ports):
    path = "/loki/api/v1/tail?query=" + urllib.parse.quote('{app=~".+"}')
    key = base64.b64encode(os.urandom(16)).decode()
    text = (f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{ports.http}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n")
    seen = []
    with wire.held(ports.http, 300, STRANGER) as conns:
        for conn in conns:
            conn.sendall(text.encode())
            words = conn.recv(64).split()
            seen.append(int(words[1]) if len(words) > 1 else 0)
        time.sleep(2)
    return seen


@attack("Paths: up to other files, NUL, 100,000 bytes", 400, 404, 414, 431)
def paths(ports):
    names = ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/..%2f..%2fetc/passwd", "/%00", "/" + "x" * 100_000]
    return [wire.http(ports.http, "GET", name, source=STRANGER)[0] for name in names]


def main(name, ports):
    """Runs one attack; prints its answers, counted."""
    function = next(function for of, function, _ in ATTACKS if of == name)
    seen = Counter(function(ports))
    print(json.dumps(sorted(seen.items())))
