"""Everything that the second stage of training needs, in one folder of some 45 MB.

``python packaging/adapter_pack.py --work FOLDER --to PACK`` takes the texts that refine_adapter.py gathers in
FOLDER and packs them for a GPU to which little can be carried:

- ``model.xz``: the published weights in their own 4 bits, with those rows of the embedding alone that the
  texts use, so that what is read from it is exactly what is read from the whole; ``tokenizer.xz``: the
  tokenizer with those pieces alone, which cuts these texts as the whole one does;
- ``start.safetensors`` and ``profile.npz``: the adapter to begin with and its language profile;
- ``sections.bz2`` and ``text-LANGUAGE.bz2``: the parallel texts, which ``bz2`` makes smaller than ``xz``;
- ``code.bz2``: descriptions of functions, and their sources;
- ``sets.bz2``: what is measured: pages that are never trained on, the sample library, other functions.

Reading it needs numpy and tokenizers alone.
"""

from __future__ import annotations

import argparse
import bz2
import json
import logging
import lzma
import pickle
import random
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from adapter_corpus import Section, Text
from train_adapter import CODE, DENSE, LANGUAGES, ROOT, is_held_out, passage_of, says_something

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from indexer.embed.e5s1 import E5S1, Vocabulary

_log = logging.getLogger("adapter_pack")

# What a passage can begin with lies within so many characters of a section, in so many of a paragraph: later
# ones would be cut off at 112 tokens. Sources whose passages always begin at the start need less.
_PARAGRAPH, _SECTION, _START = 480, 1000, 430
_DENSELY = 0.4
_TITLES_ONLY = frozenset({"man", "ddtp"})
_MEASURED = ("en", "de", "fr", "es", "it", "ja", "zh-CN", "ko", "pt", "ru")
_CHOSEN = 150

Tokens = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class Task:
    """Passages, and questions each of which one of them answers.

    Attributes:
        passages: Text, language, and which file it is of.
        questions: Text, language, and which file is right.
    """

    passages: list[tuple[str, str, int]]
    questions: list[tuple[str, str, int]]


class Pack:
    """A packed folder, or several whose texts are put together; the first has the rest.

    Raises:
        OSError: A file is missing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)

    def sections(self) -> list[Section]:
        """The texts."""
        places: list[tuple[str, str, str]] = [(s, p, i) for s, p, i in _loaded(self._folders[0], "sections")]
        texts: list[dict[str, Text]] = [{} for _ in places]
        for folder in self._folders:
            for file in sorted(folder.glob("text-*")):
                name = file.name.partition(".")[0]
                lang = name.removeprefix("text-")
                for number, title, names, shape, paragraphs in _loaded(folder, name):
                    named = zip(names or range(len(paragraphs)), paragraphs, strict=True)
                    texts[number][lang] = Text(title, tuple((str(n), p) for n, p in named), str(shape))
        return [Section(*where, found) for where, found in zip(places, texts, strict=True)]

    def code(self) -> list[tuple[str, str, str]]:
        """Descriptions of functions, their sources, their names."""
        return [(query, source, name) for query, source, name in _loaded(self._folders[0], "code")]

    def tasks(self) -> dict[str, Task]:
        """What is measured, by name."""
        return {
            name: Task(*([(text, lang, at) for text, lang, at in side] for side in sides))
            for name, sides in _loaded(self._folders[0], "sets").items()
        }

    @cached_property
    def model(self) -> E5S1:
        """The published weights."""
        from indexer.embed.e5s1 import E5S1

        return E5S1(lzma.decompress((self._folders[0] / "model.xz").read_bytes()))

    def tokenizer(self) -> Tokenizer:
        """Of the rows that `model` has."""
        from tokenizers import Tokenizer

        data = lzma.decompress((self._folders[0] / "tokenizer.xz").read_bytes())
        tokenizer: Tokenizer = Tokenizer.from_str(data.decode())
        return tokenizer

    def start(self) -> bytes:
        """The adapter to begin with."""
        return (self._folders[0] / "start.safetensors").read_bytes()

    def profile(self) -> bytes:
        """The language profile of the model with that adapter."""
        return (self._folders[0] / "profile.npz").read_bytes()


def _loaded(folder: Path, name: str) -> Any:
    return json.loads(bz2.decompress((folder / f"{name}.bz2").read_bytes()))


def _store(folder: Path, name: str, content: object) -> int:
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    packed = bz2.compress(data)
    (folder / f"{name}.bz2").write_bytes(packed)
    return len(packed)


# --- texts -----------------------------------------------------------------------------------


def shortened(section: Section) -> Section | None:
    """A section with what training can use of it, or None where that is nothing."""
    texts = {}
    for lang, text in section.texts.items():
        scale = _DENSELY if lang in DENSE else 1.0
        most = (_START if section.source in _TITLES_ONLY else _SECTION) * scale
        if lang not in LANGUAGES or len(text) < (30 if lang in DENSE else 80):
            continue
        kept: list[tuple[str, str]] = []
        for name, paragraph in text.paragraphs:
            kept.append((name, paragraph[: int(_PARAGRAPH * scale)]))
            if sum(len(one) for _, one in kept) > most:
                break
        # Fewer paragraphs than it had may no longer be matched by name with those of another cut.
        texts[lang] = Text(text.title[:200], tuple(kept), text.shape)
    return replace(section, texts=texts) if len(texts) >= 2 else None


def rows_of(lang: str, found: Sequence[Section]) -> list[list[Any]]:
    """Texts of a language as they are packed: section, title, names, shape, paragraphs."""
    rows = []
    for number, section in enumerate(found):
        if lang in section.texts:
            every = sorted({text.shape for text in section.texts.values()})
            names = {
                name: at
                for at, name in enumerate(
                    dict.fromkeys(n for text in section.texts.values() for n, _ in text.paragraphs)
                )
            }
            text = section.texts[lang]
            mine = [names[name] for name, _ in text.paragraphs]
            plain = mine == list(range(len(mine)))
            rows.append(
                [
                    number,
                    text.title,
                    0 if plain else mine,
                    every.index(text.shape),
                    [paragraph for _, paragraph in text.paragraphs],
                ]
            )
    return rows


def _cut(text: Text, lang: str) -> str:
    longest = 170 if lang in DENSE else 420
    return passage_of(text, 0, longest)[: 2 * longest]


def held_out(found: Iterable[Section], seed: int = 3) -> dict[str, Task]:
    """Headings of pages that are never trained on, each asked in its passage's language and in two others."""
    groups: dict[str, list[Section]] = defaultdict(list)
    together = {"kde": "kde+gimp+gnome", "gimp": "kde+gimp+gnome", "gnome": "kde+gimp+gnome"}
    for section in found:
        if section.source == "guide" or is_held_out(section.page):
            groups[together.get(section.source, section.source)].append(section)
    draw = random.Random(seed)
    tasks = {}
    for name, sections in sorted(groups.items()):
        draw.shuffle(sections)
        task, seen = Task([], []), set[str]()
        for section in sections:
            fit = [
                lang
                for lang in _MEASURED
                if lang in section.texts and says_something(section.texts[lang].title, lang)
            ]
            if len(fit) < 3 or len(task.passages) == _CHOSEN or section.texts[fit[0]].title in seen:
                continue
            seen.add(section.texts[fit[0]].title)
            answered = draw.choice(fit)
            asked = [answered, *draw.sample([lang for lang in fit if lang != answered], 2)]
            at = len(task.passages)
            task.passages.append((_cut(section.texts[answered], answered), answered, at))
            task.questions.extend((section.texts[lang].title, lang, at) for lang in asked)
        tasks[name] = task
    return tasks


def _listed(file: Path) -> Iterator[Section]:
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = {
            lang: Text(title, tuple((name, text) for name, text in paragraphs), shape)
            for lang, (title, paragraphs, shape) in row["texts"].items()
        }
        yield Section("guide", row["page"], row["id"], texts)


def sample_library() -> Task:
    """The sample library's files of plain text, and the questions that they answer."""
    base = ROOT / "assets"
    passages: list[tuple[str, str, int]] = []
    places: dict[str, int] = {}
    for file in sorted((base / "sample-library").rglob("*")):
        if file.is_file() and file.suffix not in {".pdf", ".epub"}:
            lines = file.read_bytes().decode("utf-8", errors="ignore").splitlines()
            at = places[file.relative_to(base / "sample-library").as_posix()] = len(places)
            passage = ""
            for line in lines:
                passage = f"{passage} {line.strip()}".strip()
                # As long as Dragoman's own passages, roughly.
                if len(passage.encode()) > 500:
                    passages.append((passage, "", at))
                    passage = ""
            if passage:
                passages.append((passage, "", at))
    asked = json.loads((base / "sample-library-questions.json").read_text(encoding="utf-8"))
    found = [*asked["examples"], *asked["questions"]]
    questions = [(one["query"], one["lang"], places[one["path"]]) for one in found if one["path"] in places]
    return Task(passages, questions)


def code_search(count: int = 500) -> Task:
    """Descriptions of functions, and their sources: the first ones that the benchmark draws."""
    from tests.relevance import code

    drawn = code.functions(count, seed=0)
    return Task(
        [(function.source[:1600], CODE, at) for at, function in enumerate(drawn)],
        [(function.query, "en", at) for at, function in enumerate(drawn)],
    )


# --- the model -------------------------------------------------------------------------------


def restricted(data: bytes, kept: Sequence[int]) -> bytes:
    """A model's data file with these rows of its embedding, and their pieces, alone.

    Args:
        data: The published file, see indexer/embed/e5s1.py.
        kept: Ids in rising order, the special ones among them.
    """
    from indexer.embed.e5s1 import BLOCK, E5S1, MAGIC, _expected

    model = E5S1(data)
    header, words = model.header, model.vocabulary
    new = replace(header, vocabulary=len(kept))
    vocabulary = pieces_of(words, kept)
    blobs = [piece.encode() for piece in vocabulary.pieces]
    out = [
        MAGIC,
        struct.pack("<I", 1),
        struct.pack("<4i", new.hidden, new.layers, new.heads, new.intermediate),
        struct.pack("<3ifi", new.vocabulary, new.positions, new.types, new.epsilon, BLOCK),
        struct.pack("<5i", len(blobs), vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.unk),
        struct.pack("<Q", sum(map(len, blobs))),
        np.cumsum([0, *map(len, blobs)]).astype("<u4").tobytes(),
        np.array(vocabulary.scores, "<f4").tobytes(),
        *blobs,
        struct.pack("<iI", 0, 0),
    ]  # fmt: skip
    expected = _expected(new)
    tensors = []
    for short, (name, shape, _) in expected.items():
        tensor = model.tensors[name]
        raw = data[tensor.offset : tensor.offset + tensor.size]
        if short == "emb.word":
            raw = np.frombuffer(raw, "u1").reshape(header.vocabulary, -1)[list(kept)].tobytes()
        tensors.append((short.encode("latin-1"), 1 if tensor.quantised else 0, int(np.prod(shape)), raw))
    offset = sum(map(len, out)) + 4 + sum(2 + len(short) + 21 for short, *_ in tensors)
    out.append(struct.pack("<i", len(tensors)))
    for short_name, kind, values, raw in tensors:
        out += [struct.pack("<H", len(short_name)), short_name]
        out.append(struct.pack("<BIQQ", kind, values, offset, len(raw)))
        offset += len(raw)
    return b"".join([*out, *(raw for *_, raw in tensors)])


def pieces_of(vocabulary: Vocabulary, kept: Sequence[int]) -> Vocabulary:
    """Some of a vocabulary's pieces, with the special ones where they then are."""
    at = {old: new for new, old in enumerate(kept)}
    return replace(
        vocabulary,
        pieces=[vocabulary.pieces[old] for old in kept],
        scores=[vocabulary.scores[old] for old in kept],
        bos=at[vocabulary.bos],
        eos=at[vocabulary.eos],
        pad=at[vocabulary.pad],
        unk=at[vocabulary.unk],
    )


def used(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[int]:
    """How often each piece stands in some texts, the special ones left aside.

    Words are counted first, since the tokenizer cuts each by itself: there are ten times as many in the texts
    as different ones.
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(text.split())
    counts: Counter[int] = Counter()
    different = list(words)
    for first in range(0, len(different), 4096):
        some = different[first : first + 4096]
        for word, encoding in zip(
            some, tokenizer.encode_batch_fast(some, add_special_tokens=False), strict=True
        ):
            for piece in encoding.ids:
                counts[piece] += words[word]
    return counts


def _strings(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _strings(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _strings(value)


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description="Pack what training on a GPU needs.")
    parser.add_argument("--work", type=Path, required=True, help="the folder of refine_adapter.py")
    parser.add_argument("--to", type=Path, required=True, help="folder to write; it must not be there")
    parser.add_argument("--rare", type=int, default=1, help="leave out pieces that are used less often")
    parser.add_argument(
        "--fewest", type=int, default=2, help="leave out descriptions of packages in fewer languages"
    )
    parser.add_argument("--guide", type=Path, help="sections as JSON lines on which is only measured")
    parser.add_argument("--second", nargs="*", default=[], help="languages that go into a folder PACK-2")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.path.append(str(ROOT))
    pack(arguments)


def pack(arguments: argparse.Namespace) -> None:
    """Write the folder, see `main`."""
    from refine_adapter import sections_of
    from train_adapter import functions

    from indexer.embed import bundled
    from indexer.embed.space import PROFILES, REFERENCE
    from indexer.embed.tokens import open_tokenizer

    target: Path = arguments.to
    target.mkdir(parents=True)
    found = sections_of(arguments.work)
    guide = [] if arguments.guide is None else [*_listed(arguments.guide)]
    tasks = held_out([*found, *guide])
    # Reading all functions that are installed takes minutes.
    file = arguments.work / "functions.pickle"
    if not file.exists():
        drawn = [(pair.query, pair.passage, pair.topic) for pair in functions(1)]
        search = code_search()
        file.write_bytes(pickle.dumps((drawn, search.passages, search.questions)))
    code, *sides = pickle.loads(file.read_bytes())
    tasks |= {"sample": sample_library(), "code": Task(*sides)}
    short = [shortened(section) for section in found if not is_held_out(section.page)]
    texts = sorted(
        (
            section
            for section in short
            if section is not None and (section.source != "ddtp" or len(section.texts) >= arguments.fewest)
        ),
        key=lambda s: (s.source, s.page, s.id),
    )
    asked = {name: len(task.questions) for name, task in tasks.items()}
    _log.info("%d sections, %d functions, %s", len(texts), len(code), asked)
    sets = {name: (task.passages, task.questions) for name, task in tasks.items()}
    sizes = {"sections": _store(target, "sections", [(s.source, s.page, s.id) for s in texts])}
    sizes |= {"code": _store(target, "code", code), "sets": _store(target, "sets", sets)}
    second = target.with_name(f"{target.name}-2")
    if arguments.second:
        second.mkdir()
    for lang in LANGUAGES:
        rows = rows_of(lang, texts)
        if rows:
            folder = second if lang in arguments.second else target
            sizes[f"text-{lang}"] = _store(folder, f"text-{lang}", rows)
    _log.info("%.1f MiB of texts: %s", sum(sizes.values()) / 2**20, sizes)
    whole = open_tokenizer(bundled.bundled_folder().path / "tokenizer.json")
    reference = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(REFERENCE.glob("*.json"))]
    everything = [
        bundled.MODEL.query_prefix,
        bundled.MODEL.passage_prefix,
        *_strings([sets, code, reference]),
        *(text for s in texts for t in s.texts.values() for text in (t.title, *(p for _, p in t.paragraphs))),
    ]
    counts = used(everything, whole)
    source = bundled.source_path()
    if source is None:
        raise FileNotFoundError(f"the package {bundled.PACKAGE} is not installed")
    data = source.read_bytes()
    words = bundled.read(data, source).vocabulary
    # The lowest score sets what an unknown character costs, so its piece stays.
    lowest = min(range(len(words.pieces)), key=lambda at: words.scores[at])
    special = {words.bos, words.eos, words.pad, words.unk, lowest}
    kept = sorted(special | {piece for piece, times in counts.items() if times >= arguments.rare})
    rare = sum(times for times in counts.values() if times < arguments.rare)
    _log.info(
        "%d tokens, %d pieces, %d of them kept; %d tokens are of others",
        counts.total(),
        len(counts),
        len(kept),
        rare,
    )
    (target / "model.xz").write_bytes(lzma.compress(restricted(data, kept), preset=9))
    bundled._write_tokenizer(pieces_of(words, kept), target)
    (target / "tokenizer.xz").write_bytes(lzma.compress((target / "tokenizer.json").read_bytes(), preset=9))
    for left in ("tokenizer.json", "tokenizer_config.json"):
        (target / left).unlink()
    (target / "start.safetensors").write_bytes(bundled.ADAPTER.read_bytes())
    (target / "profile.npz").write_bytes((PROFILES / f"{bundled.key()}.npz").read_bytes())
    for folder in (target, second) if arguments.second else (target,):
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        _log.info("%s: %.1f MiB %s", folder, sum(sizes.values()) / 2**20, sizes)


if __name__ == "__main__":
    main()
