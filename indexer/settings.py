"""One Settings object, one TOML file, and where a library keeps its files."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
import platformdirs
import tomli_w

from indexer.errors import FatalError

SETTINGS_FILE = "settings.toml"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person can choose. Every field has a default that suits most people.

    Attributes:
        ignore: Patterns in .gitignore syntax, applied below every folder of the library.
        index_hidden: Whether files and folders whose name starts with a dot are indexed too.
        max_file_mb: Files larger than this many MiB are listed as skipped.
        extraction_workers: Child processes that read files; 0 lets the service choose.
        extraction_deadline_s: Seconds one file may take before its child is killed.
        extraction_memory_mb: MiB of address space one extraction child may use.
        encoder_threads: CPU threads the encoder may use; 0 lets torch choose.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        rerank: Whether a reranker orders the first hits again; results appear first, then reorder.
        reranker: Folder of a cross-encoder in Hugging Face's layout; empty for none.
        paused: Whether indexing is paused (kept over a restart).
    """

    ignore: tuple[str, ...] = ()
    index_hidden: bool = False
    max_file_mb: int = 64
    extraction_workers: int = 0
    extraction_deadline_s: float = 120.0
    extraction_memory_mb: int = 2048
    encoder_threads: int = 0
    device: str = "auto"
    rerank: bool = False
    reranker: str = ""
    paused: bool = False


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
        FatalError: The file is not TOML or holds a value of the wrong kind.
    """
    file = data_dir / SETTINGS_FILE
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Settings)
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        message = f"{file}: {error}. Correct or remove the file."
        raise FatalError("The settings cannot be read", message) from error


def save(data_dir: Path, settings: Settings) -> None:
    """Write the settings of a library in one step, so that a crash leaves the old or the new ones.

    Args:
        data_dir: The library's data folder; it is made, for its owner only, if it does not exist.
        settings: What to write.
    """
    private_folder(data_dir)
    new = data_dir / (SETTINGS_FILE + ".new")
    new.write_text(tomli_w.dumps(msgspec.to_builtins(settings)), encoding="utf-8")
    new.replace(data_dir / SETTINGS_FILE)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can enter, and return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder
