"""Models from the Hugging Face Hub: download, what is installed, removal; and files of the person's own.

The download itself runs in a child process (`hub_child`), so that it ends at once when it is cancelled,
and so that the service, which forbids transformers every call home, never holds a client of the Hub.
Nothing is asked of the network unless `install` or `plan` is called.

A model lies in ``models/hub/ORG--NAME`` of the cache, put there in one step when every byte was verified.
Half-downloaded files wait beside it under the checksums of what they will be, and the next try goes on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import msgspec

from indexer import api
from indexer.embed.folder import CONFIG, WEIGHTS
from indexer.errors import FatalError, IndexerError
from indexer.settings import Settings, cache_dir

_log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
MANIFEST = "dragoman.json"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +-]{0,199}")
# What the Hub's client reads when it is imported. The service sets some of them for itself
# (`transformer.stay_offline`), so what the person said is what was there before that.
_OFFLINE_NAMES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_OFFLINE_BY_ENVIRONMENT = any(
    os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE_NAMES
)
# Architectures that transformers has had for long; its own list takes seconds to import.
_COMMON = {
    *(
        "bert",
        "roberta",
        "xlm-roberta",
        "mpnet",
        "distilbert",
        "albert",
        "electra",
        "deberta-v2",
        "modernbert",
    ),
    *("qwen2", "qwen3", "mistral", "llama", "gemma2", "gemma3_text"),
}
_POLL_S = 0.1
_RATE_WINDOW_S = 10.0

OnProgress = Callable[[int, int, str], None]


class CancelledError(IndexerError):
    """The person wanted the download no more; what was downloaded is kept for the next try."""

    def __init__(self) -> None:
        super().__init__("Cancelled", "What was downloaded is kept; the next try goes on from there.")


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an installed model."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an installed model is; written beside its files.

    Attributes:
        reference: What it is chosen by.
        repository: Its name on the Hub, which may since have been changed there.
        commit: What was downloaded, for ever the same bytes.
        weights_commit: Where the weights were taken from, if not from `commit`.
        licence: As the model's card says.
        files: By path in the folder, with forward slashes.
    """

    reference: str
    repository: str
    commit: str
    weights_commit: str = ""
    licence: str = ""
    files: dict[str, HubFile]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files.values())


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A downloaded model that is whole."""

    path: Path
    manifest: Manifest


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What installing a model means.

    Attributes:
        files: How many files.
        total_bytes: Of all of them.
        have_bytes: Of these, downloaded already.
        free_bytes: On the disk that they go to.
        gated: Whether its licence has to be accepted on the Hub first.
    """

    reference: str
    repository: str
    commit: str
    files: int
    total_bytes: int
    have_bytes: int
    free_bytes: int
    licence: str = ""
    gated: bool = False


class LocalModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the person's own, found usable as far as that shows without loading it."""

    path: Path
    kind: Literal["folder", "gguf"]
    bytes: int


# --- names and places -------------------------------------------------------------------------


def is_hub_reference(reference: str) -> bool:
    """Whether a reference is the name of a repository on the Hub: ``org/name``, and nothing else."""
    parts = reference.split("/")
    return len(parts) == 2 and all(
        _PART.fullmatch(part) and "--" not in part and ".." not in part for part in parts
    )


def folder_of(reference: str) -> Path:
    """Where a model of the Hub is or would be installed.

    Raises:
        IndexerError: The name is none of a repository.
    """
    if not is_hub_reference(reference):
        raise IndexerError(
            "That is no name of a model",
            f"{reference[:100]!r}: models of the Hugging Face Hub are named like Qwen/Qwen3-Embedding-0.6B. "
            "For a model on this computer give the full path of its folder or .gguf file.",
        )
    return hub_dir() / reference.replace("/", "--")


def partial_of(reference: str) -> Path:
    """Where its download waits to go on."""
    path = folder_of(reference)
    return path.parent / f".{path.name}.partial"


def hub_dir() -> Path:
    """The folder of all installed models."""
    return cache_dir() / "models" / "hub"


def safe_path(name: str) -> bool:
    """Whether a file's name in a repository is a plain relative path that can be nothing else anywhere."""
    return 0 < len(name) <= 500 and all(
        _FILE_PART.fullmatch(part) and not part.endswith((".", " ")) for part in name.split("/")
    )


def endpoint_of(settings: Settings) -> str:
    """The Hub or the mirror that is set, without a slash at its end.

    Raises:
        IndexerError: It is no address, or not an encrypted one.
    """
    wanted = (settings.hub_endpoint or os.environ.get("HF_ENDPOINT") or HUB).strip().rstrip("/")
    url = urlsplit(wanted)
    if not url.hostname or url.username or url.password or url.query or url.fragment:
        raise IndexerError(
            "The mirror's address is wrong",
            f"It has to be like {HUB}. It is in the settings, or in the environment variable HF_ENDPOINT.",
        )
    if not allowed_url(wanted):
        raise IndexerError(
            "The mirror's address is not encrypted",
            f"{url.hostname} has to be reached by https; plain http is for this computer only.",
        )
    return wanted


def allowed_url(url: str) -> bool:
    """Whether a request may go there: by https, or to this computer."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    if host == "localhost":
        return parts.scheme == "http"
    with contextlib.suppress(ValueError):
        return parts.scheme == "http" and ipaddress.ip_address(host).is_loopback
    return False


# --- what is installed ------------------------------------------------------------------------


def installed(reference: str) -> Installed | None:
    """A downloaded model, or None when it is not there or not whole. Looks at sizes only.

    Raises:
        IndexerError: The name is none of a repository.
    """
    return _read(folder_of(reference))


def all_installed() -> tuple[Installed, ...]:
    """Every downloaded model that is whole, by name."""
    try:
        folders = sorted(hub_dir().iterdir())
    except OSError:
        return ()
    found = (_read(path) for path in folders if not path.name.startswith("."))
    return tuple(model for model in found if model is not None)


def _read(path: Path) -> Installed | None:
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        if folder_of(manifest.reference) != path or not manifest.files:
            return None
        for name, file in manifest.files.items():
            if not safe_path(name) or (path / name).stat().st_size != file.size:
                return None
    except (OSError, msgspec.DecodeError, IndexerError):
        return None
    return Installed(path=path, manifest=manifest)


def remove(reference: str) -> None:
    """Remove a downloaded model, and what was downloaded of it by halves.

    Raises:
        IndexerError: It is not there, or cannot be removed.
    """
    path, partial = folder_of(reference), partial_of(reference)
    if not path.exists() and not partial.exists():
        raise IndexerError("The model is not installed", f"There is nothing of {reference} to remove.")
    try:
        if path.exists():
            # In one step: a model that is half removed must not look installed.
            gone = path.parent / f".{path.name}.{secrets.token_hex(4)}.gone"
            path.rename(gone)
            shutil.rmtree(gone)
        if partial.exists():
            shutil.rmtree(partial)
    except OSError as error:
        raise IndexerError(
            "The model cannot be removed", f"{path}: {error.strerror or error}. Remove the folder by hand."
        ) from error


# --- downloading ------------------------------------------------------------------------------


def install(
    reference: str,
    settings: Settings,
    progress: OnProgress = lambda done, total, file: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Download a model; one that is installed already is left as it is. Blocks until it is done.

    Only what is needed is taken: configuration, tokenizer, weights as safetensors. Every file is checked
    against the checksum that the Hub's own index gives for it.

    Args:
        reference: ``org/name``.
        settings: Where from, and whether downloads are refused.
        progress: Called a few times a second with bytes done, bytes in all (0 while unknown), file in hand.
        cancelled: Asked ten times a second.

    Returns:
        The folder.

    Raises:
        CancelledError: `cancelled` said so.
        IndexerError: It cannot be downloaded or is of a kind that is not supported; says why and what to do.
    """
    here = installed(reference)
    if here is not None:
        return here.path
    for message in _ask_child("install", reference, settings, cancelled):
        if message.get("kind") == "progress":
            progress(int(message["done"]), int(message["total"]), str(message["file"]))
    done = installed(reference)
    if done is None:
        raise IndexerError(
            "The model could not be installed",
            f"{folder_of(reference)} is not whole after the download. Check the disk and try again.",
        )
    return done.path


def plan(reference: str, settings: Settings, cancelled: Callable[[], bool] = lambda: False) -> Download:
    """Ask the Hub what installing a model means; downloads a few kilobytes at most.

    Raises:
        CancelledError: `cancelled` said so.
        IndexerError: As `install`.
    """
    for message in _ask_child("plan", reference, settings, cancelled):
        if message.get("kind") == "plan":
            return msgspec.convert(message["plan"], Download)
    raise _child_failed()


async def installing(
    request_id: int, reference: str, settings: Settings
) -> AsyncGenerator[api.Progress, None]:
    """Install a model of the Hub, or check a folder or .gguf file, as an answer to `api.InstallModel`.

    Closing the generator, or cancelling the task that runs it, ends the download before it returns.

    Yields:
        How far it is, a few times a second. The end of the generator means that the model is installed.

    Raises:
        IndexerError: As `install` and `check_local`.
    """
    if not is_hub_reference(reference):
        local = await asyncio.to_thread(check_local, Path(reference))
        yield api.Progress(id=request_id, done=local.bytes, total=local.bytes, current=local.path.name)
        return
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[tuple[int, int, str] | None] = asyncio.Queue()
    stop = threading.Event()

    def tell(done: int, total: int, file: str) -> None:
        loop.call_soon_threadsafe(news.put_nowait, (done, total, file))

    def work() -> None:
        try:
            install(reference, settings, tell, stop.is_set)
        finally:
            loop.call_soon_threadsafe(news.put_nowait, None)

    worker = asyncio.ensure_future(asyncio.to_thread(work))
    rate = _Rate()
    try:
        while (item := await news.get()) is not None:
            done, total, file = item
            left = rate.remaining(done, total)
            yield api.Progress(id=request_id, done=done, total=total, remaining_s=left, current=file)
        await worker
    finally:
        stop.set()
        if not worker.done():
            # The child must be gone, and its lock with it, before anybody tries again.
            with contextlib.suppress(IndexerError):
                await asyncio.shield(worker)
        elif not worker.cancelled():
            worker.exception()  # retrieved, if nobody else did


class _Rate:
    """Seconds that are left, by the rate of the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def remaining(self, done: int, total: int) -> float | None:
        now = time.monotonic()
        self._samples.append((now, done))
        while self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        elapsed = now - since
        if not total or elapsed <= 0.5 or done <= before:
            return None
        return (total - done) / ((done - before) / elapsed)


def _ask_child(
    what: Literal["install", "plan"], reference: str, settings: Settings, cancelled: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Run the child and yield what it says until it has done its work.

    Raises:
        CancelledError: `cancelled` said so; the child is gone then.
        IndexerError: What the child failed with.
    """
    folder_of(reference)  # the name is checked before anything is started
    if settings.offline or _OFFLINE_BY_ENVIRONMENT:
        why = "in the settings" if settings.offline else "by the environment variable HF_HUB_OFFLINE"
        raise IndexerError(
            "Downloads are switched off",
            f"{reference} would have to be downloaded, and that is forbidden {why}. A model that lies on "
            "this computer can be used by the full path of its folder.",
        )
    order = {"what": what, "reference": reference, "endpoint": endpoint_of(settings)}
    lines: queue.Queue[bytes | None] = queue.Queue()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "indexer.embed.hub_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_child_environment(order["endpoint"]),
        )
        assert child.stdin is not None
        assert child.stdout is not None
        reader = threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True)
        try:
            reader.start()
            with contextlib.suppress(BrokenPipeError):
                # It stays open: its end tells the child that nobody waits for it any more.
                child.stdin.write(json.dumps(order).encode() + b"\n")
                child.stdin.flush()
            while True:
                if cancelled():
                    raise CancelledError
                try:
                    line = lines.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if line is None:
                    break
                message = _decode(line)
                if message.get("kind") == "failed":
                    raise IndexerError(str(message.get("title")), str(message.get("message")))
                if message.get("kind") == "done":
                    return
                yield message
            child.wait()
            errors.seek(0)
            tail = errors.read()[-2000:].decode(errors="replace")
            _log.error("The download's process ended with code %s: %s", child.returncode, tail)
            raise _child_failed()
        finally:
            child.kill()
            child.wait()
            reader.join()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()


def _read_lines(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}  # something that a library printed
    return message if isinstance(message, dict) else {}


def _child_failed() -> IndexerError:
    return IndexerError(
        "The download ended unexpectedly",
        "What was downloaded is kept. Try again; the log of the service says more.",
    )


def _child_environment(endpoint: str) -> dict[str, str]:
    left_out = {*_OFFLINE_NAMES, "HF_DEBUG", "HUGGINGFACE_CO_STAGING", "HF_HUB_ENABLE_HF_TRANSFER"}
    here = str(Path(__file__).resolve().parents[2])
    path = [here, *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != here)]
    return {
        **{name: value for name, value in os.environ.items() if name not in left_out},
        "PYTHONPATH": os.pathsep.join(path),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        # Its chunks are fetched from elsewhere and put together by a library of its own, which neither a
        # mirror nor our count of bytes would know of.
        "HF_HUB_DISABLE_XET": "1",
    }


# --- is it safe and complete? -----------------------------------------------------------------


def read_json(file: Path) -> Any:
    """A JSON file of a stranger's.

    Raises:
        IndexerError: It is missing or damaged.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise IndexerError(
            "The model is not complete", f"{file} cannot be read: {error.strerror or error}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise IndexerError("The model is damaged", f"{file} is not JSON.") from error


def module_folders(modules: object, where: str) -> tuple[str, ...]:
    """The folders that a ``modules.json`` names, each ending with a slash or empty.

    Raises:
        IndexerError: One is none of sentence-transformers' own modules, or lies elsewhere.
    """
    found = []
    if not isinstance(modules, list) or not modules:
        raise IndexerError("The model is damaged", f"{where}: {MODULES} names no modules.")
    for module in modules:
        module = module if isinstance(module, dict) else {}
        kind, path = module.get("type"), module.get("path", "")
        if not isinstance(kind, str) or not isinstance(path, str) or (path and not safe_path(path)):
            raise IndexerError("The model is damaged", f"{where}: {MODULES} cannot be understood.")
        if not kind.startswith("sentence_transformers."):
            raise needs_code(where, f"its module {kind[:100]}")
        found.append(f"{path}/" if path else "")
    return tuple(found)


def needs_code(where: str, what: str) -> IndexerError:
    """The refusal of a model that brings program code."""
    return IndexerError(
        "The model needs program code of its own",
        f"{where}: {what} is code that comes with the model, and code out of a download is never run. "
        "Choose another model.",
    )


def no_safetensors(where: str) -> IndexerError:
    """The refusal of a model with pickled weights."""
    return IndexerError(
        "The model has no safe weights",
        f"{where}: there is no {WEIGHTS}. Weights in other formats (.bin, .pt) can run code when they are "
        "loaded, and are never read. Look for a version of the model with safetensors.",
    )


def weights_in(names: set[str], folder: str) -> bool:
    """Whether a folder (empty, or with a slash at its end) among a repository's files has safetensors."""
    return folder + WEIGHTS in names or folder + INDEX in names


def has_pickles(names: set[str], folder: str) -> bool:
    """Whether a folder itself has files with weights that are not read."""
    inside = (name[len(folder) :] for name in names if name.startswith(folder))
    return any("/" not in name and name.endswith(PICKLES) for name in inside)


def shards(index: object, where: str) -> tuple[str, ...]:
    """The files that an index of weights names, all beside it.

    Raises:
        IndexerError: It is damaged or names something else.
    """
    weights = index.get("weight_map") if isinstance(index, dict) else None
    names = list(weights.values()) if isinstance(weights, dict) else []
    for name in names or [None]:
        good = isinstance(name, str) and "/" not in name and safe_path(name)
        if not good or not name.endswith(".safetensors"):
            raise IndexerError("The model is damaged", f"{where}: {INDEX} names no safetensors beside it.")
    return tuple(sorted(set(names)))


def check_config(config: Any, where: str) -> None:
    """Refuse a model that transformers does not know, or only with the model's own code.

    Raises:
        IndexerError: It is refused.
    """
    config = config if isinstance(config, dict) else {}
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise IndexerError("The model is of an unknown kind", f"{where}: {CONFIG} has no model_type.")
    if kind in _COMMON and "auto_map" not in config:
        return
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        if "auto_map" in config:
            raise needs_code(where, f"its architecture {kind[:100]}")
        raise IndexerError(
            "The model is of an unknown kind",
            f"{where}: this release does not know the architecture {kind[:100]}. A newer one may.",
        )


def check_local(path: Path) -> LocalModel:
    """Whether a folder or a .gguf file can be used as a model, as far as that shows without loading it.

    Args:
        path: Its full path.

    Raises:
        IndexerError: It cannot; says why.
    """
    if not path.is_absolute():
        raise IndexerError(
            "That is no model",
            f"{str(path)[:200]!r} is neither org/name on the Hugging Face Hub nor the full path of a folder "
            "or .gguf file.",
        )
    try:
        if path.is_file():
            return _check_gguf(path)
        if path.is_dir():
            return _check_folder(path)
    except OSError as error:
        raise IndexerError("The model cannot be read", f"{path}: {error.strerror or error}.") from error
    raise IndexerError("There is no model", f"{path} does not exist.")


def _check_gguf(path: Path) -> LocalModel:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if path.suffix.lower() != ".gguf" or magic != b"GGUF":
        raise IndexerError(
            "That is no model", f"{path} is not a .gguf file. Give a .gguf file, or a folder with {CONFIG}."
        )
    return LocalModel(path=path, kind="gguf", bytes=path.stat().st_size)


def _check_folder(path: Path) -> LocalModel:
    from indexer.embed.sentence import read_folder

    try:
        read_folder(path)
    except FatalError as error:  # nothing of ours ends because a folder is no model
        raise IndexerError(error.title, error.message) from error
    weights = [file for file in path.rglob("*.safetensors") if file.is_file()]
    return LocalModel(path=path, kind="folder", bytes=sum(file.stat().st_size for file in weights))
