"""Measures a line's way through Millrace, each role a process of its own: agent to log, log to index, queries.

In: an empty folder, a release binary, `$MILLRACE_SHARED/data`. Out: one table, and JSON with `--json`. Exit 0 if all was
measured and every answer was right, 1 otherwise, 69 if something needed is missing. Touches: the folder, loopback ports
and the processes it starts, which it also ends. `run` beside it is what people call.
"""

import argparse
import ctypes
import datetime
import http.client
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import lines

PARTITIONS = 4
TOPIC = "logs"
RUNS = 5  # of each query, after a first one
STALL_S = 60  # without progress: given up
SETTLE_S = 180  # for merges, at most
QUIET_FILES = 2000  # of the idle agent
IDLE_S = 30  # it is watched for so long
SETTLE_IDLE_S = 15  # after it has read them: rotated_wait and a checkpoint
FREQUENT = "INFO"
MIB = 1 << 20
STAGES = ("agent", "index", "query")


class Trouble(Exception):
    """Something that keeps us from measuring; the text is for a person."""


# --- processes -------------------------------------------------------------------------------------------------------


def die_with_parent():
    """In the child: SIGKILL when this script is gone, however it went (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Role:
    """`millrace broker`, `agent` or `aggregator` as a process."""

    def __init__(self, binary: Path, name: str, config: Path, folder: Path):
        self.name = name
        self.out = folder / f"{name}.out"
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(
                [binary, name, "-c", config],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")},
                preexec_fn=die_with_parent,
            )

    def cpu(self) -> float:
        """User and system time of all its threads, past ones too: the process's CPU clock (see clock_getcpuclockid(3)),
        the same as utime + stime of /proc/PID/stat without their steps of 10 ms."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def peak(self) -> int:
        """Largest resident memory since the start or `forget_peak`, bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise Trouble(f"no VmHWM for {self.name}")

    def forget_peak(self):
        """Starts the peak anew at what is resident now (see proc(5), clear_refs)."""
        try:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        except OSError:
            pass  # a kernel without it: the peak is that since the start

    def alive(self):
        """Complains when it ended."""
        code = self.process.poll()
        if code is not None:
            raise Trouble(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self) -> str:
        return "\n".join(self.out.read_text(errors="replace").splitlines()[-15:])

    def end(self):
        """SIGTERM; SIGKILL after the limits of its own stop."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not stop within 60 s: killed", file=sys.stderr)
                self.process.kill()
                self.process.wait()


def until(what: str, look, roles, pause=0.05):
    """Asks `look` for (done, progress) until it is done; complains when progress stands still."""
    last, since = None, time.monotonic()
    while True:
        done, progress = look()
        if done:
            return progress
        for role in roles:
            role.alive()
        now = time.monotonic()
        if progress != last:
            last, since = progress, now
        elif now - since > STALL_S:
            tails = "\n".join(f"-- {role.name}\n{role.tail()}" for role in roles)
            raise Trouble(f"{what}: no progress for {STALL_S} s, stands at {progress}\n{tails}")
        time.sleep(pause)


# --- Kafka and HTTP --------------------------------------------------------------------------------------------------


def log_end(port: int, topic: str = TOPIC) -> int | None:
    """Records in all partitions of the topic, by ListOffsets v1 (Kafka protocol guide); None while it can't be told."""
    name = topic.encode()
    body = struct.pack(">hhih", 2, 1, 1, -1) + struct.pack(">iih", -1, 1, len(name)) + name
    body += struct.pack(">i", PARTITIONS) + b"".join(struct.pack(">iq", p, -1) for p in range(PARTITIONS))
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as answers:
                answer = answers.read(struct.unpack(">i", answers.read(4))[0])
    except (OSError, struct.error):
        return None
    at = 4 + 4 + 2 + len(name) + 4
    total = 0
    for _ in range(PARTITIONS):
        _, error, _, offset = struct.unpack_from(">ihqq", answer, at)
        at += 22
        if error:
            return None  # 3: the topic is not made yet
        total += offset
    return total


class Http:
    """One kept connection."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, path: str, parameters=None, body=None) -> bytes:
        asked = path + ("?" + urllib.parse.urlencode(parameters) if parameters else "")
        payload = None if body is None else json.dumps(body).encode()
        self.connection.request(
            "GET" if body is None else "POST", asked, payload, {"Content-Type": "application/json"} if body else {}
        )
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Trouble(f"{answer.status} for {path}: {data[:300].decode(errors='replace')}")
        return data

    def ready(self) -> bool:
        try:
            self.ask("/ready")
            return True
        except (Trouble, OSError, http.client.HTTPException):
            self.connection.close()
            return False

    def index_hop(self) -> dict:
        hops = json.loads(self.ask("/api/v1/ledger"))["hops"]
        return next(hop for hop in hops if hop["hop"] == "index")


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


# --- sizes and yardstick ---------------------------------------------------------------------------------------------


def on_disk(folder: Path) -> int:
    """Bytes of the blocks that its files take."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                pass  # a merge took it away
    return total


def zstd(made: lines.Made, folder: Path) -> dict | None:
    """CPU-seconds and size of `zstd -3` on the same files, one thread."""
    program = shutil.which("zstd")
    if program is None:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = folder / "yardstick.zst"
    with open(out, "wb") as sink:
        subprocess.run(
            [program, "-3", "-q", "--single-thread", "-c", *made.files.values()],
            stdout=sink,
            check=True,
            preexec_fn=die_with_parent,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = out.stat().st_size
    out.unlink()
    return {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "bytes": size}


# --- the bench -------------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options, made: lines.Made):
        self.options, self.made = options, made
        self.folder: Path = options.folder
        self.data = self.folder / "data"
        self.kafka, self.http, self.elastic = free_ports(3)
        self.config = self.folder / "millrace.yaml"
        self.roles: list[Role] = []
        brokers = [f"127.0.0.1:{self.kafka}"]
        sources = [
            {
                "type": "file",
                "include": [str(path)],
                "labels": {"service": system.lower(), "env": "bench"},
                "timestamp": {"format": "rfc3339"},
            }
            for system, path in made.files.items()
        ]
        config = {
            "data_dir": str(self.data),
            "broker": {"listen": brokers[0], "default_partitions": PARTITIONS},
            "agent": {
                "host": "bench",
                "sources": sources,
                "kafka": {"brokers": brokers, "topic": TOPIC, "partitions": PARTITIONS},
            },
            "aggregator": {
                "kafka": {"brokers": brokers, "topics": [TOPIC]},
                "http": {"listen": f"127.0.0.1:{self.http}"},
                "elasticsearch": {"listen": f"127.0.0.1:{self.elastic}"},
            },
        }
        self.config.write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML

    def start(self, name: str) -> Role:
        # The roles have a folder each, as on hosts of their own.
        role = Role(self.options.bin, name, self.config, self.folder)
        self.roles.append(role)
        return role

    def end(self):
        for role in reversed(self.roles):
            role.end()

    def tell(self, text: str):
        print(text, file=sys.stderr, flush=True)

    def agent_to_log(self) -> dict:
        """All files are there; the agent reads and sends them. Ends when the log has every line."""
        self.broker = self.start("broker")
        until("broker listens", lambda: (connects(self.kafka), 0), [self.broker])
        broker_before = self.broker.cpu()
        began = time.monotonic()
        agent = self.start("agent")

        def look():
            have = log_end(self.kafka)
            return (have or 0) >= self.made.lines, have

        have = until("agent to log", look, [self.broker, agent])
        figures = {
            "wall_s": time.monotonic() - began,
            "agent": {"cpu_s": agent.cpu(), "peak_bytes": agent.peak()},
            "broker": {"cpu_s": self.broker.cpu() - broker_before, "peak_bytes": self.broker.peak()},
            "records": have,
        }
        agent.end()
        figures["log_bytes"] = on_disk(self.data / "log")
        figures["idle"] = self.idle()
        return figures

    def idle(self) -> dict:
        """An agent of many files in which nothing happens: what it takes once it has read them."""
        folder = self.folder / "quiet"
        logs = folder / "logs"
        logs.mkdir(parents=True)
        for n in range(QUIET_FILES):
            (logs / f"{n:04}.log").write_text("".join(f"quiet {n} {i}\n" for i in range(10)))
        brokers = [f"127.0.0.1:{self.kafka}"]
        kafka = {"brokers": brokers, "topic": "quiet", "partitions": PARTITIONS}
        source = {"type": "file", "include": [str(logs / "*.log")], "labels": {"env": "bench"}}
        config = {"data_dir": str(folder / "data"), "agent": {"host": "quiet", "sources": [source], "kafka": kafka}}
        (folder / "millrace.yaml").write_text(json.dumps(config))
        agent = Role(self.options.bin, "agent", folder / "millrace.yaml", folder)
        self.roles.append(agent)

        def look():
            have = log_end(self.kafka, "quiet")
            return (have or 0) >= QUIET_FILES * 10, have

        until("the quiet files are read", look, [self.broker, agent])
        # The last checkpoint, and files that are looked at once more.
        time.sleep(SETTLE_IDLE_S)
        before = agent.cpu()
        time.sleep(IDLE_S)
        figures = {"cpu_s": agent.cpu() - before, "wall_s": IDLE_S, "peak_bytes": agent.peak()}
        agent.end()
        return figures

    def log_to_index(self) -> dict:
        """The log is full; the aggregator reads and indexes it. Ends when every line is in a published split, and then
        when merging has come to rest."""
        self.broker.forget_peak()
        broker_before = self.broker.cpu()
        began = time.monotonic()
        self.aggregator = self.start("aggregator")
        roles = [self.broker, self.aggregator]
        door = Http(self.http)
        until("aggregator is ready", lambda: (door.ready(), 0), roles)

        def hop_is(key):
            def look():
                hop = door.index_hop()
                return hop[key] >= self.made.lines, (hop["read"], hop["stored"])

            return look

        until("log to index, searchable", hop_is("read"), roles, 0.2)
        searchable = {"wall_s": time.monotonic() - began, "cpu_s": self.aggregator.cpu()}
        until("log to index, stored", hop_is("stored"), roles, 0.2)
        figures = {
            "searchable": searchable,
            "wall_s": time.monotonic() - began,
            "aggregator": {"cpu_s": self.aggregator.cpu(), "peak_bytes": self.aggregator.peak()},
            "broker": {"cpu_s": self.broker.cpu() - broker_before, "peak_bytes": self.broker.peak()},
            "index_bytes_unmerged": self.index_bytes(),
        }
        # At rest: under 3 % of a CPU for longer than the interval of upkeep.
        limit = time.monotonic() + SETTLE_S
        while time.monotonic() < limit:
            before = self.aggregator.cpu()
            time.sleep(7)
            if self.aggregator.cpu() - before < 7 * 0.03:
                break
        self.aggregator.alive()
        figures["merged"] = {
            "cpu_s": self.aggregator.cpu(),
            "peak_bytes": self.aggregator.peak(),
            "at_rest": time.monotonic() < limit,
        }
        figures["index_bytes"] = self.index_bytes()
        figures["folders"] = {p.name: on_disk(p) for p in sorted(self.data.iterdir()) if p.is_dir()}
        hop = door.index_hop()
        figures["ledger"] = {key: hop[key] for key in ("read", "stored", "dropped", "waiting", "holes")}
        return figures

    def index_bytes(self) -> int:
        """What the aggregator keeps: all but the folders of log and agent."""
        return on_disk(self.data) - on_disk(self.data / "log") - on_disk(self.data / "agent")

    def queries(self) -> dict:
        """Each query once and then RUNS times; the answers are checked each time."""
        made = self.made
        loki, elastic = Http(self.http), Http(self.elastic)
        span = {"start": f"{lines.START_S}", "end": f"{made.end_s}"}
        first, after = lines.START_S * 1000, made.end_s * 1000

        def entries(query, limit=100):
            parameters = {"query": query, "limit": limit, "direction": "backward", **span}
            answer = json.loads(loki.ask("/loki/api/v1/query_range", parameters))
            return sum(len(stream["values"]) for stream in answer["data"]["result"])

        def count_all():
            seconds = made.end_s - lines.START_S + 1
            query = f'sum(count_over_time({{env="bench"}}[{seconds}s]))'
            answer = json.loads(loki.ask("/loki/api/v1/query", {"query": query, "time": made.end_s}))
            return int(float(answer["data"]["result"][0]["value"][1]))

        def count_word():
            query = f'sum by (service) (count_over_time({{env="bench"}} |= "{FREQUENT}" [1m]))'
            answer = json.loads(loki.ask("/loki/api/v1/query_range", {"query": query, "step": "60s", **span}))
            return len(answer["data"]["result"])

        def histogram():
            body = {
                "size": 0,
                "track_total_hits": True,
                "query": {"range": {"@timestamp": {"gte": first, "lt": after, "format": "epoch_millis"}}},
                "aggs": {
                    "over_time": {
                        "date_histogram": {"field": "@timestamp", "fixed_interval": "1m"},
                        "aggs": {"service": {"terms": {"field": "labels.service", "size": 20}}},
                    }
                },
            }
            answer = json.loads(elastic.ask(f"/millrace-{TOPIC}/_search", body=body))
            buckets = answer["aggregations"]["over_time"]["buckets"]
            return sum(inner["doc_count"] for bucket in buckets for inner in bucket["service"]["buckets"])

        def full_text():
            body = {
                "size": 100,
                "sort": [{"@timestamp": "desc"}],
                "query": {"match": {"message": lines.RARE}},
            }
            return len(json.loads(elastic.ask(f"/millrace-{TOPIC}/_search", body=body))["hits"]["hits"])

        rare = min(100, made.rare)
        service = max(made.lines_of, key=made.lines_of.get).lower()
        table = [
            ("rare word, all time", lambda: entries(f'{{env="bench"}} |= "{lines.RARE}"'), rare),
            (f"frequent word ({FREQUENT}), newest 100", lambda: entries(f'{{env="bench"}} |= "{FREQUENT}"'), 100),
            ("label selector, newest 100", lambda: entries(f'{{service="{service}"}}'), 100),
            ("count_over_time over everything", count_all, made.lines),
            ("frequent word by service per minute", count_word, None),
            ("Elasticsearch: rare word, newest 100", full_text, rare),
            ("Elasticsearch: date_histogram + terms", histogram, made.lines),
        ]
        self.aggregator.forget_peak()
        figures = {}
        for name, ask, want in table:
            self.tell(f"  {name}")
            try:
                figures[name] = self.one_query(ask, want)
            except (Trouble, OSError, http.client.HTTPException, LookupError, ValueError) as error:
                self.aggregator.alive()
                figures[name] = {"error": f"{type(error).__name__}: {error}"}
                loki.connection.close()
                elastic.connection.close()
        return {"queries": figures, "aggregator": {"peak_bytes": self.aggregator.peak()}}

    def one_query(self, ask, want) -> dict:
        def timed():
            cpu, wall = self.aggregator.cpu(), time.monotonic()
            found = ask()
            wall = time.monotonic() - wall
            if want is not None and found != want:
                raise Trouble(f"wrong answer: {found} instead of {want}")
            return wall, self.aggregator.cpu() - cpu, found

        first = timed()
        rest = [timed() for _ in range(RUNS)]
        return {
            "first_s": first[0],
            "first_cpu_s": first[1],
            "wall_s": statistics.median(wall for wall, _, _ in rest),
            "slowest_s": max(wall for wall, _, _ in rest),
            "cpu_s": statistics.median(cpu for _, cpu, _ in rest),
            "found": first[2],
        }


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


# --- telling ---------------------------------------------------------------------------------------------------------


def table(result: dict) -> str:
    gb = result["raw_bytes"] / 1e9
    zstds = [z["cpu_s"] for z in result["zstd"]]
    yardstick = statistics.mean(zstds) if zstds else None
    out = [
        f"Millrace {result['version']}, {result['date']}: {result['raw_bytes'] / 1e6:.0f} MB in {result['lines']:,} lines, "
        f"{result['files']} files; {result['cpus']} CPUs, load {result['load'][0]:.1f} at the start, "
        f"{result['load'][1]:.1f} at the end",
        "",
        f"{'what':<44}{'CPU s/GB':>10}{'x zstd':>8}{'CPU s':>9}{'wall s':>9}{'peak MiB':>10}",
    ]

    def row(name, cpu, wall=None, peak=None):
        times = "" if yardstick is None else f"{cpu / yardstick:.2f}"
        wall = "" if wall is None else f"{wall:.1f}"
        peak = "" if peak is None else f"{peak / MIB:.0f}"
        out.append(f"{name:<44}{cpu / gb:>10.2f}{times:>8}{cpu:>9.2f}{wall:>9}{peak:>10}")

    for i, cpu in enumerate(zstds):
        row(f"yardstick: zstd -3, {('before', 'after')[i]}", cpu)
    if not zstds:
        out.append("no yardstick: the program zstd is not there")
    if agent := result.get("agent"):
        row("agent to log: agent", agent["agent"]["cpu_s"], agent["wall_s"], agent["agent"]["peak_bytes"])
        row("agent to log: broker", agent["broker"]["cpu_s"], None, agent["broker"]["peak_bytes"])
        idle = agent["idle"]
        share, peak = idle["cpu_s"] / idle["wall_s"], idle["peak_bytes"] / MIB
        out.append(f"agent of {QUIET_FILES:,} quiet files: {share:.2%} of a core in {idle['wall_s']} s, {peak:.0f} MiB")
    if index := result.get("index"):
        row("log to index: aggregator, all searchable", index["searchable"]["cpu_s"], index["searchable"]["wall_s"])
        row(
            "log to index: aggregator, all in splits",
            index["aggregator"]["cpu_s"],
            index["wall_s"],
            index["aggregator"]["peak_bytes"],
        )
        rest = "merges at rest" if index["merged"]["at_rest"] else f"merges not at rest in {SETTLE_S} s"
        row(f"log to index: aggregator, {rest}", index["merged"]["cpu_s"], None, index["merged"]["peak_bytes"])
        row("log to index: broker", index["broker"]["cpu_s"], None, index["broker"]["peak_bytes"])
    sizes = [("zstd -3", z["bytes"]) for z in result["zstd"][:1]]
    if agent:
        sizes.append(("log", agent["log_bytes"]))
    if index:
        sizes += [("index before merges", index["index_bytes_unmerged"]), ("index", index["index_bytes"])]
    if sizes:
        out += ["", f"{'on disk':<44}{'MB':>10}{'of raw':>8}"]
        out += [f"{name:<44}{size / 1e6:>10.1f}{size / result['raw_bytes']:>8.1%}" for name, size in sizes]
    if query := result.get("query"):
        out += ["", f"{'query':<44}{'first ms':>10}{'median':>8}{'slowest':>9}{'CPU ms':>9}{'found':>10}"]
        for name, q in query["queries"].items():
            if "error" in q:
                out.append(f"{name:<44}{'failed: see below':>46}")
                continue
            ms = [q[key] * 1000 for key in ("first_s", "wall_s", "slowest_s", "cpu_s")]
            out.append(f"{name:<44}{ms[0]:>10.1f}{ms[1]:>8.1f}{ms[2]:>9.1f}{ms[3]:>9.1f}{q['found']:>10}")
        out.append(f"peak of the aggregator while asked: {query['aggregator']['peak_bytes'] / MIB:.0f} MiB")
    return "\n".join(out)


def faults(result: dict) -> list[str]:
    """What makes the figures worthless."""
    found = []
    if (agent := result.get("agent")) and agent["records"] != result["lines"]:
        found.append(f"the log has {agent['records']} records of {result['lines']} lines")
    if index := result.get("index"):
        book = index["ledger"]
        if book["stored"] != result["lines"] or book["dropped"] or book["holes"]:
            found.append(f"the index has not just the {result['lines']} lines: {book}")
    for name, query in result.get("query", {}).get("queries", {}).items():
        if "error" in query:
            found.append(f"{name}: {query['error']}")
    return found


def measured(options) -> dict:
    began = time.monotonic()
    source = Path(os.environ["MILLRACE_SHARED"]) / "data" / "loghub-2k.tsv.gz"
    made = lines.make(source, options.folder / "lines", options.mb * 1_000_000)
    version = subprocess.run([options.bin, "--version"], capture_output=True, text=True, check=False).stdout.split()
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": version[-1] if version else "?",
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": [os.getloadavg()[0]],
        "raw_bytes": made.bytes,
        "lines": made.lines,
        "files": len(made.files),
        "zstd": [],
    }
    bench = Bench(options, made)
    bench.tell(f"{made.bytes / 1e6:.0f} MB of lines made in {time.monotonic() - began:.1f} s")
    last = STAGES.index(options.only) if options.only else len(STAGES) - 1
    steps = [bench.agent_to_log, bench.log_to_index, bench.queries]
    yardstick = zstd(made, options.folder)
    result["zstd"] += [yardstick] if yardstick else []
    try:
        for name, step in list(zip(STAGES, steps))[: last + 1]:
            began = time.monotonic()
            bench.tell(f"{name} …")
            figures = step()
            bench.tell(f"{name}: {time.monotonic() - began:.1f} s")
            if options.only in (None, name):
                result[name] = figures
    finally:
        bench.end()
    yardstick = zstd(made, options.folder)
    result["zstd"] += [yardstick] if yardstick else []
    result["load"].append(os.getloadavg()[0])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Measures CPU-seconds per GB, peak memory and index size on the way of a line, and queries.",
    )
    parser.add_argument("--mb", type=int, default=500, help="millions of bytes of log lines (default 500)")
    parser.add_argument("--only", choices=STAGES, help="report this one only; what comes before it runs all the same")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--bin", type=Path, help="the binary (default target/release/millrace, built if missing)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mb < 1:
        parser.error("--mb: at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = measured(options)
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    wrong = faults(result)
    for fault in wrong:
        print(f"bench: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
