"""Goes on training an adapter, on more and other texts and in more layers: the second stage.

``python packaging/refine_adapter.py --work FOLDER`` takes the adapter of train_adapter.py (``--start``),
fetches more parallel text (adapter_books.py), trains for so many minutes (``--minutes``), and writes both
changes as one adapter. What it has learnt is kept in ``FOLDER/refined.pt`` every few minutes;
``--resume`` goes on from there.
docs/ADAPTER.md says why and with what effect.

A step takes about 60 sections of three to five languages, some of them neighbours in a book. Of each there is
one passage in one language and up to three questions in different ones, since questions are short and cost
little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import pickle
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapter_books
import adapter_corpus
import numpy as np
from adapter_corpus import Section, Text
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

from indexer.embed import bundled
from indexer.embed.adapter import Adapter, Factors, pack
from indexer.embed.folder import CONFIG, TOKENIZER, WEIGHTS, ModelFolder
from indexer.embed.space import LanguageSpace, compute_profile
from indexer.embed.tokenized import batches
from indexer.embed.tokens import clean, open_tokenizer
from indexer.embed.transformer import TransformerEncoder

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("refine_adapter")

SOURCES = {"man": 0.25, "lo": 0.3, "gnome": 0.08, "kde": 0.15, "gimp": 0.12, "ddtp": 0.1}
# These have no paragraphs that match in all languages.
_TITLES_ONLY = frozenset({"man", "ddtp"})
_MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_SAVE_EVERY_S = 240.0


@dataclass(frozen=True)
class Options:
    """How to train; the values are those that the adapter in the repository was refined with.

    Attributes:
        minutes: How long; the rate falls with the time that has passed.
        rank: Rank of the change to each matrix, beside the one that the adapter began with.
        first: First layer that changes.
        share: How much of what was learnt is added. Half of it keeps nearly all that is gained across
            languages and loses half of what is lost within one (Wortsman et al., "Robust fine-tuning of
            zero-shot models", CVPR 2022).
        sections: Sections a step, beside `code` descriptions of functions.
        questions: Most questions of a section.
        own: How often one of them is in the passage's own language.
        align: Weight of a question finding the same one in other languages among all questions.
        backwards: Weight of finding the question by the passage.
        distill: Weight of keeping the similarities that texts of one language had.
        earlier: Passages of earlier steps that are wrong answers, too.
    """

    seed: int = 1
    minutes: float = 36.0
    warm_up: int = 25
    rate: float = 4e-4
    rank: int = 32
    first: int = 3
    share: float = 0.5
    sections: int = 56
    code: int = 5
    questions: int = 3
    own: float = 0.4
    temperature: float = 0.05
    backwards: float = 0.5
    align: float = 0.3
    distill: float = 0.2
    earlier: int = 512
    query_tokens: int = 48
    passage_tokens: int = 112


@dataclass(frozen=True)
class Item:
    """A passage and questions that it answers, each text with its language."""

    questions: tuple[tuple[str, str], ...]
    passage: tuple[str, str]
    topic: str
    title: str


class Items:
    """Draws what a step learns from: always the same for the same sections and seed."""

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

    def batch(self, count: int, cluster: int = 4) -> list[Item]:
        """Draw `count` different sections, up to `cluster` of them neighbours."""
        wanted: list[str] = []
        size = self.random.choice((3, 4, 5))
        while len(wanted) < size:
            lang = self.random.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            if lang not in wanted:
                wanted.append(lang)
        drawn: dict[str, Item] = {}
        there = [name for name in SOURCES if self.sections[name]]
        while len(drawn) < count:
            source = self.sections[self.random.choices(there, [SOURCES[name] for name in there])[0]]
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


class Network:
    """multilingual-e5-small in bfloat16, with a low-rank change beside each matrix of its upper layers.

    Of its own rather than transformers', because half the time there goes into attention's way back on a CPU,
    and because weights that already hold their change need one product a matrix instead of three.

    Args:
        folder: The published model.
        start: Added to the weights for good.
        rank: Of the changes.
        first: First layer that has them.
    """

    def __init__(self, folder: Path, start: Adapter, rank: int, first: int) -> None:
        import torch
        from safetensors.numpy import load_file

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self._heads, self._eps = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
        weights = load_file(folder / WEIGHTS)
        start.check({name: array.shape for name, array in weights.items()})

        def get(name: str) -> torch.Tensor:
            (array,) = [*start.add(name, iter([weights[name]]))]
            return torch.from_numpy(np.array(array))

        def normal(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return get(f"{name}.weight").bfloat16(), get(f"{name}.bias").bfloat16()

        self._words = get("embeddings.word_embeddings.weight").bfloat16()
        types = get("embeddings.token_type_embeddings.weight")[0]
        self._places = (get("embeddings.position_embeddings.weight") + types).bfloat16()
        self._first_normal = normal("embeddings.LayerNorm")
        self.changes: dict[str, Any] = {}
        self._layers = []
        for number in range(int(config["num_hidden_layers"])):
            name = f"encoder.layer.{number}"
            layer: dict[str, Any] = {
                norm: normal(f"{name}.{norm}") for norm in ("attention.output.LayerNorm", "output.LayerNorm")
            }
            for matrix in _MATRICES:
                weight, bias = get(f"{name}.{matrix}.weight"), get(f"{name}.{matrix}.bias")
                layer[matrix] = changed = _changed()(weight, bias, rank if number >= first else 0)
                if number >= first:
                    self.changes[f"{name}.{matrix}.weight"] = changed
            self._layers.append((number >= first, layer))

    def parameters(self) -> list[torch.Tensor]:
        """What is learnt."""
        return [weight for change in self.changes.values() for weight in (change.a, change.b)]

    def merge(self, *, learnt: bool = True) -> None:
        """Make the weights those with what was `learnt` by now, or those of the beginning."""
        for change in self.changes.values():
            change.merge(learnt)

    def __call__(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Unit vectors, float32, of token ids."""
        import torch
        from torch.nn import functional

        width = max(map(len, texts))
        ids = torch.ones((len(texts), width), dtype=torch.long)
        mask = torch.zeros((len(texts), width))
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        hidden = self._words[ids] + self._places[:width]
        weight, bias = self._first_normal
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], weight, bias, self._eps)
        hidden_by = ((1 - mask) * -1e4).repeat_interleave(self._heads, 0)[:, None, :]
        learns = torch.is_grad_enabled()
        for changes, layer in self._layers:
            with torch.set_grad_enabled(learns and changes):
                hidden = self._layer(hidden, layer, hidden_by)
        hidden = hidden.float()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vectors: torch.Tensor = functional.normalize(mean, dim=1)
        return vectors

    def _layer(self, hidden: torch.Tensor, layer: Mapping[str, Any], hidden_by: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        count, width, size = hidden.shape

        def heads(name: str) -> torch.Tensor:
            split = layer[f"attention.self.{name}"](hidden).view(count, width, self._heads, -1)
            rows: torch.Tensor = split.transpose(1, 2).reshape(count * self._heads, width, -1).float()
            return rows

        query = heads("query")
        scores = torch.baddbmm(hidden_by, query / math.sqrt(query.shape[-1]), heads("key").transpose(1, 2))
        seen = torch.bmm(scores.softmax(-1), heads("value")).bfloat16()
        seen = seen.view(count, self._heads, width, -1).transpose(1, 2).reshape(count, width, size)
        weight, bias = layer["attention.output.LayerNorm"]
        hidden = hidden + layer["attention.output.dense"](seen)
        hidden = functional.layer_norm(hidden, (size,), weight, bias, self._eps)
        weight, bias = layer["output.LayerNorm"]
        hidden = hidden + layer["output.dense"](functional.gelu(layer["intermediate.dense"](hidden)))
        return functional.layer_norm(hidden, (size,), weight, bias, self._eps)


def _changed() -> Callable[..., Any]:
    """The class of a matrix with a change; made here because torch is imported late."""
    import torch

    class Product(torch.autograd.Function):
        """Times a matrix that holds its change; the way back leads to the change's factors alone."""

        @staticmethod
        def forward(
            ctx: Any,
            inputs: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor,
            a: torch.Tensor,
            b: torch.Tensor,
        ) -> torch.Tensor:
            ctx.save_for_backward(inputs, weight, a, b)
            return torch.nn.functional.linear(inputs, weight, bias)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            inputs, weight, a, b = ctx.saved_tensors
            outer = gradients[0].reshape(-1, weight.shape[0])
            rows = inputs.reshape(-1, weight.shape[1])
            inward = (outer @ weight).view(inputs.shape) if ctx.needs_input_grad[0] else None
            to_b = outer.T @ (rows @ a.to(rows.dtype).T)
            to_a = (outer @ b.to(rows.dtype)).T @ rows
            return inward, None, None, to_a.float(), to_b.float()

    class Changed:
        def __init__(self, weight: torch.Tensor, bias: torch.Tensor, rank: int) -> None:
            self.first, self._bias = weight, bias.bfloat16()
            self.weight = weight.bfloat16()
            self._fixed = rank == 0
            scale = 1 / math.sqrt(weight.shape[1])
            self.a = (torch.randn(rank, weight.shape[1]) * scale).requires_grad_()
            self.b = torch.zeros(weight.shape[0], rank, requires_grad=True)

        def merge(self, learnt: bool) -> None:
            with torch.no_grad():
                self.weight = (self.first + self.b @ self.a if learnt else self.first).bfloat16()

        def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
            if self._fixed:
                return torch.nn.functional.linear(inputs, self.weight, self._bias)
            return Product.apply(inputs, self.weight, self._bias, self.a, self.b)  # type: ignore[no-any-return, no-untyped-call]

    return Changed


class Refiner:
    """The steps that fit a network's changes.

    Args:
        folder: The published model.
        start: The adapter to begin with.
        profile: The language profile of the model with that adapter.
        options: How to train.
    """

    def __init__(self, folder: ModelFolder, start: Adapter, profile: bytes, options: Options) -> None:
        import torch

        torch.manual_seed(options.seed)
        # Two threads with one core each wait less for one another than one operation on both cores.
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(2)
        self.options, self._start, self._model = options, start, folder.model
        self._tokenizer = open_tokenizer(folder.path / TOKENIZER)
        self.network = Network(folder.path, start, options.rank, options.first)
        self._weights = self.network.parameters()
        self._optimizer = torch.optim.AdamW(self._weights, options.rate, betas=(0.9, 0.98), weight_decay=0.01)
        space = LanguageSpace(profile)
        self._directions = torch.from_numpy(space._directions)
        self._centres = (torch.from_numpy(space._query_centre), torch.from_numpy(space._passage_centre))
        self._earlier, self._earlier_topics = torch.zeros(0, len(space._query_centre)), list[str]()
        self.steps, self.done = 0, 0.0

    def step(self, items: Sequence[Item], code: Sequence[Item]) -> tuple[float, ...]:
        """Learn from a batch.

        Returns:
            The contrastive loss both ways, the one among questions, the drift, and how many questions found
            their passage first.
        """
        import torch
        from torch.nn.functional import cross_entropy, softplus

        options, began = self.options, time.monotonic()
        self._set_rate()
        every = [*items, *code]
        asked = [(text, lang, at) for at, item in enumerate(every) for text, lang in item.questions]
        sides = (
            self._tokens(self._model.query_prefix, [text for text, _, _ in asked], options.query_tokens),
            self._tokens(
                self._model.passage_prefix, [item.passage[0] for item in every], options.passage_tokens
            ),
        )
        vectors, outputs, leaves = self._encode_parts(sides)
        questions, passages = self._neutral(vectors[0], 0), self._neutral(vectors[1], 1)
        of = torch.tensor([at for _, _, at in asked])
        similar = questions @ passages.T
        same_title = torch.tensor(
            [[i is not j and i.title == j.title for j in every] for i in every], dtype=torch.bool
        )[of]
        scores = (similar / options.temperature).masked_fill(same_title, -1e4)
        same_topic = torch.tensor(
            [[every[at].topic == topic for topic in self._earlier_topics] for _, _, at in asked],
            dtype=torch.bool,
        )
        old = (questions @ self._earlier.T / options.temperature).masked_fill(same_topic, -1e4)
        # Each passage counts the same, however many questions it has.
        weights = 1 / torch.bincount(of, minlength=len(every))[of].float()
        weights /= weights.sum()
        found = torch.cat([scores, old], 1)
        forwards = (cross_entropy(found, of, reduction="none") * weights).sum()
        mine = of[None] == torch.arange(len(every))[:, None]
        others = scores.T.masked_fill(mine, -1e4).logsumexp(1)[of]
        backwards = (softplus(others - scores[torch.arange(len(of)), of]) * weights).sum()
        alike = self._alike(questions, of, same_title)
        drift = self._drift(asked, every, sides, similar)
        loss = forwards + options.backwards * backwards + options.align * alike + options.distill * drift
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        ways = zip(outputs, leaves, strict=True)
        list(self._pool.map(lambda way: torch.autograd.backward(way[0], way[1].grad), ways))
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self.network.merge()
        kept = passages.detach()[: len(items)]
        self._earlier = torch.cat([kept, self._earlier])[: options.earlier]
        self._earlier_topics = [*(item.topic for item in items), *self._earlier_topics][: options.earlier]
        self.steps += 1
        self.done += (time.monotonic() - began) / 60 / options.minutes
        first = (found.argmax(1) == of).float().mean()
        return tuple(value.item() for value in (forwards, backwards, alike, drift, first))

    def _set_rate(self) -> None:
        cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, self.done)))
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.rate * min(1.0, (self.steps + 1) / self.options.warm_up) * cosine

    def _alike(self, questions: torch.Tensor, of: torch.Tensor, same_title: torch.Tensor) -> torch.Tensor:
        """How badly a question finds itself in other languages among all questions."""
        import torch
        from torch.nn.functional import softplus

        scores = questions @ questions.T / self.options.temperature
        together = of[:, None] == of[None]
        wrong = scores.masked_fill(together | same_title[:, of], -1e4).logsumexp(1)
        left, right = (together & ~torch.eye(len(of), dtype=torch.bool)).nonzero(as_tuple=True)
        return softplus(wrong[left] - scores[left, right]).mean() if len(left) else scores.new_zeros(())

    def _drift(
        self,
        asked: Sequence[tuple[str, str, int]],
        every: Sequence[Item],
        sides: tuple[list[list[int]], list[list[int]]],
        similar: torch.Tensor,
    ) -> torch.Tensor:
        """How far similarities within a language, and to code, have moved from where they began."""
        import torch

        own = [k for k, (_, lang, at) in enumerate(asked) if every[at].passage[1] in (lang, CODE)][-28:]
        if not own:
            return similar.new_zeros(())
        answers = [asked[k][2] for k in own]
        self.network.merge(learnt=False)
        with torch.no_grad():
            before = [
                self._neutral(self._encode([side[at] for at in places]), number)
                for number, (side, places) in enumerate(zip(sides, (own, answers), strict=True))
            ]
        self.network.merge()
        one = [[every[at].passage[1] in (asked[k][1], CODE) for at in answers] for k in own]
        moved = (similar[own][:, answers] - before[0] @ before[1].T) / self.options.temperature
        return (moved[torch.tensor(one)] ** 2).mean()

    def _tokens(self, prefix: str, texts: Sequence[str], longest: int) -> list[list[int]]:
        self._tokenizer.enable_truncation(longest)
        return [e.ids for e in self._tokenizer.encode_batch_fast([clean(prefix + text) for text in texts])]

    def _encode(self, texts: list[list[int]]) -> torch.Tensor:
        import torch

        def forward(batch: list[int]) -> torch.Tensor:
            with torch.no_grad():  # holds for one thread only
                return self.network([texts[at] for at in batch])

        order = list(batches([len(text) for text in texts], 2048))
        rows = torch.cat(list(self._pool.map(forward, order)))
        return rows[torch.argsort(torch.tensor([at for batch in order for at in batch]))]

    def _encode_parts(
        self, sides: Sequence[list[list[int]]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Vectors of both sides; beside them the outputs of each part and what their gradients arrive at."""
        import torch

        parts = [
            (side, batch)
            for side, texts in enumerate(sides)
            for batch in batches([len(text) for text in texts], 1600)
        ]
        parts.sort(key=lambda part: -sum(len(sides[part[0]][at]) for at in part[1]))
        outputs = list(
            self._pool.map(lambda part: self.network([sides[part[0]][at] for at in part[1]]), parts)
        )
        leaves = [output.detach().requires_grad_() for output in outputs]
        vectors = []
        for side in range(len(sides)):
            order = [at for which, batch in parts if which == side for at in batch]
            mine = torch.cat([leaf for leaf, part in zip(leaves, parts, strict=True) if part[0] == side])
            vectors.append(mine[torch.argsort(torch.tensor(order))])
        return vectors, outputs, leaves

    def _neutral(self, vectors: torch.Tensor, side: int) -> torch.Tensor:
        """As `LanguageSpace.queries` (side 0) and `LanguageSpace.passages` (side 1), with a gradient."""
        import torch

        moved = vectors - self._centres[side]
        moved = moved - (moved @ self._directions.T) @ self._directions
        return torch.nn.functional.normalize(moved, dim=1)

    def factors(self) -> dict[str, Factors]:
        """What was learnt in this stage, as `Adapter.factors`."""
        return {
            name: (change.a.detach().numpy().copy(), change.b.detach().numpy().copy())
            for name, change in self.network.changes.items()
        }

    def save(self, file: Path, drawing: object) -> None:
        """Keep everything that is needed to go on, beside the state of what draws the batches."""
        import torch

        state = {
            "weights": [weight.detach() for weight in self._weights],
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "done": self.done,
            "drawing": drawing,
        }
        new = file.with_suffix(".new")
        torch.save(state, new)
        new.replace(file)

    def resume(self, file: Path) -> Any:
        """Go on from what `save` kept; returns its `drawing`."""
        import torch

        state = torch.load(file, weights_only=False)  # a file of our own
        with torch.no_grad():
            for weight, kept in zip(self._weights, state["weights"], strict=True):
                weight.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps, self.done = state["steps"], state["done"]
        self.network.merge()
        return state["drawing"]


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


def _sections(work: Path) -> list[Section]:
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


def main() -> None:
    """Fetch, train, write."""
    parser = argparse.ArgumentParser(description="Refine the adapter of the bundled language model.")
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and the model (6 GB)")
    parser.add_argument("--start", type=Path, required=True, help="the adapter that train_adapter.py wrote")
    parser.add_argument("--out", type=Path, default=bundled.ADAPTER, help="file to write")
    parser.add_argument("--minutes", type=float, default=Options.minutes)
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier run has kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = Options(minutes=arguments.minutes)
    items = Items(_sections(arguments.work), options)
    _log.info("%s sections", {name: len(found) for name, found in items.sections.items()})
    code = [
        Item(((pair.query, "en"),), (pair.passage, CODE), pair.topic, pair.query)
        for pair in functions(options.seed)
    ]
    start = Adapter(arguments.start.read_bytes())
    started = published(arguments.work / "started", start)
    profile = compute_profile(TransformerEncoder(started, device="cpu"))
    refiner = Refiner(published(arguments.work / "published"), start, profile, options)
    kept = arguments.work / "refined.pt"
    if arguments.resume:
        items.random.setstate(refiner.resume(kept))
    recent: list[tuple[float, ...]] = []
    saved = time.monotonic()
    while refiner.done < 1:
        losses = refiner.step(items.batch(options.sections), items.random.sample(code, options.code))
        recent = [*recent[-19:], losses]
        if refiner.steps % 20 == 0:
            means = " ".join(f"{mean:.3f}" for mean in np.mean(recent, axis=0))
            _log.info("step %d, %.0f%%: %s", refiner.steps, 100 * refiner.done, means)
        if time.monotonic() - saved > _SAVE_EVERY_S or refiner.done >= 1:
            refiner.save(kept, items.random.getstate())
            saved = time.monotonic()
    notes = {
        "model": bundled.DATA_SHA256,
        "options": json.dumps(asdict(options), sort_keys=True),
        "start": hashlib.sha256(arguments.start.read_bytes()).hexdigest(),
        "packages": json.dumps(adapter_corpus.versions(arguments.work), sort_keys=True),
    }
    data = pack(join(start.factors, refiner.factors(), options.share), notes)
    arguments.out.write_bytes(data)
    _log.info("%s: %d bytes, SHA-256 %s", arguments.out, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    # Read when libgomp is loaded: its threads else wait for one another in a busy loop.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main()
