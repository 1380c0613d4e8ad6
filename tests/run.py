"""Runs all tests kind by kind, counts cargo's results of each, and ends with a summary.

Everything is built once, with one set of features. Kinds that only compute run at the lowest priority in the background,
beside those that mostly wait. A test whose server is missing prints a line with `SKIPPED:` and counts as skipped; with
CI=true, nothing that needs a server may be skipped.
"""

import io
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

# The time limit of a kind in seconds: a kind that hangs is killed and has failed.
LIMIT = 600

# The same for a kind in the background, which only gets the time that the others leave.
BACKGROUND_LIMIT = 1200

# The number of simulation seeds, unless the environment sets it: about a minute on two idle cores.
SIM_SEEDS = "20000"

RESULT = re.compile(r"test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored;")
SPEC_RESULT = re.compile(r"^spec: (\d+) passed, (\d+) failed, (\d+) skipped")
SKIPPED = re.compile(r"\bSKIPPED: (.*)")
FAILED = re.compile(r"^test (.+) \.\.\. FAILED$|^FAILED (.*)")


class Kind:
    """A kind of tests: its name, cargo's arguments, its program's arguments, and its environment."""

    def __init__(self, name, target, program=(), needs=None, settings=None, background=False):
        self.name, self.target, self.program, self.needs = name, target, program, needs
        self.settings, self.background = settings or {}, background
        self.process = None
        self.passed = self.failed = self.skipped = 0
        self.notes = []

    def executed(self):
        return self.passed + self.failed

    def fail(self, note):
        self.failed += 1
        self.notes.append(note)


def kinds(targets):
    """Returns all kinds: those listed here, and each further test target under its own name."""
    known = [
        Kind("unit", ["--lib", "--bins"]),
        Kind("doc", ["--doc"]),
        Kind("spec", ["--test", "spec"]),
        Kind("sim", ["--test", "sim"], settings={"MONGOLINK_SIM_SEEDS": SIM_SEEDS}, background=True),
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
        shout(f"{variable} is not set, so its tests can't run: {reason}")
    environment = {name: value for name, value in os.environ.items() if name not in missing}
    environment.update((variable, str(path)) for variable, path in found.items())

    # Without the examples, which clippy checks.
    if subprocess.run(["cargo", "test", "--features", FEATURES, "--no-run", "--lib", "--bins", "--tests"]).returncode != 0:
        shout("the tests can't be built")
        print("0 passed, 1 failed, 0 skipped")
        return 1
    targets = test_targets()
    all_kinds = kinds(targets)
    runnable = []
    for kind in all_kinds:
        if kind.target[0] == "--test" and kind.target[1] not in targets:
            kind.fail(f"there is no test target {kind.target[1]!r}")
        else:
            runnable.append(kind)
    background = [Background(kind, environment) for kind in runnable if kind.background]
    try:
        for kind in runnable:
            if not kind.background:
                execute(kind, environment, sys.stdout)
                judge(kind, environment)
        for task in background:
            task.finish()
    except KeyboardInterrupt:
        for task in background:
            task.kill()
        raise
    return summary(all_kinds, time.monotonic() - began)


class Background:
    """A kind that runs beside others; its output is kept and shown at its end."""

    def __init__(self, kind, environment):
        self.kind, self.environment, self.output = kind, environment, io.StringIO()
        self.thread = threading.Thread(target=execute, args=(kind, environment, self.output), daemon=True)
        self.thread.start()

    def finish(self):
        self.thread.join()
        print(self.output.getvalue(), end="", flush=True)
        judge(self.kind, self.environment)

    def kill(self):
        if self.thread.is_alive() and self.kind.process:
            os.killpg(self.kind.process.pid, signal.SIGKILL)


def test_targets():
    """Returns the names of the integration tests."""
    asked = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], capture_output=True, text=True, check=True)
    [package] = json.loads(asked.stdout)["packages"]
    return [target["name"] for target in package["targets"] if "test" in target["kind"]]


def execute(kind, environment, output):
    """Runs a kind, passes on what it prints, and counts."""
    print(f"\n=== {kind.name}", file=output, flush=True)
    niceness = ["nice", "-n", "19"] if kind.background else []
    command = [*niceness, "cargo", "test", "--features", FEATURES, "--no-fail-fast", *kind.target, "--", *kind.program]
    process = kind.process = subprocess.Popen(
        command, env={**kind.settings, **environment}, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    # The servers of the tests are in the same process group and end with it.
    limit = BACKGROUND_LIMIT if kind.background else LIMIT
    timer = threading.Timer(limit, end_group, [kind, process, limit])
    timer.daemon = True
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", file=output, flush=True)
            count(kind, line.rstrip("\n"))
        process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    # Cargo counts a skipped test as passed.
    kind.passed -= min(kind.passed, skipped_lines(kind))
    if process.returncode != 0 and kind.failed == 0:
        kind.fail(f"cargo ended with {process.returncode}")


def end_group(kind, process, limit):
    kind.fail(f"ended after {limit} s")
    os.killpg(process.pid, signal.SIGKILL)


def count(kind, line):
    """Counts the results in one line of output."""
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
    """Fails a kind that has run nothing, or less than CI requires."""
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
