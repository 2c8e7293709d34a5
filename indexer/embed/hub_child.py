"""The download of one model, in a process of its own; see `hub`.

It reads one order (a line of JSON) from standard input and writes what happens, a line of JSON each, to
standard output. It ends with its work, or when standard input does, which is when nobody waits for it.

Huggingface_hub's own `hf_hub_download` gives every try a new temporary file and removes it when the try
ends (https://github.com/huggingface/huggingface_hub/pull/4228), so it never goes on where a download broke;
and it takes the bytes that came for those that were meant. Hence files are fetched here by its `http_get`,
appended to what is there, and compared with the checksums of the repository's index.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import msgspec

from indexer.embed import hub
from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS
from indexer.embed.hub import INDEX, MODULES, Download, HubFile, Manifest
from indexer.errors import FatalError, IndexerError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

# Bytes that are written at once: what is lost when the connection breaks.
_CHUNK = 1 << 16
_TELL_EVERY_S = 0.1
_TIMEOUT_S = 20.0
# Tries of a file that bring nothing; one that brings bytes is not counted.
_TRIES = 4
_LARGEST_JSON = 64 << 20
_SPARE_BYTES = 64 << 20
_TOKENIZERS = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "merges.txt")
# Those who turn pickled weights into safetensors on the Hub; transformers trusts the same name
# (transformers/safetensors_conversion.py). Weights are taken from there, and nothing else.
_CONVERTER = "SFconvertbot"
_OFFICIAL = ("huggingface.co", "hf.co")


class _Wanted(NamedTuple):
    """A file of the repository.

    Attributes:
        oid: SHA-256 of a large file, or the id of its blob in git; names the half-downloaded file too.
    """

    path: str
    commit: str
    size: int
    oid: str

    @property
    def is_large(self) -> bool:
        return len(self.oid) == 64


class _TooLongError(IndexerError):
    def __init__(self, path: str) -> None:
        super().__init__(
            "The download is damaged",
            f"{path} is longer than the Hub's index says. Try again, or another mirror.",
        )


class _Sink:
    """The file that `http_get` writes to: counts what comes, and takes no more than there is to come."""

    def __init__(self, stream: BinaryIO, wanted: _Wanted, work: _Work) -> None:
        self._stream, self._wanted, self._work = stream, wanted, work

    def write(self, data: bytes) -> int:
        if self._stream.tell() + len(data) > self._wanted.size:
            raise _TooLongError(self._wanted.path)
        written = self._stream.write(data)
        self._work.tell(self._wanted, self._stream.tell())
        return written

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        return self._stream.seek(position, whence)

    def truncate(self, size: int | None = None) -> int:
        return self._stream.truncate(size)

    def flush(self) -> None:
        self._stream.flush()


class _Work:
    """One order."""

    def __init__(self, order: dict[str, str], out: IO[bytes]) -> None:
        self._out = out
        self._reference = order["reference"]
        self._endpoint = order["endpoint"]
        self._path = hub.folder_of(self._reference)
        self._partial = hub.partial_of(self._reference)
        self._done = 0
        self._total = 0
        self._told = 0.0
        self._token: str | bool = False

    def say(self, kind: str, **fields: object) -> None:
        self._out.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        self._out.flush()

    def tell(self, wanted: _Wanted, at: int, *, now: bool = False) -> None:
        """Say how far the whole is when `at` bytes of a file are there."""
        clock = time.monotonic()
        if self._total and (now or clock - self._told >= _TELL_EVERY_S):
            self._told = clock
            self.say("progress", done=self._done + at, total=self._total, file=wanted.path)

    def run(self, what: str) -> None:
        _prepare_client()
        from huggingface_hub import HfApi

        self._partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._partial / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise IndexerError(
                    "The model is being downloaded already",
                    f"Another program is downloading {self._reference}.",
                ) from error
            api = HfApi(endpoint=self._endpoint, token=False)
            info = self._look_up(api)
            files, weights_commit = self._choose(api, info)
            self._total = sum(file.size for file in files)
            self._done = have = sum(self._have(file) for file in files)
            free = shutil.disk_usage(self._partial).free
            licence = _licence(info)
            if what == "plan":
                plan = Download(
                    reference=self._reference,
                    repository=info.id,
                    commit=info.sha or "",
                    files=len(files),
                    total_bytes=self._total,
                    have_bytes=have,
                    free_bytes=free,
                    licence=licence,
                    gated=bool(info.gated),
                )
                self.say("plan", plan=msgspec.to_builtins(plan))
                return
            if self._total - have + _SPARE_BYTES > free:
                raise IndexerError(
                    "Not enough room on the disk",
                    f"{self._reference} needs {_megabytes(self._total - have + _SPARE_BYTES)} more, and "
                    f"{_megabytes(free)} are free at {self._partial.parent}.",
                )
            self._done = 0
            for file in files:
                self._fetch(file)
                self._done += file.size
            manifest = Manifest(
                reference=self._reference,
                repository=info.id,
                commit=info.sha or "",
                weights_commit=weights_commit,
                licence=licence,
                files={file.path: HubFile(size=file.size, sha256=self._sha256(file)) for file in files},
            )
            self._publish(files, manifest)
            self._try_out()
        shutil.rmtree(self._partial, ignore_errors=True)

    # --- what there is ------------------------------------------------------------------------

    def _look_up(self, api: HfApi) -> ModelInfo:
        """The repository's index, with a token only where there is no other way."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = self._index(api)
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403) or not self._find_token():
                raise
            info = self._index(api)
        if info.gated and self._token is False:
            self._find_token()
            if self._token is False:
                raise self._gated()
        return info

    def _index(self, api: HfApi, revision: str | None = None) -> ModelInfo:
        info = api.model_info(
            self._reference, revision=revision, files_metadata=True, timeout=_TIMEOUT_S, token=self._token
        )
        if not info.sha or info.siblings is None:
            raise IndexerError(
                "The Hub answers strangely", f"{self._endpoint} gives no index of {self._reference}."
            )
        return info

    def _find_token(self) -> bool:
        """Take the person's token; one that was only stored by a login goes to no mirror."""
        from huggingface_hub import get_token

        official = (urlsplit(self._endpoint).hostname or "") in _OFFICIAL
        token = get_token() if official or os.environ.get("HF_TOKEN") else None
        self._token = token or False
        return bool(token)

    def _gated(self) -> IndexerError:
        return IndexerError(
            "The licence has to be accepted first",
            f"{self._reference} is given only to people who accepted its licence. Sign in at "
            f"{hub.HUB}/{self._reference}, accept it there, make a token at {hub.HUB}/settings/tokens. "
            "Then run `hf auth login`, or set the environment variable HF_TOKEN and run `dragoman stop`, so "
            "that the service sees it, and try again. A mirror is given a token only by HF_TOKEN.",
        )

    def _choose(self, api: HfApi, info: ModelInfo) -> tuple[list[_Wanted], str]:
        """The files to take, small ones first, and the commit of the weights if it is another one.

        Downloads what decides that: modules.json, the configuration, indices of weights.
        """
        files = self._files(info)
        names = set(files)
        where = self._reference
        folders = hub.module_folders(self._json(files[MODULES]), where) if MODULES in files else ("",)
        main = folders[0]
        if main + CONFIG not in files:
            raise IndexerError(
                "The model is of an unknown kind",
                f"{where} has no {main}{CONFIG}: it is no model for embeddings.",
            )
        if main + TOKENIZER not in files:
            raise IndexerError(
                "The model's tokenizer is of an old kind",
                f"{where} has no {main}{TOKENIZER}. Look for a newer version of the model that has one.",
            )
        hub.check_config(self._json(files[main + CONFIG]), where)
        all_folders = tuple(dict.fromkeys(["", *folders]))
        taken = {name: file for name, file in files.items() if _is_needed(name, all_folders)}
        weights: dict[str, _Wanted] = {}
        commit = ""
        for folder in dict.fromkeys(folders):
            source = files
            if not hub.weights_in(names, folder):
                if folder != main and not hub.has_pickles(names, folder):
                    continue  # a module without weights, such as pooling
                source = self._converted(api, folder)
                commit = next(iter(source.values())).commit
            weights |= self._weights(source, folder)
        return [*taken.values(), *weights.values()], commit

    def _files(self, info: ModelInfo) -> dict[str, _Wanted]:
        found = {}
        for sibling in info.siblings or ():
            if hub.safe_path(sibling.rfilename):
                found[sibling.rfilename] = _wanted(sibling, info.sha or "")
        return found

    def _weights(self, files: dict[str, _Wanted], folder: str) -> dict[str, _Wanted]:
        if folder + INDEX not in files:
            return {folder + WEIGHTS: files[folder + WEIGHTS]}
        index = files[folder + INDEX]
        parts = [folder + part for part in hub.shards(self._json(index), self._reference)]
        missing = [part for part in parts if part not in files]
        if missing:
            raise IndexerError(
                "The model is not complete", f"{self._reference} has no {missing[0]}, which its index names."
            )
        return {index.path: index, **{part: files[part] for part in parts}}

    def _converted(self, api: HfApi, folder: str) -> dict[str, _Wanted]:
        """Files of the Hub's own conversion to safetensors, offered as a request to merge.

        As transformers does when a model has pickled weights only; no conversion is asked for.
        """
        requests = api.get_repo_discussions(
            self._reference,
            author=_CONVERTER,
            discussion_type="pull_request",
            discussion_status="open",
            token=self._token,
        )
        for request in requests:
            if request.author != _CONVERTER or request.git_reference is None:
                continue
            files = self._files(self._index(api, request.git_reference))
            if hub.weights_in(set(files), folder):
                return files
        raise hub.no_safetensors(self._reference)

    def _json(self, file: _Wanted) -> Any:
        if file.size > _LARGEST_JSON:
            raise IndexerError("The model is damaged", f"{self._reference}: {file.path} is too large.")
        self._fetch(file)
        return hub.read_json(self._partial / file.oid)

    # --- the bytes ----------------------------------------------------------------------------

    def _have(self, file: _Wanted) -> int:
        for place in (self._partial / file.oid, self._part(file)):
            if place.exists():
                return min(place.stat().st_size, file.size)
        return 0

    def _part(self, file: _Wanted) -> Path:
        return self._partial / f"{file.oid}.part"

    def _fetch(self, file: _Wanted) -> None:
        """Bring a file into the folder of partial downloads, under its checksum, verified."""
        whole, part = self._partial / file.oid, self._part(file)
        if whole.exists() and whole.stat().st_size == file.size:
            return
        for last in (False, True):
            self._append(file, part)
            if _oid(part, file) == file.oid:
                _flush(part)
                part.rename(whole)
                return
            part.unlink()
            if last:
                raise IndexerError(
                    "The download is damaged",
                    f"{file.path} came with other bytes than {self._reference} has, twice. "
                    "Try again later, or from another mirror.",
                )

    def _append(self, file: _Wanted, part: Path) -> None:
        """Download what is missing of a file; tries again as long as that brings something."""
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # it re-exports its own

        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        left = _TRIES
        while True:
            before = part.stat().st_size if part.exists() else 0
            if part.exists() and before == file.size:
                return
            try:
                self._get(file, part)
            except HfHubHTTPError as error:
                if error.response.status_code == 416:  # nothing is there where the partial file ends
                    part.unlink(missing_ok=True)
                elif error.response.status_code not in (403, 408, 429, 500, 502, 503, 504):
                    raise
                trouble: Exception = error
            except httpx.HTTPError as error:
                trouble = error
            except OSError as error:
                if error.errno is not None:  # the disk's, not the network's
                    raise
                trouble = error
            else:
                continue
            # An address of a storage host is good for an hour only, so it is asked for anew.
            came = part.exists() and part.stat().st_size > before
            left = _TRIES if came else left - 1
            if left <= 0:
                raise trouble
            time.sleep(0.5 * (_TRIES - left))

    def _get(self, file: _Wanted, part: Path) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get

        url = hf_hub_url(self._reference, file.path, revision=file.commit, endpoint=self._endpoint)
        told = get_hf_file_metadata(url, token=self._token, timeout=_TIMEOUT_S, endpoint=self._endpoint)
        if told.size is not None and told.size != file.size:
            raise IndexerError(
                "The Hub answers strangely",
                f"{file.path} has {told.size} bytes there, and {file.size} by the index of the repository.",
            )
        # No compression: a file that is continued must be counted in its own bytes.
        headers = {"Accept-Encoding": "identity"}
        if self._token and _origin(told.location) == _origin(self._endpoint):
            headers["authorization"] = f"Bearer {self._token}"
        with part.open("ab") as stream:
            stream.seek(0, os.SEEK_END)
            http_get(
                told.location,
                _Sink(stream, file, self),  # type: ignore[arg-type]  # all of BinaryIO that it uses
                resume_size=stream.tell(),
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.path,
            )
        self.tell(file, file.size, now=True)

    def _sha256(self, file: _Wanted) -> str:
        if file.is_large:
            return file.oid
        return hashlib.sha256((self._partial / file.oid).read_bytes()).hexdigest()

    def _publish(self, files: Iterable[_Wanted], manifest: Manifest) -> None:
        """Make the folder of the model, in one step."""
        parent, name = self._path.parent, self._path.name
        for old in parent.glob(f".{name}.*.new"):  # ours alone: the lock is held
            shutil.rmtree(old, ignore_errors=True)
        new = parent / f".{name}.{secrets.token_hex(4)}.new"
        new.mkdir(mode=0o700)
        try:
            for file in files:
                place = new / file.path
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                try:
                    place.hardlink_to(self._partial / file.oid)
                except OSError:  # a file system without
                    shutil.copyfile(self._partial / file.oid, place)
            written = new / hub.MANIFEST
            written.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            _flush(written)
            if self._path.exists():  # it is not whole, else nothing were downloaded
                self._path.rename(parent / f".{name}.{secrets.token_hex(4)}.new")
            new.rename(self._path)
        finally:
            for old in parent.glob(f".{name}.*.new"):
                shutil.rmtree(old, ignore_errors=True)

    def _try_out(self) -> None:
        """Read the model as it will be read when it is used; what cannot be used does not stay."""
        from indexer.embed.sentence import read_folder

        try:
            read_folder(self._path, name=self._reference)
        except FatalError as error:
            hub.remove(self._reference)
            raise IndexerError(error.title, f"{error.message} It was removed again.") from error


def _wanted(sibling: RepoSibling, commit: str) -> _Wanted:
    """What the index says of a file.

    Raises:
        IndexerError: It does not say what the file has to be.
    """
    size = sibling.lfs.size if sibling.lfs else sibling.size
    oid = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
    is_hash = len(oid) in (40, 64) and all(c in "0123456789abcdef" for c in oid)
    if not isinstance(size, int) or size < 0 or not is_hash or (sibling.lfs is None and len(oid) == 64):
        raise IndexerError(
            "The Hub answers strangely",
            f"It gives no size or checksum for {sibling.rfilename}, so the file could not be verified.",
        )
    return _Wanted(path=sibling.rfilename, commit=commit, size=size, oid=oid)


def _is_needed(name: str, folders: tuple[str, ...]) -> bool:
    """Whether a file is configuration or tokenizer, in one of the folders itself."""
    folder, _, base = name.rpartition("/")
    if (f"{folder}/" if folder else "") not in folders:
        return False
    if base == hub.MANIFEST or base.endswith(".index.json"):
        return False
    # The card is read for the name of the family that a model belongs to.
    return base.endswith(".json") or base in _TOKENIZERS or name == "README.md"


def _licence(info: ModelInfo) -> str:
    card = info.card_data
    licence = getattr(card, "license", None)
    if licence == "other":
        licence = getattr(card, "license_name", None) or licence
    return licence if isinstance(licence, str) else ""


def _oid(path: Path, file: _Wanted) -> str:
    """SHA-256 of a large file's bytes, git's blob id of a small one's."""
    head = f"blob {file.size}\0".encode()
    digest = hashlib.sha256() if file.is_large else hashlib.sha1(head, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _prepare_client() -> None:
    """Make huggingface_hub's client refuse what is not encrypted, wherever a redirect leads."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    def check(request: Any) -> None:
        if not hub.allowed_url(str(request.url)):
            raise IndexerError(
                "The Hub leads to an address that is not encrypted",
                f"{request.url.host} was to be reached without https. Nothing was sent there.",
            )

    set_client_factory(
        lambda: httpx.Client(event_hooks={"request": [check]}, follow_redirects=True, timeout=_TIMEOUT_S)
    )
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK


def _explain(error: Exception, order: dict[str, str]) -> IndexerError:
    """What a person can make of an error of the client's, the network's or the disk's."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    reference, host = order["reference"], urlsplit(order["endpoint"]).hostname
    if isinstance(error, IndexerError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return IndexerError(
            "The licence has to be accepted first",
            f"{reference} is given only to people who accepted its licence, and the token that was found is "
            f"of nobody who did. Accept it at {hub.HUB}/{reference} and try again; some owners answer by "
            "hand.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return IndexerError(
            "There is no such model",
            f"{host} has no public model {reference}. Check the name, upper and lower case too.",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return IndexerError(
            "The Hub refused",
            f"{host} answered {error.response.status_code} for {reference}. Try again later.",
        )
    if isinstance(error, httpx.HTTPError | ConnectionError):
        return IndexerError(
            "The Hub cannot be reached",
            f"The connection to {host} failed ({type(error).__name__}). What was downloaded is kept; try "
            "again when there is a connection, or set a mirror in the settings.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return IndexerError(
            "The disk is full", f"Make room at {hub.hub_dir()} and try again; it goes on where it stopped."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return IndexerError("The model cannot be stored", f"{hub.hub_dir()}: {error.strerror}.")
    if isinstance(error, OSError):
        return IndexerError("The download broke off", f"{error}. What was downloaded is kept; try again.")
    raise error


def main() -> None:
    """Carry out the order that stands on standard input."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    # What a library prints must not get among the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.buffer.readline())

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    work = _Work(order, out)
    try:
        work.run(order["what"])
    except Exception as error:  # noqa: BLE001  what is not understood is raised again, for the log
        failure = _explain(error, order)
        work.say("failed", title=failure.title, message=failure.message)
    else:
        work.say("done")


if __name__ == "__main__":
    main()
