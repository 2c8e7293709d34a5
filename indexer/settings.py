"""One Settings object, one TOML file, and where a library keeps its files."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import platformdirs
import tomli_w
from msgspec import Meta

from indexer.errors import FatalError

SETTINGS_FILE = "settings.toml"
VAULT_FILE = "vault.json"

# Ranges hold for what is read: the file, and messages. The window's fields keep within them.
_Count = Annotated[int, Meta(ge=0)]


class EmbeddingServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server that embeds for us, in OpenAI's protocol. Its reference as a model is ``server:NAME``.

    Attributes:
        name: How the person calls it; letters, digits, dots, hyphens.
        url: Up to and without ``/embeddings``, such as ``http://127.0.0.1:30000/v1``.
        model: Which of its models; empty for the first that it lists.
        key: Sent as a bearer token; empty for none.
        insecure: Whether plain http is allowed to a host that is not this machine.
        dimensions: Asked of the server where it is not 0 (OpenAI's ``dimensions``).
        query_prefix: Put in front of every query, for models that want one the server does not add.
        passage_prefix: The same for passages.
        max_tokens: Longest input that it takes; longer ones are shortened before they are sent.
        batch: Most inputs a request.
        concurrency: Requests under way at once.
    """

    name: str
    url: str
    model: str = ""
    key: str = ""
    insecure: bool = False
    dimensions: _Count = 0
    query_prefix: str = ""
    passage_prefix: str = ""
    max_tokens: Annotated[int, Meta(ge=16)] = 8192
    batch: Annotated[int, Meta(ge=1, le=1024)] = 64
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4


class ChromaServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Chroma runs when it is not this program's own child.

    Attributes:
        url: Such as ``http://127.0.0.1:8000`` or ``https://chroma.example.org``; empty for our own child.
        token: Sent in the header `token_header`; empty for none.
        token_header: ``Authorization`` (as a bearer token) or ``X-Chroma-Token``.
        tenant: Whose data it is, on the server.
        database: Which of the tenant's libraries it is.
        certificate: A file with the certificate to trust instead of the system's; empty for the system's.
        insecure: Whether plain http is allowed to a host that is not this machine.
    """

    url: str = ""
    token: str = ""
    token_header: str = "Authorization"
    tenant: str = "default_tenant"
    database: str = "default_database"
    certificate: str = ""
    insecure: bool = False


class Instructions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What instruction-aware models are told to look for, by what is sought; empty for the model's own words.

    They change queries only, so editing them embeds nothing again.
    """

    notes: str = ""
    code: str = ""
    question: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person can choose. Every field has a default that suits most people.

    Attributes:
        ignore: Patterns in .gitignore syntax, applied below every folder of the library.
        index_hidden: Whether files and folders whose name starts with a dot are indexed too.
        max_file_mb: Files larger than this many MiB are listed as skipped.
        extraction_workers: Child processes that read files; 0 lets the service choose.
        extraction_deadline_s: Seconds one file may take before its child is killed; 5 more for each MiB.
        extraction_memory_mb: MiB of address space one extraction child may use.
        encoder_threads: CPU threads the encoder may use; 0 lets torch choose.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: What a model computes in: ``auto`` (what was measured to be fastest here among what
            gives the same vectors), ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        engine: What runs a model on the CPU: ``auto``, ``torch`` (the reference) or ``openvino``.
        speed: How much of the machine indexing takes: ``gentle``, ``balanced`` or ``full``.
        unload_minutes: The model gives its memory back after so long without work; 0 for never.
        context_tokens: Longest input in tokens; 0 for the model's own, at most 8,192.
        gguf_engine: ``auto``, ``transformers`` or ``llama.cpp``.
        instructions: See `Instructions`.
        servers: Embedding servers that can be chosen as models.
        own_models: Full paths of model folders and .gguf files that the person added.
        hub_endpoint: A mirror of the Hugging Face Hub to download from; empty for what the environment
            variable HF_ENDPOINT says, or else the Hub itself.
        offline: Whether downloads are refused.
        chroma: Where the vectors are searched.
        rerank: Whether a reranker orders the first hits again; results appear first, then reorder.
        reranker: Folder of a cross-encoder in Hugging Face's layout; empty for none.
        paused: Whether indexing is paused (kept over a restart).
    """

    ignore: tuple[str, ...] = ()
    index_hidden: bool = False
    max_file_mb: Annotated[int, Meta(ge=1)] = 64
    extraction_workers: Annotated[int, Meta(ge=0, le=256)] = 0
    extraction_deadline_s: Annotated[float, Meta(ge=1, le=86_400)] = 120.0
    extraction_memory_mb: Annotated[int, Meta(ge=256)] = 2048
    encoder_threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    speed: Literal["gentle", "balanced", "full"] = "balanced"
    unload_minutes: Annotated[float, Meta(ge=0, le=1_000_000)] = 10.0
    context_tokens: _Count = 0
    gguf_engine: str = "auto"
    instructions: Instructions = Instructions()
    servers: tuple[EmbeddingServer, ...] = ()
    own_models: tuple[str, ...] = ()
    hub_endpoint: str = ""
    offline: bool = False
    chroma: ChromaServer = ChromaServer()
    rerank: bool = False
    reranker: str = ""
    paused: bool = False


def encrypted(data_dir: Path) -> bool:
    """Whether the library opens with a passphrase only; see `indexer.store.vault`."""
    return (data_dir / VAULT_FILE).exists()


def default_data_dir() -> Path:
    """The data folder of the person's own library."""
    return Path(platformdirs.user_data_dir("dragoman", appauthor=False))


def cache_dir() -> Path:
    """The folder for what can be made again (converted models), shared by all libraries."""
    return Path(os.environ.get("DRAGOMAN_CACHE") or platformdirs.user_cache_dir("dragoman", appauthor=False))


def load(data_dir: Path) -> Settings:
    """Read the settings of a library.

    Args:
        data_dir: The library's data folder.

    Returns:
        The stored settings, or the defaults where none are stored.

    Raises:
        FatalError: The file cannot be read, is not TOML or holds a value of the wrong kind.
    """
    file = data_dir / SETTINGS_FILE
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Settings)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise FatalError("The settings cannot be read", f"{file}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        message = f"{file}: {error}. Correct or remove the file."
        raise FatalError("The settings cannot be read", message) from error


def salvage(data_dir: Path) -> tuple[int, tuple[str, ...], Path]:
    """Put settings aside that cannot be read, and store those of them that can.

    Args:
        data_dir: The library's data folder.

    Returns:
        How many were kept, the names of those that were not, and where the damaged file is.
    """
    file = data_dir / SETTINGS_FILE
    aside = file.with_name(SETTINGS_FILE + ".damaged")
    kept: dict[str, object] = {}
    lost: list[str] = []
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8", errors="replace"))
    except tomllib.TOMLDecodeError:
        found, lost = {}, ["all of them"]
    for name, value in found.items():
        try:
            msgspec.convert({name: value}, Settings)
            kept[name] = value
        except msgspec.ValidationError:
            lost.append(name)
    file.replace(aside)
    save(data_dir, msgspec.convert(kept, Settings))
    return len(kept), tuple(lost), aside


def stamp(data_dir: Path) -> tuple[int, int, int] | None:
    """What changes when somebody writes the settings' file; None where there is none."""
    try:
        found = (data_dir / SETTINGS_FILE).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def save(data_dir: Path, settings: Settings) -> None:
    """Write the settings of a library in one step, so that a crash leaves the old or the new ones.

    Args:
        data_dir: The library's data folder; it is made, for its owner only, if it does not exist.
        settings: What to write.
    """
    private_folder(data_dir)
    new = data_dir / (SETTINGS_FILE + ".new")
    new.touch(mode=0o600)  # it may hold the keys of servers
    new.chmod(0o600)
    new.write_text(tomli_w.dumps(msgspec.to_builtins(settings)), encoding="utf-8")
    synced(new)
    new.replace(data_dir / SETTINGS_FILE)
    synced(data_dir)


def synced(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: They cannot be written.
    """
    if os.name == "nt" and path.is_dir():
        return  # not possible there, and not needed: https://bugs.python.org/issue30095
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells this folder from any other; None when it is not there."""
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def make_sure_of(folder: Path, place: tuple[int, int] | None) -> None:
    """See to it that a data folder is the one it was (`identity`), and not what its disk was mounted over.

    Raises:
        FatalError: It is another one, or none.
    """
    if identity(folder) != place:
        raise FatalError(
            "The data folder is not there any more",
            f"{folder} was put elsewhere, or its disk is gone. Try again when it is back.",
        )


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can enter, and return it.

    Raises:
        PermissionError: It belongs to somebody else. Also for one who became root by sudo: what they left in
            there the owner could not write any more.
        OSError: It cannot be made, or is on a disk that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder.stat()
    if hasattr(os, "geteuid"):
        me = os.geteuid()
        if state.st_uid != me and (me or "SUDO_UID" in os.environ):
            raise PermissionError(
                errno.EPERM,
                "it belongs to another user; start Dragoman as that user, or choose another folder",
            )
    if state.st_mode & 0o777 != 0o700:
        folder.chmod(0o700)
    return folder
