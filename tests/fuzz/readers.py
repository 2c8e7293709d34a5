"""Spoiled files, given to the readers of the bundled model and of the settings.

    python -m tests.fuzz.readers [--count 20000] [--seed 1]

A model's data file with bytes changed, cut or repeated, and a settings file likewise, must be read or end in
the error that callers expect, in bounded memory. Prints figures; ends with 1 at a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from indexer import settings
from indexer.embed.bundled import read
from indexer.embed.e5s1 import FormatError
from indexer.errors import FatalError

_TOML = {
    "max_file_mb": 64,
    "ignore": ["*.bak", "büro/"],
    "speed": "gentle",
    "unload_minutes": 5.0,
    "servers": [{"name": "a", "url": "http://127.0.0.1:1/v1", "key": "k", "batch": 4}],
    "chroma": {"url": "", "token": "t"},
}
_VALUES = (
    "-1",
    "1e999",
    "nan",
    "[" * 3000,
    '"""',
    "{}",
    "0x7fffffffffffffff",
    "1979-05-27",
    "'\\u0000'",
    "=",
    "]]",
)


@dataclass
class Figures:
    """What came of it."""

    thrown: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def spoil(chance: random.Random, data: bytes, most: int) -> bytes:
    """The file with something wrong in its first `most` bytes, or somewhere."""
    spoiled = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = (
            chance.randrange(min(most, len(spoiled)) if chance.random() < 0.8 else len(spoiled))
            if spoiled
            else 0
        )
        match chance.randrange(6):
            case 0:
                spoiled[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"))
            case 1:
                del spoiled[at:]
            case 2:
                del spoiled[at : at + chance.choice((1, 4, 100))]
            case 3:
                spoiled[at:at] = chance.randbytes(chance.choice((1, 4, 64)))
            case 4:
                spoiled[at : at + 1] = bytes([chance.randrange(256)])
            case 5:
                spoiled[at:at] = chance.choice(_VALUES).encode()
    return bytes(spoiled)


def run(count: int, seed: int) -> Figures:
    """Spoil each of the two `count` times."""
    from tests.unit.test_embed_e5s1 import make

    chance = random.Random(seed)
    figures = Figures()
    model, head, _ = make()
    toml = tomli_w.dumps(_TOML).encode()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        data = Path(folder)
        file = data / "model"
        for _ in range(count):
            spoiled = spoil(chance, model, head)
            figures.thrown["model"] += 1
            try:
                read(spoiled, file)
                figures.read["model"] += 1
            except (FormatError, FatalError):
                pass
            except Exception as error:  # noqa: BLE001
                figures.findings.append(f"model: {type(error).__name__}: {error} by {spoiled[:200]!r}")
            spoiled = spoil(chance, toml, len(toml))
            (data / settings.SETTINGS_FILE).write_bytes(spoiled)
            figures.thrown["settings"] += 1
            try:
                found = settings.load(data)
                figures.read["settings"] += 1
                settings.save(data, found)
                if settings.load(data) != found:
                    figures.findings.append(f"settings: not as written: {spoiled!r}")
            except FatalError:
                pass
            except Exception as error:  # noqa: BLE001
                figures.findings.append(f"settings: {type(error).__name__}: {error} by {spoiled[:300]!r}")
            with contextlib.suppress(FileNotFoundError):
                (data / settings.SETTINGS_FILE).unlink()
            if len(figures.findings) > 20:
                break
    return figures


def main() -> int:
    """Spoil files and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.readers", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    figures = run(options.count, options.seed)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    tell = sys.stdout.write
    for name, count in figures.thrown.items():
        tell(f"{name}: {count:,} thrown, {figures.read[name]:,} read\n")
    tell(f"{time.monotonic() - began:.0f} s, at most {memory} MiB, {len(figures.findings)} findings\n")
    for finding in figures.findings:
        tell(f"  {finding[:600]}\n")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
