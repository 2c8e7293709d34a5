"""Goes on training an adapter, on more and other texts and in more layers: the second stage.

``python packaging/refine_adapter.py --work FOLDER`` takes the adapter of train_adapter.py (``--start``),
fetches more parallel text (adapter_books.py), trains for so many minutes (``--minutes``), and writes both
changes as one adapter. What it has learnt is kept in ``FOLDER/refined.pt`` every few minutes;
``--resume`` goes on from there.

``--pack PACK`` instead of ``--work`` takes all of that from a folder that adapter_pack.py made, and needs
nothing but torch, numpy, tokenizers and safetensors; ``--device cuda`` trains on a GPU, with larger steps. It
writes what was learnt alone; adapter_measure.py measures that, and joins it with the adapter that it began
with.
docs/ADAPTER.md says why and with what effect.

A step takes about 60 sections of three to five languages, some of them neighbours in a book. Of each there is
one passage in one language and up to three questions in different ones, since questions are short and cost
little. On a GPU there are 2,000 sections of more languages.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import logging
import math
import os
import pickle
import random
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapter_books
import adapter_corpus
import numpy as np
from adapter_corpus import Section, Text
from adapter_network import Batch, Item, Loss, Network, Options, Refiner, batch_of, rounds
from adapter_pack import Pack
from train_adapter import (
    CODE,
    DENSE,
    LANGUAGES,
    ROOT,
    SENTENCE,
    functions,
    is_held_out,
    passage_of,
    published,
    says_something,
    topic_of,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from indexer.embed.adapter import Adapter, Factors
    from indexer.embed.space import LanguageSpace

_log = logging.getLogger("refine_adapter")

# These have no paragraphs that match in all languages.
_TITLES_ONLY = frozenset({"man", "ddtp"})
_SAVE_EVERY_S = 240.0
QUERY, PASSAGE = "query: ", "passage: "

# With steps this large the small sources would come a hundred times as often as the large ones.
LARGE = Options(
    minutes=8.0,
    warm_up=40,
    rate=8e-4,
    rank=64,
    first=0,
    share=0.7,
    sections=2000,
    code=150,
    languages=(5, 10),
    held=600,
    earlier=0,
    sources=(("man", 0.1), ("lo", 0.33), ("gnome", 0.04), ("kde", 0.17), ("gimp", 0.08), ("ddtp", 0.28)),
)


def bare() -> None:
    """Make ``indexer.embed`` what can be had of it where nothing but torch and its like is installed."""
    sys.path.append(str(ROOT))
    if importlib.util.find_spec("msgspec") is None and "indexer.embed" not in sys.modules:
        # Its own module imports the settings, which need more; the rooms that training uses do not.
        package = types.ModuleType("indexer.embed")
        package.__path__ = [str(ROOT / "indexer" / "embed")]
        sys.modules["indexer.embed"] = package


class Items:
    """Draws what a step learns from: always the same for the same sections, seed and step."""

    def __init__(self, found: Sequence[Section], options: Options) -> None:
        self.random = random.Random(options.seed)
        self._options = options
        self.sections: dict[str, list[Section]] = defaultdict(list)
        for section in found:
            texts = {
                lang: text
                for lang, text in section.texts.items()
                if lang in LANGUAGES and len(text) >= (30 if lang in DENSE else 80)
            }
            if len(texts) >= 2 and not is_held_out(section.page):
                self.sections[section.source].append(Section(section.source, section.page, section.id, texts))
        for source in self.sections.values():
            source.sort(key=lambda section: (section.page, section.id))

    def batch(self, step: int) -> list[Item]:
        """Draw different sections, some of them neighbours."""
        options = self._options
        count, cluster = options.sections, options.cluster
        # A step's own, so that several processes can draw.
        self.random = random.Random(f"{options.seed}:{step}")
        wanted: list[str] = []
        size = self.random.randint(*options.languages)
        while len(wanted) < size:
            lang = self.random.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            if lang not in wanted:
                wanted.append(lang)
        drawn: dict[str, Item] = {}
        shares = dict(options.sources)
        there = [name for name in shares if self.sections[name]]
        while len(drawn) < count:
            source = self.sections[self.random.choices(there, [shares[name] for name in there])[0]]
            at = self.random.randrange(len(source))
            near = source[max(0, at - 6) : at + 6]
            taken = 0
            for section in self.random.sample(near, len(near)):
                item = None if topic_of(section) in drawn else self._item(section, wanted)
                if item is not None:
                    drawn[item.topic] = item
                    taken += 1
                if taken == cluster or len(drawn) == count:
                    break
        return list(drawn.values())

    def _item(self, section: Section, wanted: Sequence[str]) -> Item | None:
        texts, options = section.texts, self._options
        there = [lang for lang in texts if lang in wanted]
        others = [lang for lang in texts if lang not in there]
        while len(there) < 3 and others:
            there.append(self.random.choices(others, [LANGUAGES[lang] for lang in others])[0])
            others.remove(there[-1])
        answered = self.random.choices(there, [LANGUAGES[lang] for lang in there])[0]
        asked = [lang for lang in there if lang != answered]
        self.random.shuffle(asked)
        asked = asked[: options.questions]
        text, first = texts[answered], 0
        questions: list[tuple[str, str]] = []
        if section.source != "ddtp" and self.random.random() < 0.3:
            questions, first = self._sentences(texts, asked, text)
        if not questions:
            first = 0
            if section.source not in _TITLES_ONLY and self.random.random() < 0.2:
                first = self.random.randrange(len(text.paragraphs))
            if self.random.random() < options.own:
                asked = [answered, *asked[: options.questions - 1]]
            titles = [(texts[lang].title, lang) for lang in asked]
            questions = [(title, lang) for title, lang in titles if says_something(title, lang)]
        longest = self.random.choice((110, 150) if answered in DENSE else (200, 300, 420))
        passage = passage_of(text, first, longest)[: 2 * longest]
        if not questions or len(passage) < (15 if answered in DENSE else 50):
            return None
        own = any(lang == answered for _, lang in questions)
        if not own and self.random.random() < 0.12 and says_something(text.title, answered):
            passage = f"{text.title}\n{passage}"
        return Item(tuple(questions), (passage, answered), topic_of(section), text.title)

    def _sentences(
        self, texts: Mapping[str, Text], asked: Sequence[str], answer: Text
    ) -> tuple[list[tuple[str, str]], int]:
        """The same sentence in several languages, and with which paragraph of `answer` a passage begins."""
        fit = [lang for lang in asked if texts[lang].shape == answer.shape]
        names = [name for name, _ in answer.paragraphs]
        everywhere = set(names).intersection(*(dict(texts[lang].paragraphs) for lang in fit))
        common = [name for name in names if name in everywhere]
        if not fit or not common:
            return [], 0
        name = self.random.choice(common[:12])
        found = []
        for lang in fit:
            paragraph = dict(texts[lang].paragraphs)[name]
            sentence = SENTENCE.match(paragraph) if len(paragraph) >= (12 if lang in DENSE else 35) else None
            if sentence is not None:
                found.append((sentence[1].strip(" .;:,。"), lang))
        return found, max(0, names.index(name) - (self.random.random() < 0.3))


def join(first: Mapping[str, Factors], second: Mapping[str, Factors], share: float) -> dict[str, Factors]:
    """One adapter that does what `first` and a `share` of `second` do: exactly, with the ranks added up."""
    joined = {name: (a, b) for name, (a, b) in first.items()}
    for name, (a, b) in second.items():
        parts = [*([joined[name]] if name in joined else []), (a, b * np.float32(share))]
        joined[name] = (np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts], 1))
    return joined


def measured() -> set[int]:
    """Runs of words of all books that search is measured on."""
    sys.path.append(str(ROOT))
    from tests.relevance import books

    return {
        run
        for book in books.BOOKS.values()
        for section in books.sections(book)
        for run in adapter_books.runs(f"{section.title}. {section.body}", section.lang)
    }


class Draw:
    """Batches by their number, from texts.

    Args:
        items: The sections.
        code: Functions.
        tokenizer: Of the model.
        options: How to train.
        device: Where to.
    """

    def __init__(
        self, items: Items, code: Sequence[Item], tokenizer: Tokenizer, options: Options, device: str
    ) -> None:
        self._items, self._code, self._options, self._device = items, code, options, device
        self._tokenizer = tokenizer

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        options = self._options
        items = self._items.batch(step)
        code = self._items.random.sample(self._code, min(options.code, len(self._code)))
        return self.of(items, code)

    def of(self, items: Sequence[Item], code: Sequence[Item]) -> Batch:
        """The batch of some items."""
        options = self._options
        tokens = (
            tokens_of(self._tokenizer, QUERY, options.query_tokens),
            tokens_of(self._tokenizer, PASSAGE, options.passage_tokens),
        )
        return batch_of(items, code, tokens, options.held, self._device)


def tokens_of(tokenizer: Tokenizer, prefix: str, longest: int) -> Callable[[Sequence[str]], list[list[int]]]:
    """What makes token ids of texts, the prefix put before them."""
    from indexer.embed.tokens import clean

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        tokenizer.enable_truncation(longest)
        return [e.ids for e in tokenizer.encode_batch_fast([clean(prefix + text) for text in texts])]

    return tokens


def weights_of(rows: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]], start: Adapter) -> dict[str, Any]:
    """Weights with an adapter added."""
    start.check({name: array.shape for name, array in rows.items()})
    return {name: np.concatenate([*start.add(name, iter([array]))]) for name, array in rows.items()}


def loss_of(space: LanguageSpace, options: Options, device: str) -> Loss:
    """The loss in a model's language-neutral space."""
    centres = np.stack([space._query_centre, space._passage_centre])
    return Loss(centres, space._directions, options, device)


def sections_of(work: Path) -> list[Section]:
    """All texts of both stages, less what overlaps the books; kept in a file, since it takes minutes."""
    file = work / "sections.pickle"
    if not file.exists():
        found = adapter_corpus.sections(adapter_corpus.fetch(work))
        found += adapter_books.sections(*adapter_books.fetch(work))
        kept, dropped = adapter_books.without(found, measured())
        _log.info("%s sections overlap the books and are left out", dict(dropped))
        file.write_bytes(pickle.dumps(kept))
    sections: list[Section] = pickle.loads(file.read_bytes())
    return sections


def packed_config(pack: Pack) -> dict[str, Any]:
    """What `Network` has to know of a packed model."""
    header = pack.model.header
    return {
        "num_attention_heads": header.heads,
        "layer_norm_eps": header.epsilon,
        "num_hidden_layers": header.layers,
    }


def packed_weights(pack: Pack) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The published weights of a packed model."""
    model = pack.model
    return {name: np.concatenate([*model.rows(name)]) for name in model.tensors}


def chosen(options: Options, changes: Sequence[str]) -> Options:
    """Options with some of them changed.

    Args:
        options: To begin with.
        changes: Each a name, =, and a value as JSON has it.

    Raises:
        ValueError: There is no such option.
    """
    given: dict[str, Any] = {
        name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)
    }
    unknown = given.keys() - {field.name for field in dataclasses.fields(Options)}
    if unknown:
        raise ValueError(f"there is no option {', '.join(sorted(unknown))}")
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = tuple(value)
    return replace(options, **given)


def train(
    refiner: Refiner, batches: Any, kept: Path | None, out: Callable[[bool], None], pause: float = math.inf
) -> None:
    """Take steps until it is done, and keep what was learnt every few minutes.

    Args:
        refiner: What learns.
        batches: What it learns from.
        kept: Where everything that is needed to go on is kept, if anywhere.
        out: Writes what was learnt so far, and is told whether that is all.
        pause: Minutes after which the rest is left to a later run.
    """
    import torch

    recent: list[torch.Tensor] = []
    refiner.start()
    saved = began = time.monotonic()
    first = refiner.steps
    for batch in batches:
        recent = [*recent[-19:], refiner.step(batch)]
        last = refiner.done >= 1 or time.monotonic() - began > 60 * pause
        if refiner.steps % 20 == 0 or refiner.steps - first in (1, 2, 5) or last:
            means = " ".join(f"{mean:.3f}" for mean in torch.stack(recent).mean(0).tolist())
            speed = 60 * (refiner.steps - first) / (time.monotonic() - began)
            _log.info("step %d, %.0f%%, %.1f a minute: %s", refiner.steps, 100 * refiner.done, speed, means)
        if refiner.steps - first == 5 and refiner.network.device == "cuda":
            _log.info("%.1f GiB at most", torch.cuda.max_memory_allocated() / 2**30)
        if time.monotonic() - saved > _SAVE_EVERY_S or last:
            if kept is not None:
                new = kept.with_suffix(".new")
                torch.save(refiner.state(), new)
                new.replace(kept)
            out(last)
            saved = time.monotonic()
        if last:
            return


def go_on(refiner: Refiner, file: Path) -> None:
    """Go on from a file that an earlier run has kept: all of its state, or what it had learnt alone."""
    if file.suffix == ".safetensors":
        from indexer.embed.adapter import Adapter

        refiner.network.take(Adapter(file.read_bytes()).factors)
    else:
        import torch

        refiner.resume(torch.load(file, weights_only=False))  # a file of our own


def main() -> None:
    """Fetch or unpack, train, write."""
    bare()
    from indexer.embed.adapter import Adapter, pack
    from indexer.embed.space import LanguageSpace

    parser = argparse.ArgumentParser(description="Refine the adapter of the bundled language model.")
    parser.add_argument("--work", type=Path, help="folder for packages and the model (6 GB)")
    parser.add_argument("--pack", type=Path, nargs="+", help="what adapter_pack.py made, instead")
    parser.add_argument("--start", type=Path, help="the adapter that train_adapter.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, help="so many steps instead of so many minutes")
    parser.add_argument("--set", nargs="*", default=[], help="options of training, as rate=0.0004")
    parser.add_argument("--processes", type=int, default=0, help="that draw what is learnt from")
    parser.add_argument("--kept", type=Path, help="file for everything that is needed to go on")
    parser.add_argument("--resume", type=Path, nargs="?", const=Path(), help="go on with what was kept")
    parser.add_argument(
        "--pause", type=float, default=math.inf, help="stop after so many minutes of --minutes"
    )
    parser.add_argument("--done", type=float, default=0, help="part of --minutes that what was kept is from")
    arguments = parser.parse_args()
    if (arguments.work is None) == (arguments.pack is None) or (arguments.work and not arguments.start):
        parser.error("either --work and --start, or --pack")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = chosen(Options() if arguments.pack is None else LARGE, arguments.set)
    options = replace(
        options, minutes=arguments.minutes or options.minutes, steps=arguments.steps or options.steps
    )
    packed = Pack(arguments.pack) if arguments.pack else None
    start = Adapter(arguments.start.read_bytes() if packed is None else packed.start())
    items = Items(sections_of(arguments.work) if packed is None else packed.sections(), options)
    _log.info("%s sections", {name: len(found) for name, found in items.sections.items()})
    if packed is None:
        from safetensors.numpy import load_file

        from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS
        from indexer.embed.space import compute_profile
        from indexer.embed.tokens import open_tokenizer
        from indexer.embed.transformer import TransformerEncoder

        started = published(arguments.work / "started", start)
        profile = compute_profile(TransformerEncoder(started, device="cpu"))
        folder = published(arguments.work / "published").path
        described = [(pair.query, pair.passage, pair.topic) for pair in functions(options.seed)]
        tokenizer, rows = open_tokenizer(folder / TOKENIZER), load_file(folder / WEIGHTS)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kept = arguments.work / "refined.pt"
    else:
        profile, described, tokenizer = packed.profile(), packed.code(), packed.tokenizer()
        rows, config, kept = packed_weights(packed), packed_config(packed), arguments.kept
    code = [Item(((query, "en"),), (source, CODE), topic, query) for query, source, topic in described]
    draw = Draw(items, code, tokenizer, options, arguments.device)
    resumed = arguments.resume and (kept if arguments.resume == Path() else arguments.resume)
    # Steps that an earlier run took are not taken again; after weights alone it is a new run.
    first = int(1e6 * arguments.done)
    if resumed and resumed.suffix != ".safetensors":
        import torch

        first = int(torch.load(resumed, weights_only=False, map_location="cpu")["steps"])
    batches = rounds(draw, first, arguments.processes)
    if arguments.processes:
        # Before the GPU is touched, since that does not survive a fork.
        import itertools

        batches = itertools.chain([next(batches)], batches)
    import torch

    torch.manual_seed(options.seed)
    network = Network(weights_of(rows, start), config, options, arguments.device)
    del rows
    refiner = Refiner(network, loss_of(LanguageSpace(profile), options, arguments.device), options)
    if resumed:
        go_on(refiner, resumed)
        refiner.done = arguments.done or refiner.done
    notes = {
        "options": json.dumps(asdict(options), sort_keys=True),
        "start": hashlib.sha256(
            arguments.start.read_bytes() if packed is None else packed.start()
        ).hexdigest(),
    }

    def out(last: bool) -> None:
        learnt = network.factors(options.rank)
        if packed is None:
            notes["packages"] = json.dumps(adapter_corpus.versions(arguments.work), sort_keys=True)
            learnt = join(start.factors, learnt, options.share)
        data = pack(learnt, {**notes, "steps": str(refiner.steps)})
        file = arguments.out if last else arguments.out.with_stem(f"{arguments.out.stem}-{refiner.steps}")
        file.write_bytes(data)
        _log.info("%s: %d bytes, SHA-256 %s", file, len(data), hashlib.sha256(data).hexdigest())

    train(refiner, batches, kept, out, arguments.pause)


if __name__ == "__main__":
    # Read when libgomp is loaded: its threads else wait for one another in a busy loop.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
