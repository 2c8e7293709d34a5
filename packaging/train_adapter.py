"""Trains the adapter that makes the bundled encoder find a text in one language by a question in another.

``python packaging/train_adapter.py --work FOLDER`` fetches the parallel manuals (see adapter_corpus.py),
trains on the CPU (a quarter of an hour on two quick cores) and writes the adapter. It prints the digest
to put into indexer/embed/bundled.py; then ``python -m indexer.embed.space`` computes the model's language
profile anew. docs/ADAPTER.md says why and with what effect.

The same seed and packages give the same pairs in the same order; the sums of floating point numbers,
which two threads add up, differ in their last bits from run to run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from adapter_corpus import Section, Text, fetch, sections, versions

if TYPE_CHECKING:
    import torch

    from indexer.embed.adapter import Adapter, Factors
    from indexer.embed.folder import ModelFolder

ROOT = Path(__file__).parent.parent

_log = logging.getLogger("train_adapter")

# How often a language comes; those that Dragoman is made for, and of which there is most, come most.
LANGUAGES = {
    "en": 6, "de": 3, "fr": 3, "es": 3, "ja": 3, "zh-CN": 3, "zh-TW": 1.2, "ru": 3, "it": 2, "pt": 2, "ko": 3,
    "nl": 1.2, "pl": 1.2, "cs": 1, "sv": 1, "tr": 1, "uk": 1, "vi": 1, "hu": 1, "el": 0.7, "da": 0.7,
    "fi": 0.7, "id": 0.7, "ro": 0.7, "he": 0.7, "hi": 0.7, "fa": 0.7,
}  # fmt: skip
SOURCES = {"man": 0.45, "lo": 0.4, "gnome": 0.15}
CODE = "code"
# Languages with so much in a character that a few of them are a sentence.
DENSE = frozenset({"ja", "zh-CN", "zh-TW"})
SENTENCE = re.compile(r"(.{12,220}?)(?:[.!?](?=\s)|[。！？：]|$)")
# One page in so many is never trained on.
_HELD_OUT = 12
_LAYERS = 12
_MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


@dataclass(frozen=True)
class Options:
    """How to train; the values are those that the adapter in the repository was trained with.

    Attributes:
        rank: Rank of the change to each matrix.
        first: First layer that changes; those below stay as they are.
        pairs: Pairs of texts a step, beside `code` pairs of a description and a function.
        same: Share of pairs in one language.
        temperature: Of the softmax over the similarities in a batch.
        backwards: Weight of finding the query by the passage, beside the passage by the query.
        distill: Weight of keeping the similarities that texts of one language had.
    """

    seed: int = 1
    steps: int = 180
    warm_up: int = 20
    rate: float = 5e-4
    rank: int = 16
    first: int = 6
    pairs: int = 60
    code: int = 6
    same: float = 0.35
    temperature: float = 0.05
    backwards: float = 0.5
    distill: float = 0.1
    query_tokens: int = 48
    passage_tokens: int = 112


@dataclass(frozen=True)
class Pair:
    """A query and the passage that answers it; `topic` is the same for pairs from the same section."""

    query: str
    passage: str
    asked: str
    answered: str
    topic: str


class Pairs:
    """Draws batches of pairs, always the same ones for the same sections and seed.

    A batch has a few languages only and comes in clusters of neighbouring pages, so that each query stands
    against many passages in its own language and some on nearly its own topic: exactly what a search across
    languages gets wrong.
    """

    def __init__(self, found: Sequence[Section], seed: int, *, held_out: bool = False) -> None:
        self.random = random.Random(seed)
        self.sections: dict[str, list[Section]] = defaultdict(list)
        for section in found:
            if is_held_out(section.page) == held_out:
                texts = {
                    lang: text
                    for lang, text in section.texts.items()
                    if lang in LANGUAGES and len(text) >= (30 if lang in DENSE else 80)
                }
                if len(texts) >= 2:
                    kept = Section(section.source, section.page, section.id, texts)
                    self.sections[section.source].append(kept)
        for source in self.sections.values():
            source.sort(key=lambda section: section.page)

    def batch(self, count: int, same: float, cluster: int = 4) -> list[Pair]:
        """Draw `count` pairs of different sections, a share of `same` of them within one language."""
        languages = self._languages(self.random.choice((3, 4, 5)))
        pairs: list[Pair] = []
        seen: set[str] = set()
        while len(pairs) < count:
            name = self.random.choices(list(SOURCES), list(SOURCES.values()))[0]
            source = self.sections[name]
            at = self.random.randrange(len(source))
            near = source[max(0, at - 6) : at + 6]
            taken = 0
            for section in self.random.sample(near, len(near)):
                pair = None if topic_of(section) in seen else self._pair(section, languages, same)
                if pair is not None:
                    seen.add(pair.topic)
                    pairs.append(pair)
                    taken += 1
                if taken == cluster or len(pairs) == count:
                    break
        return pairs

    def _languages(self, count: int) -> list[str]:
        chosen: list[str] = []
        while len(chosen) < count:
            lang = self.random.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            if lang not in chosen:
                chosen.append(lang)
        return chosen

    def _pair(self, section: Section, languages: Sequence[str], same: float) -> Pair | None:
        texts = section.texts
        there = [lang for lang in texts if lang in languages]
        others = [lang for lang in texts if lang not in there]
        while len(there) < 2:
            lang = self.random.choices(others, [LANGUAGES[other] for other in others])[0]
            others.remove(lang)
            there.append(lang)
        asked = self.random.choice(there)
        answered = asked
        if self.random.random() >= same:
            answered = self.random.choice([lang for lang in there if lang != asked])
        drawn = self._query(section, asked, answered)
        if drawn is None:
            return None
        query, first = drawn
        passage = passage_of(texts[answered], first, 150 if answered in DENSE else 420)
        if len(passage) < (15 if answered in DENSE else 50):
            return None
        if self.random.random() < 0.12 and says_something(texts[answered].title, answered):
            passage = f"{texts[answered].title}\n{passage}"
        return Pair(query, passage, asked, answered, topic_of(section))

    def _query(self, section: Section, asked: str, answered: str) -> tuple[str, int] | None:
        """A title or a sentence, and with which paragraph the passage that answers it begins."""
        ours, theirs = section.texts[asked], section.texts[answered]
        aligned = ours.shape == theirs.shape
        if says_something(ours.title, asked) and (
            not aligned or asked == answered or self.random.random() < 0.55
        ):
            middle = section.source != "man" and self.random.random() >= 0.7
            return ours.title, self.random.randrange(len(theirs.paragraphs)) if middle else 0
        # Within one language a sentence would be asked for in its own words, which teaches nothing.
        if not aligned or asked == answered:
            return None
        places = {name: at for at, (name, _) in enumerate(theirs.paragraphs)}
        shortest = 12 if asked in DENSE else 35
        fit = [(name, text) for name, text in ours.paragraphs if name in places and len(text) >= shortest]
        if not fit:
            return None
        name, text = self.random.choice(fit[:12])
        sentence = SENTENCE.match(text)
        if sentence is None:
            return None
        at = places[name]
        before = at > 0 and self.random.random() < 0.3
        return sentence[1].strip(" .;:,。"), at - before


def is_held_out(page: str) -> bool:
    """Whether a page is kept for choosing between variants."""
    digest = hashlib.md5(page.encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % _HELD_OUT == 0


def topic_of(section: Section) -> str:
    """The same for a section in all languages."""
    return f"{section.page}#{section.id}"


def says_something(title: str, lang: str) -> bool:
    """Whether a heading is long enough to be asked for."""
    if lang in DENSE:
        return 4 <= len(title) <= 60
    return 8 <= len(title) <= 140 and len(title.split()) >= 2


def passage_of(text: Text, first: int, longest: int) -> str:
    """Paragraphs from the `first` on, about `longest` characters of them."""
    passage = ""
    for _, paragraph in text.paragraphs[first:]:
        if len(passage) + len(paragraph) > longest and len(passage) > longest / 3:
            break
        passage = f"{passage} {paragraph}".strip()
    return passage


def functions(seed: int) -> list[Pair]:
    """What functions do, and their source: of installed packages that the code benchmark leaves alone."""
    # As the benchmark draws them; the tests are not installed.
    sys.path.append(str(ROOT))
    from tests.relevance import code

    site = Path(np.__file__).parent.parent
    left_out = {*code.PACKAGES, "pip", "setuptools", "torchgen", "functorch"}
    draw = random.Random(seed)
    pairs: dict[str, Pair] = {}
    for folder in sorted(site.iterdir()):
        if not folder.is_dir() or folder.name in left_out or not folder.name.isidentifier():
            continue
        mine = [found for file in sorted(folder.rglob("*.py"))[:600] for found in _functions(file, draw)]
        draw.shuffle(mine)
        for found in mine[:250]:
            pairs.setdefault(found.query, Pair(found.query, found.source[:420], "en", CODE, found.name))
    return list(pairs.values())


def _functions(file: Path, draw: random.Random) -> Iterator[Any]:
    from tests.relevance import code

    there = list(code._of_module(file.as_posix(), file))
    yield from draw.sample(there, min(6, len(there)))


class Trainer:
    """The encoder with low-rank changes beside its upper matrices, and the steps that fit them.

    Args:
        folder: The model as it was published.
        profile: Its language profile; similarities are those of the space that search compares in.
        options: How to train.
    """

    def __init__(self, folder: ModelFolder, profile: bytes, options: Options) -> None:
        import torch

        from indexer.embed.folder import TOKENIZER
        from indexer.embed.space import LanguageSpace
        from indexer.embed.tokens import open_tokenizer
        from indexer.embed.transformer import load_transformer

        self.options = options
        self._model_info = folder.model
        self._tokenizer = open_tokenizer(folder.path / TOKENIZER)
        torch.manual_seed(options.seed)
        self._model = load_transformer(folder, torch.float32).requires_grad_(False).to(torch.bfloat16)
        self._changes = _insert(self._model, options)
        weights = [weight for change in self._changes.values() for weight in (change.a, change.b)]
        self._optimizer = torch.optim.AdamW(weights, options.rate, betas=(0.9, 0.98), weight_decay=0.01)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self._weights = weights
        space = LanguageSpace(profile)
        self._directions = torch.from_numpy(space._directions)
        self._centres = torch.from_numpy(np.stack([space._query_centre, space._passage_centre]))
        # Two threads with one core each wait less for one another than one operation on both cores.
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(2)

    def _rate(self, step: int) -> float:
        done = min(1.0, step / self.options.steps)
        return min(1.0, (step + 1) / self.options.warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))

    def step(self, pairs: Sequence[Pair]) -> tuple[float, float]:
        """Learn from a batch.

        Returns:
            The contrastive loss, and how many of the queries found their passage first.
        """
        import torch
        from torch.nn.functional import cross_entropy

        options = self.options
        queries, passages = self._tokens(pairs)
        (asked, answers), outputs, leaves = self._encode_twice(queries, passages)
        similar = self._neutral(asked, 0) @ self._neutral(answers, 1).T
        alike = [
            [i != j and (a.topic == b.topic or a.query == b.query) for j, b in enumerate(pairs)]
            for i, a in enumerate(pairs)
        ]
        scores = (similar / options.temperature).masked_fill(torch.tensor(alike), -1e4)
        right = torch.arange(len(pairs))
        contrast = cross_entropy(scores, right) + options.backwards * cross_entropy(scores.T, right)
        loss = contrast + options.distill * self._drift(pairs, queries, passages, similar)
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        list(
            self._pool.map(
                lambda pair: torch.autograd.backward(pair[0], pair[1].grad), zip(outputs, leaves, strict=True)
            )
        )
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._schedule.step()
        return contrast.item(), (scores.argmax(1) == right).float().mean().item()

    def _drift(
        self,
        pairs: Sequence[Pair],
        queries: list[list[int]],
        passages: list[list[int]],
        similar: torch.Tensor,
    ) -> torch.Tensor:
        """How far similarities within a language have moved from what the published model gives."""
        import torch

        own = [at for at, pair in enumerate(pairs) if pair.asked == pair.answered or pair.answered == CODE]
        for change in self._changes.values():
            change.on = False
        with torch.no_grad():
            sides = ([queries[at] for at in own], [passages[at] for at in own])
            asked, answers = self._pool.map(self._encode, sides)
            before = self._neutral(asked, 0) @ self._neutral(answers, 1).T
        for change in self._changes.values():
            change.on = True
        one = [[pairs[i].asked == pairs[j].answered or pairs[j].answered == CODE for j in own] for i in own]
        moved = (similar[own][:, own] - before) / self.options.temperature
        return (moved[torch.tensor(one)] ** 2).mean()

    def factors(self) -> dict[str, Factors]:
        """What was learnt, as `Adapter.factors`."""
        return {
            f"{name}.weight": (change.a.detach().numpy().copy(), change.b.detach().numpy().copy())
            for name, change in self._changes.items()
        }

    def _tokens(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        from indexer.embed.tokens import clean

        sides = []
        for prefix, texts, longest in (
            (self._model_info.query_prefix, [pair.query for pair in pairs], self.options.query_tokens),
            (self._model_info.passage_prefix, [pair.passage for pair in pairs], self.options.passage_tokens),
        ):
            self._tokenizer.enable_truncation(longest)
            encodings = self._tokenizer.encode_batch_fast([clean(prefix + text) for text in texts])
            sides.append([encoding.ids for encoding in encodings])
        return sides[0], sides[1]

    def _encode_twice(
        self, queries: list[list[int]], passages: list[list[int]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Vectors of both sides; beside them the outputs of each part and what their gradients arrive at.

        The parts are separate graphs, so that both threads can go back through them as well.
        """
        import torch

        from indexer.embed.tokenized import batches

        parts = [
            (side, [texts[at] for at in batch], batch)
            for side, texts in enumerate((queries, passages))
            for batch in batches([len(text) for text in texts], 1600)
        ]
        parts.sort(key=lambda part: -sum(map(len, part[1])))
        outputs = list(self._pool.map(lambda part: self._forward(part[1]), parts))
        leaves = [output.detach().requires_grad_() for output in outputs]
        vectors = []
        for side in (0, 1):
            order = [at for part in parts if part[0] == side for at in part[2]]
            mine = torch.cat([leaf for leaf, part in zip(leaves, parts, strict=True) if part[0] == side])
            vectors.append(mine[torch.argsort(torch.tensor(order))])
        return vectors, outputs, leaves

    def _encode(self, texts: list[list[int]]) -> torch.Tensor:
        import torch

        from indexer.embed.tokenized import batches

        order = list(batches([len(text) for text in texts], 2048))
        rows = torch.cat([self._forward([texts[at] for at in batch]) for batch in order])
        return rows[torch.argsort(torch.tensor([at for batch in order for at in batch]))]

    def _forward(self, texts: list[list[int]]) -> torch.Tensor:
        """Unit vectors of token ids, by the mean over the tokens."""
        import torch

        width = max(map(len, texts))
        pad = int(self._model.config.pad_token_id)
        ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    def _neutral(self, vectors: torch.Tensor, side: int) -> torch.Tensor:
        """As `LanguageSpace.queries` (side 0) and `LanguageSpace.passages` (side 1), with a gradient."""
        import torch

        moved = vectors - self._centres[side]
        moved = moved - (moved @ self._directions.T) @ self._directions
        return torch.nn.functional.normalize(moved, dim=1)


def _insert(model: Any, options: Options) -> dict[str, Any]:
    """Put a low-rank change beside each matrix of the upper layers; by the matrices' names."""
    import torch

    class Changed(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.linear, self.on = linear, True
            scale = 1 / math.sqrt(linear.in_features)
            self.a = torch.nn.Parameter(torch.randn(options.rank, linear.in_features) * scale)
            self.b = torch.nn.Parameter(torch.zeros(linear.out_features, options.rank))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.linear(inputs)
            if self.on:
                outputs = outputs + inputs @ self.a.to(inputs.dtype).T @ self.b.to(inputs.dtype).T
            return outputs

    changes = {}
    for layer in range(options.first, _LAYERS):
        for matrix in _MATRICES:
            name = f"encoder.layer.{layer}.{matrix}"
            parent, _, leaf = name.rpartition(".")
            holder = model.get_submodule(parent)
            changes[name] = Changed(getattr(holder, leaf))
            setattr(holder, leaf, changes[name])
    return changes


def published(target: Path, adapter: Adapter | None = None) -> ModelFolder:
    """The bundled model as it was published, or with an adapter, converted into a folder.

    Raises:
        FileNotFoundError: Its package is not installed.
        FatalError: It is damaged.
    """
    from indexer.embed import bundled
    from indexer.embed.folder import ModelFolder

    source = bundled.source_path()
    if source is None:
        raise FileNotFoundError(f"the package {bundled.PACKAGE} is not installed")
    target.mkdir(parents=True, exist_ok=True)
    bundled.convert(bundled.read(source.read_bytes(), source), target, adapter)
    return ModelFolder(path=target, model=bundled.MODEL)


def main() -> None:
    """Fetch, train, write."""
    from indexer.embed import bundled
    from indexer.embed.adapter import pack
    from indexer.embed.space import compute_profile
    from indexer.embed.transformer import TransformerEncoder

    parser = argparse.ArgumentParser(description="Train the adapter of the bundled language model.")
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and the model (3 GB)")
    parser.add_argument("--out", type=Path, default=bundled.ADAPTER, help="file to write")
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--seed", type=int, default=Options.seed)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = Options(seed=arguments.seed, steps=arguments.steps)
    root = fetch(arguments.work)
    pairs = Pairs(sections(root), options.seed)
    _log.info("%s sections", {name: len(found) for name, found in pairs.sections.items()})
    code = functions(options.seed)
    folder = published(arguments.work / "published")
    trainer = Trainer(folder, compute_profile(TransformerEncoder(folder, device="cpu")), options)
    recent: list[tuple[float, float]] = []
    for step in range(1, options.steps + 1):
        batch = pairs.batch(options.pairs, options.same) + pairs.random.sample(code, options.code)
        recent = [*recent[-19:], trainer.step(batch)]
        if step % 10 == 0:
            _log.info("step %d: loss %.3f, first %.3f", step, *np.mean(recent, axis=0))
    notes = {
        "model": bundled.DATA_SHA256,
        "options": json.dumps({**options.__dict__}, sort_keys=True),
        "packages": json.dumps(versions(arguments.work), sort_keys=True),
    }
    data = pack(trainer.factors(), notes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(data)
    _log.info("%s: %d bytes, SHA-256 %s", arguments.out, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    # Read when libgomp is loaded: its threads else wait for one another in a busy loop.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main()
