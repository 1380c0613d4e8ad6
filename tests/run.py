"""Runs all tests kind by kind, counts what cargo says of each, and ends with a summary.

Everything is built once, with one set of features. A test whose server is not there prints a line with `SKIPPED:` and
counts as skipped; with CI=true, nothing that needs a server may be skipped.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import setup

FEATURES = "cli,encrypted-keys,internals"

# No kind may take longer, in seconds: what hangs is ended, and has failed.
LIMIT = 600

# How many seeds of the simulation are run, unless the environment says so: they take about a minute on two cores.
SIM_SEEDS = "20000"

RESULT = re.compile(r"test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored;")
SPEC_RESULT = re.compile(r"^spec: (\d+) passed, (\d+) failed, (\d+) skipped")
SKIPPED = re.compile(r"\bSKIPPED: (.*)")
FAILED = re.compile(r"^test (.+) \.\.\. FAILED$|^FAILED (.*)")


class Kind:
    """Is a kind of tests: its name, what cargo runs for it, what its program is told, and how its environment is set."""

    def __init__(self, name, target, program=(), needs=None, settings=None):
        self.name, self.target, self.program, self.needs = name, target, program, needs
        self.settings = settings or {}
        self.passed = self.failed = self.skipped = 0
        self.notes = []

    def executed(self):
        return self.passed + self.failed

    def fail(self, note):
        self.failed += 1
        self.notes.append(note)


def kinds(targets):
    """Lists all kinds: the known ones, and each further test target by its own name."""
    known = [
        Kind("unit", ["--lib", "--bins"]),
        Kind("doc", ["--doc"]),
        Kind("spec", ["--test", "spec"]),
        Kind("sim", ["--test", "sim"], settings={"MONGOLINK_SIM_SEEDS": SIM_SEEDS}),
        Kind("loopback", ["--test", "loopback"], ["--skip", "pymongo"]),
        Kind("cli", ["--test", "cli"]),
        Kind("pymongo", ["--test", "loopback"], ["pymongo", "--nocapture"], "MONGOLINK_PYTHON"),
        Kind("live-mongod", ["--test", "live"], ["--skip", "secantus::", "--nocapture"], "MONGOLINK_MONGOD"),
        Kind("live-chaos", ["--test", "chaos"], ["--nocapture"], "MONGOLINK_MONGOD"),
        Kind("live-secantus", ["--test", "live"], ["secantus::", "--nocapture"], "MONGOLINK_SECANTUS"),
    ]
    names = {kind.target[1] for kind in known if kind.target[0] == "--test"}
    return known + [Kind(name, ["--test", name]) for name in sorted(set(targets) - names)]


def main():
    began = time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)
    found, missing = setup.servers()
    for variable, path in found.items():
        print(f"{variable}={path}")
    for variable, reason in missing.items():
        shout(f"{variable} is not set, its tests can't run: {reason}")
    environment = {name: value for name, value in os.environ.items() if name not in missing}
    environment.update((variable, str(path)) for variable, path in found.items())

    if subprocess.run(["cargo", "test", "--features", FEATURES, "--no-run"]).returncode != 0:
        shout("the tests can't be built")
        print("0 passed, 1 failed, 0 skipped")
        return 1
    targets = test_targets()
    all_kinds = kinds(targets)
    for kind in all_kinds:
        if kind.target[0] == "--test" and kind.target[1] not in targets:
            kind.fail(f"there is no test target {kind.target[1]!r}")
            continue
        execute(kind, environment)
        judge(kind, environment)
    return summary(all_kinds, time.monotonic() - began)


def test_targets():
    """Asks cargo which integration tests there are."""
    asked = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], capture_output=True, text=True, check=True)
    [package] = json.loads(asked.stdout)["packages"]
    return [target["name"] for target in package["targets"] if "test" in target["kind"]]


def execute(kind, environment):
    """Runs a kind, shows what it prints, and counts."""
    print(f"\n=== {kind.name}", flush=True)
    command = ["cargo", "test", "--features", FEATURES, "--no-fail-fast", *kind.target, "--", *kind.program]
    process = subprocess.Popen(
        command, env={**kind.settings, **environment}, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    # The tests' servers are in the same group, and end with it.
    timer = threading.Timer(LIMIT, end_group, [kind, process])
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            count(kind, line.rstrip("\n"))
        process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    # A skipped test has ended well as far as cargo knows.
    kind.passed -= min(kind.passed, skipped_lines(kind))
    if process.returncode != 0 and kind.failed == 0:
        kind.fail(f"cargo ended with {process.returncode}")


def end_group(kind, process):
    kind.fail(f"ended after {LIMIT} s")
    os.killpg(process.pid, signal.SIGKILL)


def count(kind, line):
    """Reads one line of what cargo prints."""
    if result := RESULT.search(line) or SPEC_RESULT.search(line):
        passed, failed, skipped = map(int, result.groups())
        kind.passed += passed
        kind.failed += failed
        kind.skipped += skipped
    elif reason := SKIPPED.search(line):
        kind.skipped += 1
        kind.notes.append(f"SKIPPED: {reason[1]}")
    elif name := FAILED.search(line):
        kind.notes.append(f"FAILED: {name[1] or name[2]}")


def skipped_lines(kind):
    return sum(note.startswith("SKIPPED: ") for note in kind.notes)


def judge(kind, environment):
    """Fails a kind that has run nothing, or less than CI asks for."""
    if kind.executed() + kind.skipped == 0:
        if kind.name == "spec":
            kind.skipped = 1
            kind.notes.append("SKIPPED: there is no specification data")
        else:
            kind.fail("there is no such test")
    if kind.needs and kind.skipped and environment.get("CI") == "true":
        kind.failed += kind.skipped
        kind.skipped = 0
        kind.notes.append(f"with CI=true nothing of this may be skipped, {kind.needs} is needed")


def summary(all_kinds, seconds):
    """Prints the counts; returns the exit code."""
    print(f"\n{'kind':<16} {'executed':>8} {'passed':>8} {'failed':>8} {'skipped':>8}")
    for kind in all_kinds:
        print(f"{kind.name:<16} {kind.executed():>8} {kind.passed:>8} {kind.failed:>8} {kind.skipped:>8}")
    for kind in all_kinds:
        for note in dict.fromkeys(kind.notes):
            times = kind.notes.count(note)
            print(f"{kind.name}: {note}" + (f" ({times} times)" if times > 1 else ""))
    print(f"in {seconds:.0f} s")
    passed, failed, skipped = (sum(getattr(kind, count) for kind in all_kinds) for count in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


def shout(text):
    print(f"{'=' * 80}\n{text}\n{'=' * 80}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
