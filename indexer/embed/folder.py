"""A model's folder in the cache: written in one step, known to be whole before it is used.

A folder holds the files of a model and ``manifest.json``, which says what the model is and gives
size and BLAKE2b of every file. Reading half a gigabyte at every start to check it would cost more
than loading the model does, so a folder that passed is stamped (``checked.json``) with size, inode
and times of its files: what writes to a file changes them, and then the checksums are computed
anew. What changes bytes beneath the file system is left to the disk's own error correction.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from indexer.embed import EncoderInfo
from indexer.errors import FatalError
from indexer.settings import private_folder

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
_STAMP = "checked.json"
_ABANDONED_S = 3600.0
_ATTEMPTS = 5
_Stat = tuple[int, int, int, int]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to the pooled vector, in the order of `Model.layers`.

    Attributes:
        kind: ``dense`` (a linear map and an activation), ``layernorm`` or ``normalize`` (to unit length).
        path: Folder of its weights inside the model's folder; they are in ``model.safetensors``.
        activation: Name of a class of torch.nn, such as ``Tanh``.
        residual: Whether its input is added to its output.
    """

    kind: Literal["dense", "layernorm", "normalize"]
    path: str = ""
    activation: str = "Identity"
    residual: bool = False


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is and how it wants its texts.

    Attributes:
        key: Names the vector space and the folder; see `EncoderInfo.key`.
        dim: Length of its vectors: of what the last layer gives, so much is used.
        max_length: Longest input in tokens, prefix and special tokens included.
        max_passage: Longest passage in tokens, without them.
        query_prefix: Put in front of every query, where there is no `instruction`.
        pooling: How token vectors become one vector, in sentence-transformers' words; several joined by ``+``
            are concatenated.
        include_prompt: Whether the tokens of the prefix are pooled, too.
        layers: What follows the pooling.
        instruction: Put in front of a query, with ``{}`` where the task is described; empty for none.
        tasks: The model's own words for a task, by `indexer.api.Task`.
        transformer: Folder of the transformer inside the model's folder; empty for itself.
        lowercase: Whether texts are turned to lower case.
        append: A special token at the end, put there where the tokenizer does not do that itself.
        choices: Shorter lengths of vectors that it was trained for, the longest first.
        full_dim: Length of the vectors that the model itself gives; 0 for `dim`.
    """

    key: str
    name: str
    dim: int
    max_length: int
    max_passage: int
    query_prefix: str
    passage_prefix: str
    pooling: str = "mean"
    include_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    instruction: str = ""
    tasks: dict[str, str] = {}
    transformer: str = ""
    lowercase: bool = False
    append: str = ""
    choices: tuple[int, ...] = ()
    full_dim: int = 0


class _File(msgspec.Struct, frozen=True, kw_only=True):
    size: int
    blake2b: str


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    model: Model
    files: dict[str, _File]


class ModelFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that was found whole."""

    path: Path
    model: Model

    @property
    def transformer(self) -> Path:
        """The folder of the transformer's configuration and weights."""
        return self.path / self.model.transformer

    @property
    def tokenizer(self) -> Path:
        """The model's own ``tokenizer.json``."""
        return self.transformer / TOKENIZER

    @property
    def info(self) -> EncoderInfo:
        """What the rest of the program must know of the model."""
        model = self.model
        return EncoderInfo(
            key=model.key,
            name=model.name,
            dim=model.dim,
            max_tokens=model.max_passage,
            tokenizer=self.tokenizer,
        )


def open_folder(path: Path) -> ModelFolder | None:
    """The model in a folder, or None where a file is missing or damaged.

    Reads a few kilobytes when the folder was checked before and nothing has been written to it
    since, and every byte otherwise.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(raw, type=_Manifest)
        seen = {name: _stat(path / name) for name in (MANIFEST, *manifest.files)}
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    if any(seen[name][0] != file.size for name, file in manifest.files.items()):
        return None
    if _read_stamp(path) != seen:
        try:
            if any(_blake2b(path / name) != file.blake2b for name, file in manifest.files.items()):
                return None
        except OSError:
            return None
        _write_stamp(path, seen)
    return ModelFolder(path=path, model=manifest.model)


def publish(path: Path, model: Model, write: Callable[[Path], None]) -> ModelFolder:
    """Make a model's folder in one step, replacing a damaged one.

    Several processes may do this at once: each writes a folder of its own beside, the first to
    finish wins and the others take what is there.

    Args:
        path: Where the folder will be.
        model: What goes into the manifest.
        write: Writes the files into the empty folder it is given.

    Returns:
        The whole folder.

    Raises:
        FatalError: The folder cannot be written, or is damaged again as soon as it is written.
    """
    try:
        private_folder(path.parent)
        _remove_abandoned(path)
        new = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new"
        new.mkdir(mode=0o700)
        try:
            write(new)
            files = {
                file.name: _File(size=file.stat().st_size, blake2b=_blake2b(file))
                for file in sorted(new.iterdir())
            }
            manifest = _Manifest(model=model, files=files)
            (new / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            for file in new.iterdir():
                _flush(file)
            _flush_folder(new)
            return _put_in_place(new, path)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise FatalError(
            "The model cannot be prepared",
            f"{path.parent} cannot be written: {error.strerror or error}. About 500 MB must be free there.",
        ) from error


def _put_in_place(new: Path, path: Path) -> ModelFolder:
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError):  # another process was first, or a damaged folder is there
            new.rename(path)
            _flush_folder(path.parent)
        folder = open_folder(path)
        if folder is not None:
            return folder
        damaged = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new"
        with contextlib.suppress(FileNotFoundError):
            path.rename(damaged)
            _log.warning("%s was damaged and is made anew", path)
        shutil.rmtree(damaged, ignore_errors=True)
    raise FatalError(
        "The model cannot be prepared",
        f"{path} is damaged each time it is written. Check the disk, "
        "or set the environment variable DRAGOMAN_CACHE to a folder elsewhere.",
    )


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed process left beside `path`."""
    for old in path.parent.glob(f".{path.name}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)


def _stat(file: Path) -> _Stat:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _read_stamp(path: Path) -> dict[str, _Stat] | None:
    try:
        return msgspec.json.decode((path / _STAMP).read_bytes(), type=dict[str, _Stat])
    except (OSError, msgspec.DecodeError):
        return None


def _write_stamp(path: Path, seen: dict[str, _Stat]) -> None:
    new = path / f"{_STAMP}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        new.write_bytes(msgspec.json.encode(seen))
        new.replace(path / _STAMP)
    except OSError as error:
        # A cache that cannot be written to still serves; it is only checked at every start.
        _log.info("%s cannot be marked as checked: %s", path, error)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            yield piece


def _blake2b(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for piece in _pieces(file):
        digest.update(piece)
    return digest.hexdigest()


def _flush(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
