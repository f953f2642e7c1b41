"""Measures our broker beside real Apache Kafka, each in turn on the same machine in the same run: medians of several rounds.

In: an empty folder, the release builds of broker/examples/broker.rs and load.rs, `$MILLRACE_SHARED/servers/kafka`. Out: tables
in Markdown, and JSON with `--json`. Exit 0 if all was measured and every answer was right, 1 otherwise. Touches: the folder,
loopback ports and the processes it starts, which it also ends. `broker` beside it is what people call.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import MIB, Trouble, die_with_parent

SERVERS = ("os", "always", "kafka")
NAMES = {"os": "millrace, flush: os", "always": "millrace, flush: always", "kafka": "Apache Kafka 4.1.1"}
PARTS = ("bulk", "latency", "many", "catch-up")
PARTITIONS = 4
RECORD = 200
PRODUCERS = 64
TOOL = Path(os.environ["MILLRACE_SHARED"]) / "servers" / "kafka"


def clock_of(pid: int) -> float:
    """User and system time of all threads of a process, past ones too (see clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


class Server:
    """One broker as a process, its data in a folder of its own."""

    def __init__(self, kind: str, port: int, folder: Path, binary: Path):
        self.kind, self.port, self.folder = kind, port, folder
        folder.mkdir(parents=True)
        if kind == "kafka":
            environment = os.environ | {"SERVER_PARENT": str(os.getpid())}
            started = subprocess.run(
                [TOOL, "start", str(port), folder], env=environment, capture_output=True, text=True, check=False
            )
            words = started.stdout.split()
            if started.returncode != 0 or words[:1] != ["ready"]:
                raise Trouble(f"Kafka did not start:\n{started.stdout}{started.stderr}")
            self.pid = int(words[1])
            return
        config = folder / "broker.json"
        listen = f"127.0.0.1:{port}"
        config.write_text(json.dumps({"listen": listen, "storage": {"flush": kind}}))
        with open(folder / "broker.out", "ab") as out:
            self.process = subprocess.Popen(
                [binary, listen, folder / "data", config],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=die_with_parent,
            )
        self.pid = self.process.pid
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Trouble(f"the broker did not start:\n{(folder / 'broker.out').read_text()}") from None
                time.sleep(0.05)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cpu(self) -> float:
        return clock_of(self.pid)

    def peak(self) -> float:
        """Largest resident memory since the start or `forget_peak`, MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise Trouble("no VmHWM")

    def forget_peak(self):
        """Starts the peak anew at what is resident now (see proc(5), clear_refs)."""
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        except OSError:
            pass  # a kernel without it: the peak is that since the start

    def end(self):
        if self.kind == "kafka":
            subprocess.run([TOOL, "stop", str(self.port)], capture_output=True, check=False)
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


# --- clients ---------------------------------------------------------------------------------------------------------


def popen(command) -> subprocess.Popen:
    return subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )


def finished(process: subprocess.Popen, patience=600) -> str:
    out, err = process.communicate(timeout=patience)
    if process.returncode != 0:
        raise Trouble(f"{' '.join(process.args)}\nended with {process.returncode}:\n{out[-2000:]}{err[-2000:]}")
    return out


def load(options, *words) -> dict:
    """Runs broker/examples/load.rs; gives its figures."""
    return json.loads(finished(popen([options.load, *words])) or "{}")


def make_topic(options, server: Server, name: str):
    load(options, "topic", server.address, name, PARTITIONS)


def perf_produce(server: Server, topic: str, records: int, rate: int, *settings: str) -> subprocess.Popen:
    """Kafka's own producer tool."""
    return popen(
        [TOOL, "perf-produce", "--topic", topic, "--num-records", records, "--record-size", RECORD]
        + ["--throughput", rate, "--producer-props", f"bootstrap.servers={server.address}", "acks=all", *settings]
    )


def produced(out: str) -> dict:
    """The last line of perf-produce."""
    pattern = (
        r"(\d+) records sent, ([\d.,]+) records/sec .*, ([\d.,]+) ms avg latency, ([\d.,]+) ms max latency, "
        r"(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th"
    )
    found = re.findall(pattern, out)
    if not found:
        raise Trouble(f"no figures of perf-produce in:\n{out[-2000:]}")
    sent, rate, _, _, p50, _, p99 = found[-1]
    return {"records": int(sent), "rate": float(rate.replace(",", "")), "p50": float(p50), "p99": float(p99)}


def perf_consume(server: Server, topic: str, records: int) -> dict:
    """Kafka's own consumer tool: records per second without the joining of the group, and what came."""
    out = finished(
        popen(
            [TOOL, "perf-consume", "--bootstrap-server", server.address, "--topic", topic]
            + ["--messages", records, "--timeout", "60000"]
        )
    )
    rows = [line.split(",") for line in out.splitlines() if line[:2] == "20" and line.count(",") >= 9]
    if not rows:
        raise Trouble(f"no figures of perf-consume in:\n{out[-2000:]}")
    row = [cell.strip() for cell in rows[-1]]
    if int(row[4]) < records:
        raise Trouble(f"perf-consume got {row[4]} of {records} records")
    return {"records": int(row[4]), "rate": float(row[9]), "ms": float(row[7])}


# --- parts -----------------------------------------------------------------------------------------------------------


class Watch:
    """Wall and CPU from here on."""

    def __init__(self, server: Server):
        self.server, self.began, self.cpu = server, time.monotonic(), server.cpu()

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self.began, self.server.cpu() - self.cpu


def bulk(options, server: Server) -> dict:
    make_topic(options, server, "bulk")
    watch = Watch(server)
    took = produced(finished(perf_produce(server, "bulk", options.records, -1)))
    take_wall, take_cpu = watch.read()
    watch = Watch(server)
    gave = perf_consume(server, "bulk", options.records)
    give_wall, give_cpu = watch.read()
    return {
        "take: CPU s": take_cpu,
        "take: wall s": take_wall,
        "take: MB/s": took["rate"] * RECORD / 1e6,
        "take: p99 ms": took["p99"],
        "give: CPU s": give_cpu,
        "give: wall s": give_wall,
        "give: MB/s": gave["rate"] * RECORD / 1e6,
        "peak MiB": server.peak(),
    }


def latency(options, server: Server) -> dict:
    make_topic(options, server, "latency")
    count = 1000 * options.seconds
    watch = Watch(server)
    java = produced(finished(perf_produce(server, "latency", count, 1000, "linger.ms=0")))
    _, cpu = watch.read()
    words = ["--producers", 1, "--partitions", PARTITIONS, "--in-flight", 1000]
    words += ["--batch-records", 1, "--record-bytes", RECORD, "--rate", 1000, "--batches", count]
    plain = load(options, "produce", server.address, "latency", *words)
    return {
        "perf-produce: p50 ms": java["p50"],
        "perf-produce: p99 ms": java["p99"],
        "bare client: p50 ms": plain["p50_ms"],
        "bare client: p99 ms": plain["p99_ms"],
        "CPU s": cpu,
    }


def many(options, server: Server) -> dict:
    make_topic(options, server, "many")
    words = ["--producers", PRODUCERS, "--partitions", PARTITIONS, "--in-flight", 5]
    words += ["--batch-records", 80, "--record-bytes", RECORD]
    load(options, "produce", server.address, "many", *words, "--seconds", min(2, options.seconds))  # warm
    server.forget_peak()
    watch = Watch(server)
    figures = load(options, "produce", server.address, "many", *words, "--seconds", options.many_seconds)
    _, cpu = watch.read()
    return {
        "MB/s": figures["bytes_per_s"] / 1e6,
        "p50 ms": figures["p50_ms"],
        "p99 ms": figures["p99_ms"],
        "CPU s per GB": cpu / (figures["bytes"] / 1e9),
        "peak MiB": server.peak(),
    }


def catch_up(options, server: Server) -> dict:
    make_topic(options, server, "catch-up")
    batches = options.catch_up_mb * 10**6 // (80 * RECORD)
    words = ["--producers", 4, "--partitions", PARTITIONS, "--in-flight", 5]
    words += ["--batch-records", 80, "--record-bytes", RECORD]
    made = load(options, "produce", server.address, "catch-up", *words, "--batches", batches)
    server.forget_peak()
    watch = Watch(server)
    # For as long as the reading may last; ended with it.
    writer = popen(
        [options.load, "produce", server.address, "catch-up", "--producers", 4, "--partitions", PARTITIONS]
        + ["--in-flight", 5, "--batch-records", 10, "--record-bytes", RECORD, "--rate", 2000, "--seconds", 600]
    )
    try:
        gave = perf_consume(server, "catch-up", made["records"])
        _, cpu = watch.read()
        writer.send_signal(signal.SIGINT)
        wrote = json.loads(finished(writer, 60))
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.wait()
    return {
        "read MB/s": gave["rate"] * RECORD / 1e6,
        "CPU s per GB read": cpu / (gave["records"] * RECORD / 1e9),
        "produce meanwhile: p50 ms": wrote["p50_ms"],
        "produce meanwhile: p99 ms": wrote["p99_ms"],
        "peak MiB": server.peak(),
    }


MEASURES = {"bulk": bulk, "latency": latency, "many": many, "catch-up": catch_up}


def probe_disk(folder: Path) -> dict:
    """What fdatasync costs here: 16 KiB and 1 MiB appended to a file and forced, 200 times each."""
    figures = {}
    for name, size in (("16 KiB", 16 << 10), ("1 MiB", MIB)):
        path = folder / "probe"
        block = os.urandom(size)
        took = []
        with open(path, "wb", buffering=0) as file:
            for _ in range(200 if size < MIB else 50):
                file.write(block)
                began = time.perf_counter()
                os.fdatasync(file.fileno())
                took.append((time.perf_counter() - began) * 1000)
        path.unlink()
        took.sort()
        figures[f"fdatasync of {name}: p50 ms"] = took[len(took) // 2]
        figures[f"fdatasync of {name}: p99 ms"] = took[len(took) * 99 // 100]
    return figures


# --- tables ----------------------------------------------------------------------------------------------------------

# The goals: (part, figure, ours, at most or at least this times Kafka's).
GOALS = [
    ("bulk", "take: CPU s", "os", "<=", 0.25),
    ("bulk", "give: CPU s", "os", "<=", 0.25),
    ("bulk", "peak MiB", "os", "<=", 0.1),
    ("latency", "perf-produce: p99 ms", "os", "<=", 0.5),
    ("latency", "bare client: p99 ms", "os", "<=", 0.5),
    ("many", "MB/s", "always", ">=", 1.0),
]


def show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def report(options, medians: dict, disk: dict, load_before: float):
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    rounds = "1 round" if options.rounds == 1 else f"medians of {options.rounds} rounds"
    print(f"{now}: {rounds}, {platform.machine()}, {os.cpu_count()} CPUs, load {load_before:.1f} at the start, ", end="")
    print(f"{os.getloadavg()[0]:.1f} at the end; {options.records} records of {RECORD} bytes in bulk, ", end="")
    print(f"{options.catch_up_mb} MB to catch up with\n")
    servers = [server for server in SERVERS if server in options.servers]
    against = "kafka" in servers
    heads = ["what", *(NAMES[server] for server in servers), *(f"{s} / Kafka" for s in servers if against and s != "kafka")]
    print("| " + " | ".join(heads) + " |")
    print("|---" + "|---:" * (len(heads) - 1) + "|")
    for part in PARTS:
        rows = {figure for server in servers for figure in medians[server].get(part, {})}
        order = next((list(medians[s][part]) for s in servers if part in medians[s]), [])
        for figure in [f for f in order if f in rows]:
            values = [medians[server].get(part, {}).get(figure) for server in servers]
            cells = [f"{part}, {figure}", *map(show, values)]
            kafka = values[servers.index("kafka")] if against else None
            for server, value in zip(servers, values):
                if against and server != "kafka":
                    cells.append(show(value / kafka) if kafka and value is not None else "")
            print("| " + " | ".join(cells) + " |")
    print()
    print(", ".join(f"{name} {show(value)}" for name, value in disk.items()))
    if not against:
        return
    print()
    for part, figure, server, sign, bound in GOALS:
        ours = medians.get(server, {}).get(part, {}).get(figure)
        kafka = medians["kafka"].get(part, {}).get(figure)
        if ours is None or not kafka:
            continue
        ratio = ours / kafka
        met = ratio <= bound if sign == "<=" else ratio >= bound
        print(f"- {'met' if met else 'NOT met'}: {part}, {figure}, flush: {server}: {ratio:.2f} of Kafka's, asked {sign} {bound}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--bin", type=Path, required=True, help="the broker: broker/examples/broker.rs as built")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one small round: shows that it works, its figures mean little")
    parser.add_argument("--full", action="store_true", help="catch up with 5 GB instead of 1 GB")
    parser.add_argument("--only", action="append", choices=SERVERS, help="these servers only; may be given again")
    parser.add_argument("--part", action="append", choices=PARTS, help="these parts only; may be given again")
    parser.add_argument("--port", type=int, default=21092)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.records, options.seconds, options.many_seconds = 3_000_000, 20, 10
    options.catch_up_mb = 5000 if options.full else 1000
    if options.short:
        options.rounds, options.records, options.seconds, options.many_seconds = 1, 100_000, 2, 2
        options.catch_up_mb = 50
    options.servers = options.only or list(SERVERS)
    parts = options.part or list(PARTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    load_before = os.getloadavg()[0]
    rounds: dict = {server: {part: [] for part in parts} for server in options.servers}
    disk = []
    for number in range(options.rounds):
        disk.append(probe_disk(options.folder))
        turn = number % len(options.servers)
        for kind in options.servers[turn:] + options.servers[:turn]:  # nobody is always first
            server = Server(kind, options.port, options.folder / f"{kind}-{number}", options.bin)
            try:
                for part in parts:
                    print(f"round {number + 1}: {NAMES[kind]}: {part}", file=sys.stderr)
                    rounds[kind][part].append(MEASURES[part](options, server))
            finally:
                server.end()
    middle = lambda list_of: {name: statistics.median(one[name] for one in list_of) for name in list_of[0]}
    medians = {server: {part: middle(of) for part, of in by_part.items()} for server, by_part in rounds.items()}
    report(options, medians, middle(disk), load_before)
    if options.json:
        options.json.write_text(json.dumps({"medians": medians, "rounds": rounds, "disk": disk}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        sys.exit(1)
