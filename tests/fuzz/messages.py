"""Broken messages, thrown at everything that decodes one.

    python -m tests.fuzz.messages [--count 1000000] [--seed 1] [--socket-share 50]

Makes messages of every kind from their types, spoils most of them, and hands them to the decoders of both
sides, of Chroma's wire and of the extraction children; one in so many also goes through the socket of a
running server (with a stand-in for the library). What is no message must end in an error that callers expect,
what is one must come out of the encoder as it went in, and the server must serve others all the while. Prints
figures; ends with 1 at a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as shape

from indexer import api
from indexer.client import _read_endpoint
from indexer.errors import IndexerError
from indexer.service import Server
from indexer.store import wire
from indexer.workers import messages, results

_WORDS = (
    "",
    "a",
    "query",
    "ext:pdf",
    "\0",
    "\x7f",
    "é",
    "猫",
    "👩‍👩‍👧",
    "\uf7ff",
    "\u202e",
    "/etc/passwd",
    "../" * 9,
    "x" * 300,
)
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.5, 1e308, -1e308, 5e-324, 1e-9, 123456.789)


class Maker:
    """Values of a type, as random as the type lets them be."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def make(self, kind: shape.Type, depth: int = 0) -> Any:
        """A value that msgspec decodes as `kind`."""
        chance = self._chance
        match kind:
            case shape.StructType(fields=fields, tag=tag, tag_field=tag_field, array_like=array_like):
                values = {
                    f.encode_name: self.make(f.type, depth + 1)
                    for f in fields
                    if f.required or array_like or chance.random() < 0.5
                }
                if array_like:
                    return [*([tag] if tag is not None else []), *values.values()]
                return ({tag_field: tag} if tag_field else {}) | values
            case shape.UnionType(types=types):
                return self.make(chance.choice(types), depth)
            case shape.Metadata(type=inner):
                return self.make(inner, depth)
            case shape.StrType():
                return chance.choice(_WORDS)
            case shape.BytesType():
                return chance.randbytes(chance.choice((0, 1, 7, 64)))
            case shape.IntType(ge=ge, le=le):
                number = chance.choice(_NUMBERS)
                return max(ge if ge is not None else number, min(le if le is not None else number, number))
            case shape.FloatType(ge=ge, le=le):
                value = chance.choice(_FLOATS)
                return max(ge if ge is not None else value, min(le if le is not None else value, value))
            case shape.BoolType():
                return chance.random() < 0.5
            case shape.NoneType():
                return None
            case shape.LiteralType(values=values):
                return chance.choice(list(values))
            case shape.VarTupleType(item_type=item) | shape.ListType(item_type=item):
                return [
                    self.make(item, depth + 1) for _ in range(chance.choice((0, 1, 2)) if depth < 5 else 0)
                ]
            case shape.TupleType(item_types=items):
                return [self.make(item, depth + 1) for item in items]
            case shape.DictType(key_type=key, value_type=value):
                return {self.make(key, depth + 1): self.make(value, depth + 1)}
        raise TypeError(f"{kind} is not known here")


def spoil(chance: random.Random, line: bytes, other: bytes) -> bytes:
    """A message with something wrong with it."""
    data = bytearray(line)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(10):
            case 0:
                del data[at:]
            case 1:
                del data[at : at + chance.choice((1, 2, 4, 30))]
            case 2:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 4)))
            case 3 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 4:
                data[at:at] = bytes(data[at : at + 40]) * chance.choice((1, 2, 20))
            case 5:
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case 6:
                deep = chance.choice((3, 900, 5_000))
                data[at:at] = chance.choice((b"[", b'{"a":', b"\x91", b"\x81\xa1a")) * deep
            case 7:
                number = chance.choice((b"1e999", b"-0", b"1" * 400, b"0.1e-400", b"NaN", b"true", b"null"))
                data[at:at] = number
            case 8:
                data[at:at] = chance.choice(
                    (b'"', b"\\", b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"}")
                )
            case 9:
                data[at : at + 4] = chance.choice(
                    (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff")
                )
    return bytes(data[: 1 << 18])


@dataclass
class Target:
    """Something that decodes.

    Attributes:
        decode: Raises a ValueError for what is no message.
        encode: Back again; None where that is not of interest.
    """

    name: str
    kind: shape.Type
    pack: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes] | None = None
    expected: tuple[type[Exception], ...] = (ValueError,)


# Who hears these expects what is nested too deeply, too.
_BETWEEN_PROCESSES = (ValueError, RecursionError)


def targets() -> list[Target]:
    """Every decoder that hears another process."""
    json = msgspec.json.Encoder().encode
    pack = msgspec.msgpack.Encoder().encode
    requests = msgspec.msgpack.Decoder(wire.Request)
    answers: msgspec.msgpack.Decoder[wire.Answer] = msgspec.msgpack.Decoder(wire.Answer)
    kinds = shape.type_info
    return [
        Target("request", kinds(api.Request), json, api.decode_request, api.encode),
        Target("reply", kinds(api.Reply), json, api.decode_reply, api.encode),
        Target("request's id", kinds(api.Request), json, api.request_id),
        Target(
            "Chroma's request", kinds(wire.Request), pack, _framed(requests.decode), None, _BETWEEN_PROCESSES
        ),
        Target(
            "Chroma's answer", kinds(wire.Answer), pack, _framed(answers.decode), None, _BETWEEN_PROCESSES
        ),
        Target(
            "child's setup",
            kinds(messages.Setup),
            json,
            messages.setup_decoder.decode,
            None,
            _BETWEEN_PROCESSES,
        ),
        Target(
            "child's job",
            kinds(messages.job_decoder.type),
            json,
            messages.job_decoder.decode,
            None,
            _BETWEEN_PROCESSES,
        ),
        Target(
            "child's answer",
            kinds(messages.answer_decoder.type),
            json,
            messages.answer_decoder.decode,
            None,
            _BETWEEN_PROCESSES,
        ),
        Target(
            "child's chunks",
            kinds(results.Piece),
            json,
            results.piece_decoder.decode,
            None,
            _BETWEEN_PROCESSES,
        ),
    ]


def _framed(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Through the frames of the wire, whose length may be a lie as well."""

    def read(data: bytes) -> Any:
        frame = wire.read_frame(io.BytesIO(wire.LENGTH.pack(len(data)) + data))
        assert frame == data
        short = wire.read_frame(io.BytesIO(wire.LENGTH.pack(len(data) + 1) + data))
        assert short is None
        with contextlib.suppress(ValueError):
            wire.read_frame(io.BytesIO(data))
        return decode(data)

    return read


@dataclass
class Figures:
    """What came of it."""

    thrown: Counter[str] = field(default_factory=Counter)
    understood: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    by_socket: int = 0
    connections: int = 0

    def find(self, target: str, data: bytes, error: object) -> None:
        """Keep a finding, the first few of them."""
        if len(self.findings) < 20:
            self.findings.append(f"{target}: {type(error).__name__}: {str(error)[:200]} by {data[:400]!r}")


def throw(target: Target, data: bytes, figures: Figures) -> None:
    """One message at one decoder."""
    figures.thrown[target.name] += 1
    try:
        message = target.decode(data)
    except target.expected:
        return
    except BaseException as error:
        figures.find(target.name, data, error)
        if isinstance(error, KeyboardInterrupt):
            raise
        return
    figures.understood[target.name] += 1
    if target.encode is None:
        return
    try:
        again = target.decode(target.encode(message))
        if again != message:
            figures.find(target.name, data, "comes out as another")
    except Exception as error:  # noqa: BLE001
        figures.find(target.name, data, error)


# --- through the socket ---------------------------------------------------------------------------------


class _Served:
    """A server in the same process, and one client that speaks nonsense to it."""

    def __init__(self, server: Server, folder: Path, figures: Figures) -> None:
        self._server, self._folder, self._figures = server, folder, figures
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._sent = 0

    async def _connect(self, *, greet: bool) -> None:
        endpoint = _read_endpoint(self._folder)
        assert endpoint is not None
        self._reader, self._writer = await asyncio.open_unix_connection(endpoint.address, limit=1 << 24)
        self._figures.connections += 1
        if greet:
            self._writer.write(api.encode(api.Hello(key=endpoint.key, version=api.PROTOCOL_VERSION)))
            assert isinstance(api.decode_reply(await self._reader.readline()), api.Welcome)

    async def send(self, data: bytes, *, greet: bool) -> None:
        """Send something as one line, and see that the server is well afterwards."""
        if not greet:  # in the place of the greeting
            await self.hang_up()
        if self._writer is None:
            await self._connect(greet=greet)
        assert self._writer is not None
        assert self._reader is not None
        self._figures.by_socket += 1
        with contextlib.suppress(ConnectionError):
            self._writer.write(data.replace(b"\n", b" ") + b"\n")
            # Its answer comes after ours, so that it is known to be done with.
            self._writer.write(api.encode(api.GetStatus(id=987_654_321)))
            await self._writer.drain()
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), 30)
            except ConnectionError:
                line = b""
            except TimeoutError:
                self._figures.find("the server", data, "does not answer")
                line = b""
            if not line:
                self._writer.close()
                self._writer = None
                return
            reply = api.decode_reply(line)
            if isinstance(reply, api.Status) and reply.id == 987_654_321:
                return

    async def hang_up(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _stops(data: bytes) -> bool:
    # The other one would put a real library in the place of the stand-in.
    with contextlib.suppress(ValueError):
        return isinstance(api.decode_request(data.replace(b"\n", b" ")), api.Stop | api.SetLock)
    return False


class _Faults(logging.Handler):
    """Faults that the server logs are findings."""

    def __init__(self, figures: Figures) -> None:
        super().__init__(logging.ERROR)
        self._figures = figures

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, IndexerError):
            return  # told to the person as well
        where = traceback.format_tb(error.__traceback__)[-3:] if error is not None else []
        self._figures.find("the server's log", "".join(where).encode(), error or record.getMessage())


async def run(count: int, seed: int, socket_share: int, *, tell: Callable[[str], object]) -> Figures:
    """Throw `count` messages, one in `socket_share` of them also through a socket (0 for none)."""
    # The library behind it says what it is told to; what is to be seen is in front of it.
    from tests.unit.test_service import FakeLibrary

    class Library(FakeLibrary):
        def __getattr__(self, name: str) -> Any:
            raise IndexerError("There is no such thing here", name)

    figures = Figures()
    chance = random.Random(seed)
    maker = Maker(chance)
    aims = targets()
    logger = logging.getLogger()
    faults = _Faults(figures)
    logger.addHandler(faults)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        library = Library(Path(folder))
        server = Server(library, idle_seconds=1e9)  # type: ignore[arg-type]
        listening = asyncio.Event()
        life = asyncio.create_task(server.run(listening.set))
        await listening.wait()
        served = _Served(server, Path(folder), figures)
        other = b"{}"
        began = time.monotonic()
        try:
            for number in range(count):
                target = chance.choice(aims)
                line = target.pack(maker.make(target.kind))
                data = line if chance.random() < 0.1 else spoil(chance, line, other)
                other = line
                throw(target, data, figures)
                through = socket_share and number % socket_share == 0
                if through and target.name == "request" and not _stops(data):
                    await served.send(data, greet=chance.random() < 0.9)
                if number % 50_000 == 49_999:
                    tell(f"{number + 1:,} in {time.monotonic() - began:.0f} s\n")
        finally:
            await served.hang_up()
            server.stop()
            await asyncio.wait_for(life, 30)
            logger.removeHandler(faults)
    return figures


def main() -> int:
    """Throw messages and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.messages", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--socket-share", type=int, default=5, help="one in so many goes through the socket")
    options = parser.parse_args()
    began = time.monotonic()
    tell = sys.stdout.write
    figures = asyncio.run(run(options.count, options.seed, options.socket_share, tell=sys.stderr.write))
    for name, count in sorted(figures.thrown.items()):
        tell(f"{name:18} {count:9,} thrown, {figures.understood[name]:8,} understood\n")
    took = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    tell(f"through the socket {figures.by_socket:,}, in {figures.connections:,} connections\n")
    tell(f"{sum(figures.thrown.values()):,} messages in {took:.0f} s, at most {memory} MiB, ")
    tell(f"{len(figures.findings)} findings\n")
    for finding in figures.findings:
        tell(f"  {finding}\n")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
