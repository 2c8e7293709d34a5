"""What a pool and its children say to each other.

msgspec's JSON in frames of four bytes of length (big endian) and the message. A child's first message is
`Setup`, which it answers with `Ready`; then one request is answered at a time. Paths cross as bytes, since
a file's name need not be valid text, and are for errors and kinds only: the file itself comes open, as a
descriptor beside the frame's length.
"""

from __future__ import annotations

import os
import socket
from typing import IO, Literal

import msgspec

from indexer.api import Preview, Rect
from indexer.workers.results import Hashed, Prepared

_MAX_FRAME = 1 << 30


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class Setup(_Message, frozen=True, kw_only=True):
    """What a child has to know before its first file."""

    tokenizer: str
    max_tokens: int
    max_bytes: int
    memory_bytes: int
    deadline_s: float


class Ready(_Message, frozen=True, kw_only=True):
    """It is confined and waits for files."""

    landlock: int
    seccomp: bool


class HashJob(_Message, frozen=True, kw_only=True):
    """For the content key alone."""

    path: bytes


class PrepareJob(_Message, frozen=True, kw_only=True):
    """Read, extract and cut."""

    path: bytes


class PreviewJob(_Message, frozen=True, kw_only=True):
    """What to show; the fields as in `GetPreview`."""

    path: bytes
    start: int
    end: int
    page: int | None
    rects: tuple[Rect, ...]
    width: int


class HashedAnswer(_Message, frozen=True, kw_only=True):
    """To `HashJob`."""

    result: Hashed


class PreparedAnswer(_Message, frozen=True, kw_only=True):
    """`pieces`: so many frames of chunks follow, and `result` has none."""

    result: Prepared
    chunks: int = 0
    pieces: int = 0


class PreviewedAnswer(_Message, frozen=True, kw_only=True):
    """To `PreviewJob`."""

    result: Preview


class Failed(_Message, frozen=True, kw_only=True):
    """To any job."""

    title: str
    message: str
    kind: Literal["failed", "skipped"]
    cause: Literal["file", "changed", "gone", "memory", "fatal"] = "file"


Job = HashJob | PrepareJob | PreviewJob
Answer = Ready | HashedAnswer | PreparedAnswer | PreviewedAnswer | Failed

encode = msgspec.json.Encoder().encode
setup_decoder = msgspec.json.Decoder(Setup)
job_decoder: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def send(stream: IO[bytes], message: Setup | Job | Answer) -> None:
    """A message as one frame."""
    write(stream, encode(message))


def write(stream: IO[bytes], body: bytes) -> None:
    """One frame."""
    stream.write(len(body).to_bytes(4, "big"))
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """One frame, None when the other side has gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    length = int.from_bytes(head, "big")
    if length > _MAX_FRAME:
        return None
    body = stream.read(length)
    return body if len(body) == length else None


def request(door: socket.socket, body: bytes, descriptor: int | None = None) -> None:
    """One frame to a child, with an open file (which stays open here)."""
    head = len(body).to_bytes(4, "big")
    sent = 0
    if descriptor is not None:
        sent = socket.send_fds(door, [head], [descriptor])
    door.sendall(head[sent:] + body)


def requested(door: socket.socket) -> tuple[bytes, int | None] | None:
    """One frame in a child and the file that came with it, None when the parent has gone."""
    head, descriptors, _, _ = socket.recv_fds(door, 4, 1)
    descriptor = descriptors[0] if descriptors else None
    if descriptor is not None:
        os.set_inheritable(descriptor, False)
    rest = _exactly(door, 4 - len(head)) if head else None
    if rest is None:
        return None
    length = int.from_bytes(head + rest, "big")
    body = _exactly(door, length) if length <= _MAX_FRAME else None
    return None if body is None else (body, descriptor)


def _exactly(door: socket.socket, length: int) -> bytes | None:
    found = bytearray()
    while len(found) < length:
        block = door.recv(length - len(found))
        if not block:
            return None
        found += block
    return bytes(found)
