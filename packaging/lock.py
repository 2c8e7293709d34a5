"""Write constraints.txt: the newest versions that fit together of all that dragoman and its tests need.

Run by `make lock` after a change of the dependencies in pyproject.toml. pip resolves, nothing is
installed. The file is meant for every system and for Python 3.11 and later, so what only one kind of
machine needs (a GPU's libraries) and what names one build (`+cpu`) stays out of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Versions that are chosen, not found. torch: its newest release need not have a CPU build everywhere yet.
# PySide6: in 6.12.0 each method that returns None drops a reference of it, until Python 3.11 dies of that.
CHOSEN = {"torch": "2.13.0", "PySide6-Essentials": "6.11.3"}
# What pip asks for on other systems and newer Pythons only, found by no resolution on Linux with Python 3.11.
ELSEWHERE = ("colorama", "pyreadline3", "setuptools")
# The libraries of one maker's GPU follow torch's own exact pins.
LEFT_OUT = re.compile(r"nvidia-|cuda-|triton$")
HEADER = """\
# The versions that dragoman is developed and tested with. Written by `make lock` from pyproject.toml.
# Libraries that only some machines need (a GPU's) are not named here.
"""


def requirements() -> list[str]:
    """Every requirement of pyproject.toml, those of all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in extras.values() for line in extra)]


def resolve(wanted: list[str]) -> dict[str, str]:
    """Names, normalised, and versions of what pip would install for `wanted` into an empty environment."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        chosen = Path(scratch) / "chosen.txt"
        chosen.write_text(
            "".join(f"{name}=={version}\n" for name, version in CHOSEN.items()), encoding="utf-8"
        )
        dry_run = ("--dry-run", "--ignore-installed", "-qq", "--report", str(report), "-c", str(chosen))
        subprocess.run([sys.executable, "-m", "pip", "install", *dry_run, *wanted], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"].partition("+")[
            0
        ]
        for item in found
    }


def main() -> None:
    """Resolve and write."""
    versions = resolve([*requirements(), *ELSEWHERE])
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions) if not LEFT_OUT.match(name)]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    sys.stdout.write(f"constraints.txt: {len(lines)} versions\n")


if __name__ == "__main__":
    main()
