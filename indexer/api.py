"""Every message that crosses the process border, and the codec: one JSON object a line.

A client opens the socket and sends `Hello`; the service answers `Welcome` (or `Failed`) and
from then on every request is answered by messages with the request's id, `Search` by one or
more `SearchResult` of which the last is `final`. Messages with id 0 were not asked for
(`Status`, after `Subscribe`).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from indexer.settings import EmbeddingServer, Settings

PROTOCOL_VERSION = 5
# Title of the error that `dragoman check --repair` can do something about.
DAMAGED = "The catalog is damaged"
MAX_REQUEST_BYTES = 1 << 20
MAX_REPLY_BYTES = 64 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    pass


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


# --- values -------------------------------------------------------------------------------


class Rect(_Value, frozen=True, kw_only=True, array_like=True):
    """A rectangle on a page, in PDF points from the top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


class Locator(_Value, frozen=True, kw_only=True):
    """Where a passage stands in its file; only what makes sense for the kind of file is set.

    Attributes:
        page: Page of a PDF, from 1.
        rects: Rectangles of the passage's blocks on that page.
        line_start: First line in a text or code file, from 1.
        line_end: Last line, inclusive.
        chapter: Chapter of an EPUB, from 1.
        heading: Headings above the passage, outermost first.
        symbol: Function, class or method in source code, such as ``Parser.parse``.
    """

    page: int | None = None
    rects: tuple[Rect, ...] = ()
    line_start: int | None = None
    line_end: int | None = None
    chapter: int | None = None
    heading: tuple[str, ...] = ()
    symbol: str | None = None

    def describe(self) -> str:
        """The place in a few words, as the command line shows it: ``page 3``, ``lines 10-20``."""
        parts = []
        if self.page is not None:
            parts.append(f"page {self.page}")
        if self.chapter is not None:
            parts.append(f"chapter {self.chapter}")
        if self.line_start is not None:
            one = self.line_end is None or self.line_end == self.line_start
            parts.append(f"line {self.line_start}" if one else f"lines {self.line_start}-{self.line_end}")
        if self.symbol:
            parts.append(self.symbol)
        elif self.heading:
            parts.append(" › ".join(self.heading))
        return ", ".join(parts)


Media = Literal["text", "markdown", "code", "html", "pdf", "epub"]


class Why(_Value, frozen=True, kw_only=True):
    """What a passage was found by.

    Attributes:
        cosine: Cosine of query and passage embedding, as the encoder gave them.
        meaning: The same after what languages differ in was taken out; what ranks.
        words: What the words in common, and those that mean the same in any language, added to the rank, in
            the unit of `meaning`; below 0 when words were to be expected and are missing.
        terms: Those words, as they stand in the passage.
        reranked: What the reranker gave, 0 to 1; None when it did not look.
    """

    cosine: float
    meaning: float
    words: float = 0.0
    terms: tuple[str, ...] = ()
    reranked: float | None = None


class Passage(_Value, frozen=True, kw_only=True):
    """One chunk of a file that answers the query.

    Attributes:
        chunk: The chunk's id in the catalog.
        text: The passage.
        start: Offset of `text` in the extracted text of the file, in characters.
        mark: Start and end, in `text`, of the sentence that matches best; None while unknown.
        lang: ISO 639-1 code of the passage, ``code`` for source code, empty when unknown.
        similarity: What a person is shown, 0 to 1: the same number means the same closeness in every
            language pair and for every model.
        why: What it was found by.
        words: Where, in `text`, the query's words stand, or words of any language that mean the same (start,
            end), in order.
    """

    chunk: int
    text: str
    start: int
    locator: Locator
    lang: str
    similarity: float
    why: Why
    mark: tuple[int, int] | None = None
    words: tuple[tuple[int, int], ...] = ()


class Variant(_Value, frozen=True, kw_only=True):
    """A file folded under a hit because it says the same.

    Attributes:
        kind: ``copy`` of the same text, ``version`` with small differences, or ``translation``.
        lang: Language of its best passage.
        passages: Its best passages, best first.
    """

    kind: Literal["copy", "version", "translation"]
    path: str
    root: str
    media: Media
    title: str
    lang: str
    similarity: float
    passages: tuple[Passage, ...]
    code_language: str | None = None
    online: bool = True


class Hit(_Value, frozen=True, kw_only=True):
    """One file, with its best passages, best first.

    Attributes:
        code_language: Such as ``python``, for source code only.
        root: The folder of the library that the file is in.
        online: False when that folder is not there now (an unmounted disk).
        weak: Whether it is no closer than texts often are that have nothing to do with the query.
        variants: Other files that say the same and are not hits of their own.
    """

    path: str
    root: str
    media: Media
    title: str
    similarity: float
    passages: tuple[Passage, ...]
    code_language: str | None = None
    online: bool = True
    weak: bool = False
    variants: tuple[Variant, ...] = ()


class QueryProblem(_Value, frozen=True, kw_only=True):
    """Something in a query that was not understood and was left out of account (or taken as words).

    Attributes:
        start: Where it begins in the query, in characters.
        end: Where it ends.
        message: For people, such as ``there is no language "xx"``.
    """

    start: int
    end: int
    message: str


class Completion(_Value, frozen=True, kw_only=True):
    """One way to go on writing a query.

    Attributes:
        insert: What takes the place of the query from `Completions.start` to `Completions.end`.
        label: What is shown, mostly the same.
        detail: What it does, or how many files it would leave, in a few words.
    """

    insert: str
    label: str
    detail: str = ""


class Folder(_Value, frozen=True, kw_only=True):
    """One folder of the library.

    Attributes:
        watch: ``live`` when changes are seen at once; ``sweep`` when the system refused to watch and
            the folder is looked through from time to time; ``offline`` when it is not there.
    """

    path: str
    online: bool
    files: int
    chunks: int
    bytes: int
    waiting: int
    problems: int
    watch: Literal["live", "sweep", "offline", "starting"] = "starting"


class Problem(_Value, frozen=True, kw_only=True):
    """A file that is not in the index, and why."""

    path: str
    kind: Literal["failed", "skipped"]
    title: str
    message: str
    at: float


class Notice(_Value, frozen=True, kw_only=True):
    """Something the person should know about the service as a whole."""

    title: str
    message: str


class Difference(_Value, frozen=True, kw_only=True):
    """One way in which the parts of a library differ from one another, or from the files.

    Attributes:
        part: What was compared: the ``files``, the ``catalog``, the index of ``words``, the ``vectors``, the
            exact ``matrix`` of them, the search ``index`` (Chroma), or ``leftovers`` in the data folder.
        what: What was found, in words, such as ``damaged vectors``.
        count: How many.
        mended: How many of them were mended.
        advice: What happens or is to be done about it, for people; may be empty.
        harmless: Whether no search is wrong or poorer for it.
    """

    part: Literal["files", "catalog", "words", "vectors", "matrix", "index", "leftovers"]
    what: str
    count: int
    mended: int = 0
    advice: str = ""
    harmless: bool = False


Task = Literal["notes", "code", "question"]


class SwitchStatus(_Value, frozen=True, kw_only=True):
    """The index that is being built beside the one in use.

    Attributes:
        reference: The model it is for; see `Model.reference`.
        dimensions: Length of its vectors.
        done: Texts embedded so far.
        total: Texts to be embedded in all.
        remaining_s: Estimate in seconds, None while there is no rate yet.
        state: ``waiting``: something is in the way, `message` says what; it goes on by itself.
    """

    reference: str
    dimensions: int
    done: int
    total: int
    remaining_s: float | None
    state: Literal["loading", "building", "waiting", "paused"]
    message: str = ""


class Model(_Value, frozen=True, kw_only=True):
    """A model that can be chosen, or could be after a download.

    Attributes:
        reference: What it is chosen by: the bundled model's name, an id on the Hub (``org/name``), the full
            path of a folder or of a .gguf file, or ``server:NAME`` for one of `Settings.servers`.
        name: What a person is shown.
        kind: Where it comes from.
        state: ``available``: it has to be installed first; ``installed``: ready to be used;
            ``active``: searches use it; ``kept``: its index is kept up to date beside the active one;
            ``building``: it becomes active when its index is complete.
        summary: A line on what it is good for.
        languages: Such as ``100 languages``; empty when unknown.
        licence: SPDX identifier or the licence's own name; empty when unknown.
        parameters: Number of weights; 0 when unknown.
        download_bytes: Size of the download; 0 when nothing has to be downloaded or it is unknown.
        installed_bytes: On this disk.
        memory_bytes: Main or GPU memory that it needs about; 0 when unknown.
        dimensions: Length of its vectors as they are or would be used.
        choices: Shorter lengths that it can be used with, the longest first; empty for none.
        max_tokens: Longest input.
        tokens_per_s: Measured on this machine; None when it was not.
        device: Where that was measured.
        vectors: Texts of this library that have a vector of it.
        vector_bytes: Disk that these take.
        recommended: Whether it is the one to take on this machine.
    """

    reference: str
    name: str
    kind: Literal["bundled", "hub", "folder", "gguf", "server"]
    state: Literal["available", "installed", "building", "kept", "active"]
    summary: str = ""
    languages: str = ""
    licence: str = ""
    parameters: int = 0
    download_bytes: int = 0
    installed_bytes: int = 0
    memory_bytes: int = 0
    dimensions: int = 0
    choices: tuple[int, ...] = ()
    max_tokens: int = 0
    tokens_per_s: float | None = None
    device: str = ""
    vectors: int = 0
    vector_bytes: int = 0
    recommended: bool = False


class Pair(_Value, frozen=True, kw_only=True):
    """Two texts with a known similarity, and what a model made of them.

    Attributes:
        similarity: Cosine, by the model that was verified.
        published: Cosine that was published for `Qwen/Qwen3-Embedding-0.6B`.
    """

    first: str
    second: str
    similarity: float
    published: float


class EncoderStatus(_Value, frozen=True, kw_only=True):
    """The embedding model.

    Attributes:
        state: ``resting`` when the model gave its memory back and is loaded again for the next text.
        engine: What runs it, such as ``torch`` or ``openvino``; empty where only a server knows.
        precision: What it computes in, such as ``bfloat16``.
        busy: Share of the last seconds, 0 to 1, in which it worked while files waited.
        message: Why, when `state` is ``failed``.
    """

    model: str
    state: Literal["loading", "ready", "resting", "failed"]
    device: str = ""
    dimensions: int = 0
    engine: str = ""
    precision: str = ""
    busy: float = 0.0
    message: str = ""


# --- requests -----------------------------------------------------------------------------


# Of an encrypted library: ``locked`` until its passphrase is given, then ``open``; ``changing`` while it is
# written anew. ``off``: it is not encrypted.
LockState = Literal["off", "locked", "open", "changing"]


class Hello(_Message, frozen=True, kw_only=True):
    """First message of every connection."""

    key: str
    version: int
    client: str = ""


class Like(_Value, frozen=True, kw_only=True):
    """What `Search` should find similar things to; exactly one is set.

    Attributes:
        path: An indexed file; it is not among its own hits.
        chunk: A passage, by `Passage.chunk`; its file is not among the hits, nor other copies of it.
        text: Pasted text of any length.
    """

    path: str = ""
    chunk: int = 0
    text: str = ""


class Search(_Message, frozen=True, kw_only=True):
    """Find files by meaning.

    Attributes:
        query: Words in any language, with filters; see `indexer.query`. Filters (and words) may also
            narrow what `like` finds.
        like: Find what is similar to this instead.
        fold: Whether files that say the same are folded under one hit.
        rerank: Whether the reranker may look at the first hits; None for what the settings say.
        limit: At most this many files.
        passages: At most this many passages a file.
        channel: A newer search on the same channel of the same connection supersedes this one;
            searches with an empty channel never do.
        mark: Whether a second answer is wanted that marks the matching sentences and words.
        folders: Only below these folders or files; empty for everywhere.
        task: What is sought, for models that take instructions; empty to tell by the query.
        model: Search the index of this model instead of the active one's; see `Model.reference`.
    """

    id: int
    query: str
    like: Like | None = None
    fold: bool = True
    rerank: bool | None = None
    limit: int = 20
    passages: int = 3
    channel: str = ""
    mark: bool = True
    folders: tuple[str, ...] = ()
    task: Task | Literal[""] = ""
    model: str = ""


class Complete(_Message, frozen=True, kw_only=True):
    """Ask for `Completions` of the word of a query that the cursor is in; `cursor` in characters."""

    id: int
    query: str
    cursor: int


class Cancel(_Message, frozen=True, kw_only=True):
    """Stop working on request `target`. It is answered with `Failed` (title "Cancelled")."""

    id: int
    target: int


class GetStatus(_Message, frozen=True, kw_only=True):
    """Ask for `Status` once."""

    id: int


class Subscribe(_Message, frozen=True, kw_only=True):
    """Ask for `Status` now and, with id 0, whenever it changes (a few times a second at most)."""

    id: int


class ListFolders(_Message, frozen=True, kw_only=True):
    """Ask for `Folders`."""

    id: int


class AddFolder(_Message, frozen=True, kw_only=True):
    """Add a folder to the library and begin to index it. Answered with `Done` at once."""

    id: int
    path: str


class RemoveFolder(_Message, frozen=True, kw_only=True):
    """Forget a folder and everything indexed in it. The files themselves are not touched."""

    id: int
    path: str


class ListProblems(_Message, frozen=True, kw_only=True):
    """Ask for `Problems`, newest first; `kind` None for both kinds."""

    id: int
    limit: int = 500
    offset: int = 0
    kind: Literal["failed", "skipped"] | None = None


class Retry(_Message, frozen=True, kw_only=True):
    """Try files of the problems list again; no paths means all that failed."""

    id: int
    paths: tuple[str, ...] = ()


class SetPaused(_Message, frozen=True, kw_only=True):
    """Pause or resume indexing. Search goes on."""

    id: int
    paused: bool


class GetPreview(_Message, frozen=True, kw_only=True):
    """Ask for `Preview` of a file at a passage.

    Attributes:
        start: Passage in the extracted text, in characters.
        end: Its end.
        page: Page of a PDF to draw, from 1; None for the passage's own page.
        rects: Rectangles to mark on that page.
        width: Width of the page image, in pixels.
    """

    id: int
    path: str
    start: int = 0
    end: int = 0
    page: int | None = None
    rects: tuple[Rect, ...] = ()
    width: int = 900


class GetSettings(_Message, frozen=True, kw_only=True):
    """Ask for `SettingsReply`."""

    id: int


class PutSettings(_Message, frozen=True, kw_only=True):
    """Store new settings and follow them from now on."""

    id: int
    settings: Settings


class ListModels(_Message, frozen=True, kw_only=True):
    """Ask for `Models`: known, installed and in use."""

    id: int


class InstallModel(_Message, frozen=True, kw_only=True):
    """Download a model, or check a folder or file. Answered with `Progress`, again and again, then `Done`.

    `Cancel` stops it; what was downloaded is kept and the next try goes on from there.
    """

    id: int
    reference: str


class PlanModel(_Message, frozen=True, kw_only=True):
    """Ask for `Plan`: what building the index of an installed model costs. A server is asked for a vector.

    Attributes:
        server: Ask this one instead of that of its name in the settings, to try it before it is stored.
    """

    id: int
    reference: str
    dimensions: int = 0
    server: EmbeddingServer | None = None


class UseModel(_Message, frozen=True, kw_only=True):
    """Build the index of an installed model beside the active one, then switch to it.

    Answered with `Done` at once; `Status.switch` says how far it is. A model whose index is complete is
    switched to without waiting.

    Attributes:
        dimensions: Length of the vectors, one of `Model.choices`; 0 for the longest.
        keep: Whether the index that is active now is kept up to date after the switch, to compare with.
    """

    id: int
    reference: str
    dimensions: int = 0
    keep: bool = False


class CancelSwitch(_Message, frozen=True, kw_only=True):
    """Stop building the new index and remove what was built of it; also drops an index that was `kept`.

    Attributes:
        reference: A kept model to drop; empty for the one that is being built.
    """

    id: int
    reference: str = ""


class RemoveModel(_Message, frozen=True, kw_only=True):
    """Remove the files of a downloaded model that is not in use, and its vectors in this library."""

    id: int
    reference: str


class VerifyModel(_Message, frozen=True, kw_only=True):
    """Embed pairs of sentences whose similarities were published, with an installed model. `Verified`."""

    id: int
    reference: str
    dimensions: int = 0


# Title of the `Failed` that answers an `Embed` whose dimensions the model does not have.
WRONG_LENGTH = "There are no vectors of that length"


# Titles of the `Failed` that answers what a locked library cannot do, and a passphrase that is not its own.
LOCKED = "The library is locked"
WRONG_PASSPHRASE = "The passphrase is wrong"


class GetLock(_Message, frozen=True, kw_only=True):
    """Ask for `Lock`.

    Attributes:
        keyring: Whether to look for the system's keyring although the library is not encrypted (yet).
    """

    id: int
    keyring: bool = False


class Unlock(_Message, frozen=True, kw_only=True):
    """Open a locked library for all its clients; after several wrong passphrases the answer takes longer.

    Attributes:
        remember: Whether to keep the key in the system's keyring, so that nobody is asked the next time.
    """

    id: int
    passphrase: str
    remember: bool = False


class Remember(_Message, frozen=True, kw_only=True):
    """Keep the key of an open library in the system's keyring from now on, or take it out of there."""

    id: int
    remember: bool


class SetLock(_Message, frozen=True, kw_only=True):
    """Encrypt the library, change its passphrase, or decrypt it. Answered with `Progress`, then `Done`.

    The catalog is written anew; meanwhile everything else is answered as by a locked library.

    Attributes:
        passphrase: The present one; empty when the library is not encrypted.
        new: The one it is to have; None to decrypt it, which an empty one never means.
        remember: As for `Unlock`.
    """

    id: int
    passphrase: str = ""
    new: str | None = None
    remember: bool = False


class Embed(_Message, frozen=True, kw_only=True):
    """Embed texts with the active model; answered with `Embedded`.

    Attributes:
        kind: As what; most models treat them differently.
        dimensions: Shorten the vectors to this length (Matryoshka); 0 for the model's own.
    """

    id: int
    texts: tuple[str, ...]
    kind: Literal["query", "passage"] = "passage"
    task: Task = "notes"
    dimensions: int = 0


class Check(_Message, frozen=True, kw_only=True):
    """Compare files, catalog, words, vectors and search index. `Progress`, again and again, then `Checked`.

    `Cancel` stops it; what was mended until then stays so.

    Attributes:
        repair: Whether what differs is mended. Nothing is embedded again but what is damaged.
    """

    id: int
    repair: bool = False


class Stop(_Message, frozen=True, kw_only=True):
    """End the service in good order."""

    id: int


Request = (
    Hello
    | Search
    | Complete
    | Cancel
    | GetStatus
    | Subscribe
    | ListFolders
    | AddFolder
    | RemoveFolder
    | ListProblems
    | Retry
    | SetPaused
    | GetPreview
    | GetSettings
    | PutSettings
    | ListModels
    | InstallModel
    | PlanModel
    | UseModel
    | CancelSwitch
    | RemoveModel
    | VerifyModel
    | Embed
    | Check
    | GetLock
    | Unlock
    | Remember
    | SetLock
    | Stop
)


# --- replies ------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    """The key and the version fit."""

    version: int
    pid: int
    release: str


class Failed(_Message, frozen=True, kw_only=True):
    """Request `id` failed; `title` and `message` are for people."""

    id: int
    title: str
    message: str


class Done(_Message, frozen=True, kw_only=True):
    """Request `id` was carried out."""

    id: int


class SearchResult(_Message, frozen=True, kw_only=True):
    """Answer to `Search`, best file first.

    Attributes:
        final: False when a better answer to the same request follows.
        problems: What in the query was not understood; the rest was answered.
        reranked: Whether the order is the reranker's.
        by_words: Whether only words were compared, since the model is not ready yet (then a better answer
            follows) or cannot be used (then `final`, and `problems` says why).
        took_ms: Milliseconds from the request's arrival to this answer.
        encode_ms: Of these, embedding the query (waiting for the encoder included).
    """

    id: int
    hits: tuple[Hit, ...]
    final: bool
    took_ms: float
    encode_ms: float = 0.0
    problems: tuple[QueryProblem, ...] = ()
    reranked: bool = False
    by_words: bool = False


class Completions(_Message, frozen=True, kw_only=True):
    """Answer to `Complete`: what may take the place of the query from `start` to `end`."""

    id: int
    start: int
    end: int
    items: tuple[Completion, ...]


class Status(_Message, frozen=True, kw_only=True):
    """What the service is doing.

    Attributes:
        state: ``scanning`` a folder, ``indexing`` files, ``watching`` with nothing to do; ``failed`` when it
            could not be started, which a notice explains; ``locked`` while `lock` is that or ``changing``.
        files: Files in the index.
        waiting: Files that are known to need work.
        done: Files finished since the present run of work began; progress is done / (done + waiting).
        files_per_s: Rate over the last seconds.
        tokens_per_s: Rate of the encoder over the last seconds.
        remaining_s: Estimate for the waiting files, None while unknown.
        current: The file in hand, empty for none.
        speed: How much of the machine indexing may take, as chosen: ``gentle``, ``balanced`` or ``full``.
        slowed: Why indexing goes slower than the person's choice of speed says, or waits: ``battery``,
            ``active`` (the person uses the machine), ``disk`` (too little room); empty when it does not.
        index: ``chroma`` when Chroma serves, ``exact`` while it is checked or rebuilt and an
            exact search over all vectors serves instead.
        lock: See `LockState`.
        reading: How the processes that read files are held; empty before the first of them was started.
    """

    id: int
    state: Literal["starting", "locked", "failed", "scanning", "indexing", "watching", "paused", "stopping"]
    files: int
    chunks: int
    waiting: int
    done: int
    failed: int
    skipped: int
    files_per_s: float
    tokens_per_s: float
    remaining_s: float | None
    current: str
    encoder: EncoderStatus
    index: Literal["chroma", "exact"]
    switch: SwitchStatus | None = None
    speed: str = "balanced"
    slowed: str = ""
    notices: tuple[Notice, ...] = ()
    lock: LockState = "off"
    reading: str = ""


class Lock(_Message, frozen=True, kw_only=True):
    """Answer to `GetLock`.

    Attributes:
        state: See `LockState`.
        remembered: Whether the key is in the system's keyring.
        keyring: How the person knows that keyring; empty when there is none that can be trusted with it.
        possible: Whether this installation can encrypt at all.
    """

    id: int
    state: LockState
    remembered: bool = False
    keyring: str = ""
    possible: bool = True


class Folders(_Message, frozen=True, kw_only=True):
    """Answer to `ListFolders`."""

    id: int
    folders: tuple[Folder, ...]


class Problems(_Message, frozen=True, kw_only=True):
    """Answer to `ListProblems`; `total` counts all of the asked kind."""

    id: int
    problems: tuple[Problem, ...]
    total: int


class Preview(_Message, frozen=True, kw_only=True):
    """Answer to `GetPreview`.

    A PDF comes as the image of one page with the passage marked; everything else as text around
    the passage.

    Attributes:
        png: The page image, PNG, or empty.
        page: Its number, from 1.
        pages: How many pages the file has.
        page_width: Width of that page in PDF points, so that rectangles can be found in the image.
        text: Extracted text around the passage (Markdown source, code, text of HTML or EPUB).
        start: Start of the passage in `text`.
        end: Its end.
        first_line: Number of the first line of `text` in the file, from 1.
        truncated: Whether `text` is only part of the file.
    """

    id: int
    path: str
    media: Media
    png: bytes = b""
    page: int = 0
    pages: int = 0
    page_width: float = 0.0
    text: str = ""
    start: int = 0
    end: int = 0
    first_line: int = 1
    truncated: bool = False
    code_language: str | None = None


class Models(_Message, frozen=True, kw_only=True):
    """Known models, the recommended and the installed ones first."""

    id: int
    models: tuple[Model, ...]


class Progress(_Message, frozen=True, kw_only=True):
    """How far a request is.

    Attributes:
        done: Bytes so far.
        total: Bytes in all; 0 while unknown.
        remaining_s: Estimate in seconds, None while there is no rate yet.
        current: What is done at the moment, such as the name of a file.
    """

    id: int
    done: int
    total: int
    remaining_s: float | None = None
    current: str = ""


class Plan(_Message, frozen=True, kw_only=True):
    """What building an index costs.

    Attributes:
        texts: Texts to be embedded.
        disk_bytes: What its vectors will take, with Chroma's copy.
        free_bytes: What is free on the disk of the data folder.
        seconds: Estimate, None when the model was never measured here.
        anew: Whether the model has an index here, used, built or kept, that is of other vectors than it gives
            now: it cannot be used on until the model is chosen again.
    """

    id: int
    texts: int
    disk_bytes: int
    free_bytes: int
    seconds: float | None
    anew: bool = False


class Verified(_Message, frozen=True, kw_only=True):
    """How a model rates the published pairs.

    Attributes:
        is_reference: Whether it is the model that the published figures are of.
        tokens_per_s: Measured on the way.
        device: Where.
        note: What to know when comparing, for people.
    """

    id: int
    pairs: tuple[Pair, ...]
    is_reference: bool
    tokens_per_s: float
    device: str
    note: str = ""


class Embedded(_Message, frozen=True, kw_only=True):
    """Vectors of texts.

    Attributes:
        model: Name of the model.
        dimensions: Length of a vector.
        vectors: float32, little endian, row after row, rows of unit length.
        tokens: Of each text.
    """

    id: int
    model: str
    dimensions: int
    vectors: bytes
    tokens: tuple[int, ...]


class Checked(_Message, frozen=True, kw_only=True):
    """Answer to `Check`.

    Attributes:
        differences: What was found; empty when all agrees.
        files: Files that are in the index.
        texts: Texts that were compared with their words and vectors.
        embedded: Texts that were embedded to mend what was damaged.
        salvage: Whether the catalog's file is so damaged that what can be read has to be saved while the
            service rests, as `dragoman check --repair` does.
        index: Whether the search index was compared; it is not while it is being built.
        took_s: Seconds.
    """

    id: int
    differences: tuple[Difference, ...]
    files: int
    texts: int
    embedded: int = 0
    salvage: bool = False
    index: bool = True
    took_s: float = 0.0


class SettingsReply(_Message, frozen=True, kw_only=True):
    """Answer to `GetSettings`."""

    id: int
    settings: Settings


Reply = (
    Welcome
    | Failed
    | Done
    | SearchResult
    | Completions
    | Status
    | Folders
    | Problems
    | Preview
    | SettingsReply
    | Models
    | Progress
    | Plan
    | Verified
    | Embedded
    | Checked
    | Lock
)


class _Numbered(msgspec.Struct):
    id: int


_T = TypeVar("_T")
_encoder = msgspec.json.Encoder()
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


# A file name that is not UTF-8 holds lone surrogates in Python, which JSON in UTF-8 cannot carry.
# They travel as private-use characters, one for each byte, and are turned back by `local_path`.
_TO_WIRE = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_FROM_WIRE = {wire: local for local, wire in _TO_WIRE.items()}


def encode(message: Request | Reply) -> bytes:
    """One message as one line of JSON, newline included."""
    try:
        return _encoder.encode(message) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(_wire(msgspec.to_builtins(message, builtin_types=(bytes,)))) + b"\n"


def local_path(path: str) -> str:
    """A path out of a message, as this system's file functions want it."""
    return path.translate(_FROM_WIRE)


def _wire(value: object) -> object:
    if isinstance(value, str):
        return value.translate(_TO_WIRE).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list | tuple):
        return [_wire(item) for item in value]
    if isinstance(value, dict):
        return {key: _wire(item) for key, item in value.items()}
    return value


def decode_request(line: bytes) -> Request:
    """The request in one line.

    Raises:
        ValueError: It is not JSON, or not a request (msgspec's errors are ValueErrors).
    """
    return _decode(_request_decoder, line)


def request_id(line: bytes) -> int:
    """The id of a message that is not a request as it should be; 0 where none can be made out."""
    try:
        return max(0, msgspec.json.decode(line, type=_Numbered).id)
    except (ValueError, RecursionError):
        return 0


def decode_reply(line: bytes) -> Reply:
    """The reply in one line.

    Raises:
        ValueError: It is not JSON, or not a reply.
    """
    return _decode(_reply_decoder, line)


def _decode(decoder: msgspec.json.Decoder[_T], line: bytes) -> _T:
    try:
        return decoder.decode(line)
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None
