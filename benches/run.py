"""Measures a bare socket, the official driver and mongolink side by side, and prints tables of the results.

All kinds are measured in turns, in every round, on the same servers; what counts are the ratios within one run. The table
is Markdown, so that it can be kept as it is. With --json FILE the same rows are written there.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR") or HERE / "target").absolute() / "release"
KINDS = ["raw", "official", "mongolink"]
DRIVERS = KINDS[1:]

# No single program may take longer, in seconds: what hangs is ended, and has failed.
LIMIT = 180

# Instructions are counted as the difference between two runs of so many operations.
FEW_OPS, MANY_OPS = 500, 1500

# User data of one operation, in units of a million bytes.
MEGABYTES = {"insert1k": 1024 / 1e6, "insert1m": 1024 * 1024 / 1e6, "find16m": 16_000 * 1024 / 1e6}


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement with several clients."""

    server: str
    op: str
    callers: int
    events: bool = False
    kinds: tuple = tuple(KINDS)

    def name(self):
        parts = [self.op, f"{self.callers} caller{'s' if self.callers > 1 else ''}", SERVERS[self.server]]
        return ", ".join(parts + (["events"] if self.events else []))

    def without_events(self):
        return dataclasses.replace(self, events=False, kinds=tuple(KINDS))


SERVERS = {"one": "1 member", "three": "3 members", "fifty": "50 members", "tls": "1 member, TLS", "mongod": "mongod"}

ROWS = [
    *(Row(server, op, 64) for server in ("one", "three", "fifty") for op in ("ping", "find")),
    Row("one", "ping", 1),
    Row("one", "insert1k", 16),
    Row("one", "insert1m", 4),
    Row("one", "find16m", 2),
    *(Row("tls", op, 64) for op in ("ping", "find")),
    Row("tls", "ping", 1),
    *(Row("one", op, 64, events=True, kinds=tuple(DRIVERS)) for op in ("ping", "find")),
]
MONGOD_ROWS = [Row("mongod", "ping", 64), Row("mongod", "find", 64), Row("mongod", "insert1k", 16), Row("mongod", "ping", 1)]

# Those that depend on the processor, one after the other; then those that mostly wait, at the same time.
BUSY_SCENARIOS = [
    *(("first50", kind) for kind in DRIVERS),
    ("selection", "mongolink"),
    ("checkout", "mongolink"),
    *(("queue", kind) for kind in DRIVERS),
    *(("create-drop", kind) for kind in DRIVERS),
    *(("memory", kind) for kind in KINDS),
    *(("cancelled", kind) for kind in DRIVERS),
]
WAITING_SCENARIOS = [
    *(("idle", kind) for kind in KINDS),
    *(("stall", kind) for kind in DRIVERS),
    *(("silent", kind) for kind in DRIVERS),
    ("slow-dns", "mongolink"),
]

# What of a measurement is shown: its name in the output of `client`, the head of its column, and what it is divided by.
COLUMNS = [
    ("cpu_us", "CPU us", 1),
    ("allocations", "allocations", 1),
    ("bytes", "bytes", 1),
    ("p50_us", "p50 us", 1),
    ("p99_us", "p99 us", 1),
    ("p999_us", "p99.9 us", 1),
    ("throughput", "thousand/s", 1e3),
    ("peak_kib", "peak MiB", 1024),
]


class Server:
    """A process of the fake server."""

    def __init__(self, members, *arguments, authority=None):
        command = [PROGRAMS / "server", "--members", str(members), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = json.loads(self.process.stdout.readline())
        self.port, self.authority = said["ports"][0], authority
        hosts = ",".join(f"127.0.0.1:{port}" for port in said["ports"])
        self.uri = f"mongodb://{hosts}/?replicaSet={said['set']}&maxPoolSize=100"
        if authority:
            self.uri += f"&tls=true&tlsCAFile={str(authority).replace('/', '%2F')}"

    def stop(self):
        # It ends when there will be no more orders.
        self.process.stdin.close()
        finish(self.process)


class Mongod:
    """A process of a real server, a replica set of one."""

    authority = None

    def __init__(self, program, folder):
        data = Path(folder) / "mongod"
        data.mkdir()
        self.port = free_port()
        fixed = "--replSet bench --bind_ip 127.0.0.1 --nounixsocket --wiredTigerCacheSizeGB 0.25 --quiet "
        fixed += "--setParameter diagnosticDataCollectionEnabled=false"
        command = [program, *fixed.split(), "--port", str(self.port), "--dbpath", data, "--logpath", data / "log"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            self.wait()
            [row] = program_output("scenario", "prepare", "--port", self.port)
        except Exception:
            self.stop()
            raise
        self.version = row["figures"]["version"]
        self.uri = f"mongodb://127.0.0.1:{self.port}/?replicaSet=bench&maxPoolSize=100"

    def wait(self):
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        raise OSError(f"mongod ended with {self.process.returncode}")

    def stop(self):
        self.process.terminate()
        finish(self.process)


class Run:
    """One run of the bench: its servers, measurements and failures."""

    def __init__(self, options, folder):
        self.options, self.folder = options, Path(folder)
        self.seconds, self.warm_up = (0.25, 0.15) if options.quick else (options.seconds, 0.5)
        self.servers, self.failures = {}, []
        self.measured = collections.defaultdict(list)
        self.scenarios, self.instructions = [], []
        self.versions = versions()

    def play(self):
        program_output("server", "--papers", self.papers(), lines=False)
        self.note("checking the fake server")
        program_output("scenario", "check", "--papers", self.papers())
        self.start_servers()
        rows = [row for row in ROWS + MONGOD_ROWS if row.server in self.servers]
        for number in range(self.options.rounds):
            self.note(f"round {number + 1} of {self.options.rounds}")
            for row in rows:
                turn = number % len(row.kinds)
                for kind in row.kinds[turn:] + row.kinds[:turn]:
                    self.measure(row, kind)
        # What measures itself has no rival on the processor.
        self.stop("mongod", "three", "fifty", "tls")
        self.count_instructions()
        self.stop("one")
        self.play_scenarios()

    def start_servers(self):
        papers = self.papers()
        self.servers = {"one": Server(1), "three": Server(3), "fifty": Server(50)}
        tls = ["--tls", papers / "server.pem", papers / "server.key"]
        self.servers["tls"] = Server(1, *tls, authority=papers / "ca.pem")
        program = find_mongod()
        if program is None:
            self.note("no mongod: MONGOLINK_MONGOD is not set, and tests/setup.py has not fetched one")
            return
        try:
            self.servers["mongod"] = Mongod(program, self.folder)
            self.versions["mongod"] = self.servers["mongod"].version
        except Exception as error:
            self.fail("mongod", error)

    def measure(self, row, kind):
        server = self.servers[row.server]
        arguments = ["--seconds", self.seconds, "--warm-up", self.warm_up, *client_arguments(row, kind, server)]
        try:
            [outcome] = program_output("client", *arguments)
        except Exception as error:
            self.fail(f"{row.name()}, {kind}", error)
            outcome = None
        # A gap keeps the rounds of all kinds side by side.
        self.measured[row, kind].append(outcome)

    def count_instructions(self):
        valgrind = shutil.which("valgrind")
        if valgrind is None:
            return self.note("no valgrind: instructions are not counted")
        self.note("counting instructions")
        jobs = [(op, kind) for op in ("ping", "find") for kind in KINDS]

        def count(job):
            few, many = (self.callgrind(valgrind, *job, ops) for ops in (FEW_OPS, MANY_OPS))
            return (many - few) / (MANY_OPS - FEW_OPS)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for job, future in [(job, pool.submit(count, job)) for job in jobs]:
                try:
                    self.instructions.append({"op": job[0], "kind": job[1], "instructions": future.result()})
                except Exception as error:
                    self.fail(f"instructions of {job[0]}, {job[1]}", error)

    def callgrind(self, valgrind, op, kind, ops):
        out = self.folder / f"callgrind-{op}-{kind}-{ops}"
        arguments = ["--workers", 0, "--warm-up", 0, "--ops", ops, *client_arguments(Row("one", op, 1), kind, self.servers["one"])]
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", PROGRAMS / "client", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])

    def play_scenarios(self):
        for job in BUSY_SCENARIOS:
            self.note(f"{job[0]}, {job[1]}")
            self.keep(job, lambda: self.scenario(*job))
        self.note("what mostly waits: " + ", ".join(dict.fromkeys(name for name, _ in WAITING_SCENARIOS)))
        with concurrent.futures.ThreadPoolExecutor(len(WAITING_SCENARIOS)) as pool:
            for job, future in [(job, pool.submit(self.scenario, *job)) for job in WAITING_SCENARIOS]:
                self.keep(job, future.result)

    def scenario(self, name, kind):
        quick = ["--quick"] if self.options.quick else []
        return program_output("scenario", name, "--kind", kind, "--papers", self.papers(), *quick)

    def keep(self, job, outcome):
        try:
            self.scenarios += outcome()
        except Exception as error:
            self.fail(", ".join(job), error)

    def stop(self, *names):
        for name in names or list(self.servers):
            if server := self.servers.pop(name, None):
                server.stop()

    def papers(self):
        return self.folder / "papers"

    def fail(self, what, error):
        # A program's last words; the very last is a hint at backtraces.
        text = (getattr(error, "stderr", None) or str(error)).strip()
        self.failures.append(f"{what}: {' | '.join(text.splitlines()[-3:])}")
        self.note(f"FAILED {self.failures[-1]}")

    def note(self, text):
        print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)

    def rows(self):
        """Summarizes what was measured: a row for each kind of client, its ratios taken round by round."""
        rows = []
        for (row, kind), rounds in self.measured.items():
            good = [outcome for outcome in rounds if outcome]
            if not good:
                continue
            names = [name for name, _, _ in COLUMNS]
            summary = {"row": row.name(), "kind": kind, "op": row.op, "callers": row.callers, "server": row.server, "events": row.events}
            summary["rounds"] = len(good)
            summary["figures"] = {name: spread([outcome[name] for outcome in good]) for name in names}
            if row.op in MEGABYTES:
                summary["figures"]["cpu_us_per_mb"] = spread([outcome["cpu_us"] / MEGABYTES[row.op] for outcome in good])
            rivals = {rival: self.measured.get((row, rival)) for rival in ("raw", "official") if rival != kind}
            if row.events:
                rivals["without events"] = self.measured.get((row.without_events(), kind))
            summary["ratios"] = {
                rival: {name: ratio(rounds, others, name) for name in ("cpu_us", "p50_us", "throughput")}
                for rival, others in rivals.items()
                if others
            }
            rows.append(summary)
        return sorted(rows, key=lambda row: row["server"] == "mongod")

    def result(self):
        return {
            "date": time.strftime("%Y-%m-%d"),
            "quick": self.options.quick,
            "rounds": self.options.rounds,
            "window_s": self.seconds,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "versions": self.versions,
            "rows": self.rows(),
            "instructions": self.instructions,
            "scenarios": self.scenarios,
            "failures": self.failures,
            "took_s": round(time.monotonic() - BEGAN),
        }


def client_arguments(row, kind, server):
    arguments = ["--kind", kind, "--op", row.op, "--callers", row.callers, "--port", server.port, "--uri", server.uri]
    if server.authority:
        arguments += ["--tls", server.authority]
    return arguments + (["--events"] if row.events else [])


def program_output(program, *arguments, lines=True):
    """Runs a program of the bench; returns what it prints, a value for each line."""
    command = [PROGRAMS / program, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()] if lines else []


def finish(process):
    """Waits until a terminated process has ended; kills it if it does not."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_mongod():
    """Returns mongod's path if it is in the cache."""
    if named := os.environ.get("MONGOLINK_MONGOD"):
        return Path(named)
    sys.path.insert(0, str(HERE.parent / "tests"))
    sys.dont_write_bytecode = True
    try:
        import setup
    except ImportError:
        return None
    folder = setup.part("mongod", setup.MONGOD)
    program = folder / "mongod"
    return program if (folder / setup.COMPLETE).exists() and not setup.does_not_run(program) else None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def versions():
    lock = (HERE / "Cargo.lock").read_text()
    found = {name: re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock) for name in ("mongodb", "mongolink", "tokio", "rustls")}
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    return {"rustc": rustc, **{name: match[1] for name, match in found.items() if match}}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(rounds, others, name):
    """Compares two kinds round by round."""
    pairs = [(own[name], other[name]) for own, other in zip(rounds, others) if own and other and other[name]]
    return spread([own / other for own, other in pairs]) if pairs else None


def number(value):
    if value is None:
        return "never"
    if isinstance(value, str):
        return value
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 or float(value).is_integer() else 1 if magnitude >= 10 else 2
    return f"{value:,.{digits}f}"


def cell(figure, divisor=1):
    median, low, high = (number(figure[part] / divisor) for part in ("median", "min", "max"))
    return median if low == high else f"{median} ({low}–{high})"


def table(head, rows):
    """Prints a table in Markdown, its columns lined up."""
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    for line in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |")
    print()


def show(result):
    print(f"\n{result['date']}, {result['machine']}; " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    print(f"{result['rounds']} rounds of {result['window_s']} s; median (min–max)\n")
    head = ["row", "kind", *(title for _, title, _ in COLUMNS), "CPU us/MB", "CPU x raw", "CPU x official", "p50 x raw", "rate x raw"]
    lines = []
    for row in result["rows"]:
        against = {rival: {name: figure and number(figure["median"]) for name, figure in found.items()} for rival, found in row["ratios"].items()}

        def times(rival, name):
            return against.get(rival, {}).get(name) or ""

        per_mb = row["figures"].get("cpu_us_per_mb")
        line = [row["row"], row["kind"], *(cell(row["figures"][name], divisor) for name, _, divisor in COLUMNS)]
        line += [cell(per_mb) if per_mb else "", times("raw", "cpu_us"), times("official", "cpu_us")]
        line += [times("raw", "p50_us"), times("raw", "throughput")]
        if row["events"]:
            line[0] += f" (CPU x {times('without events', 'cpu_us')} of that without)"
        lines.append(line)
    table(head, lines)
    if result["instructions"]:
        raw = {found["op"]: found["instructions"] for found in result["instructions"] if found["kind"] == "raw"}
        lines = [
            [found["op"], found["kind"], number(round(found["instructions"])), number(found["instructions"] / raw[found["op"]]) if found["op"] in raw else ""]
            for found in result["instructions"]
        ]
        table(["warm", "kind", "instructions", "x raw"], lines)
    lines = [
        [found["row"], found["kind"], ", ".join(f"{name} {number(value)}" for name, value in found["figures"].items())]
        for found in sorted(result["scenarios"], key=lambda found: found["row"])
    ]
    table(["scenario", "kind", "figures"], lines)
    for failure in result["failures"]:
        print(f"FAILED {failure}")
    print(f"in {result['took_s']} s", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short windows; at most five minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there, too")
    parser.add_argument("--rounds", type=int, default=None, help="how many rounds, at least 5 (5 if quick, else 9)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a measurement takes, unless quick")
    options = parser.parse_args()
    options.rounds = max(5, options.rounds or (5 if options.quick else 9))
    with tempfile.TemporaryDirectory(prefix="mongolink-benches-") as folder:
        run = Run(options, folder)
        try:
            run.play()
        finally:
            run.stop()
    result = run.result()
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if run.failures else 0


BEGAN = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
