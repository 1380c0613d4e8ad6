"""Checks the dependencies: how many crates a dependant gets, and their licences, bans and sources.

The count is that of a fresh package without a lock file that depends on the library by path: distinct pairs of name and version of all
normal dependencies on this platform. `--minimal` counts with the smallest Unicode backend (docs/dependencies.md).
"""

import shutil
import subprocess
import sys
from pathlib import Path

import setup

ROOT = Path(__file__).resolve().parent.parent

# The most crates that the default build may have, the library included.
CRATES_MAX = 130

MANIFEST = """[package]
name = "dependant"
version = "0.0.0"
edition = "2024"
publish = false

[dependencies]
mongolink = {{ path = {root!r} }}
{more}
[workspace]
"""

# The backend without Unicode tables of ICU4X.
MINIMAL = 'idna_adapter = "~1.1"\n'


def crates(folder):
    """Returns the crates that a package in a folder is built of, without itself."""
    command = ["cargo", "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}"]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = {tuple(line.split()[:2]) for line in lines if line.strip()}
    return {pair for pair in pairs if pair[0] != "dependant"}


def of_dependant(more=""):
    """Returns the crates of a fresh package that depends on the library."""
    folder = ROOT / "target" / "dependant"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "lib.rs").touch()
    (folder / "Cargo.toml").write_text(MANIFEST.format(root=str(ROOT), more=more))
    return crates(folder)


def main():
    if "--minimal" in sys.argv:
        print(f"with {MINIMAL.strip()}, a dependant gets {len(of_dependant(MINIMAL))} crates")
        return 0
    fresh, locked = of_dependant(), crates(ROOT)
    print(f"a dependant gets {len(fresh)} crates, at most {CRATES_MAX} are allowed; with the lock file there are {len(locked)}")
    if len(fresh) > CRATES_MAX:
        print("only a dependant gets:", *sorted(" ".join(pair) for pair in fresh - locked), sep="\n  ")
        return 1
    try:
        program = str(setup.cargo_deny())
    except (setup.Unavailable, OSError) as reason:
        program = shutil.which("cargo-deny")
        if program is None:
            print(f"licences, bans and sources are not checked: {reason}")
            return 1
    command = [program, "--all-features", "check", "licenses", "bans", "sources"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
