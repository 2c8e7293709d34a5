"""The encoder as the second stage trains it, what a step learns from, and the loss: on a CPU or on a GPU.

Needs torch and numpy alone, so that it also runs where nothing of the project is installed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Matrix = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]
Factors = tuple[Matrix, Matrix]

_MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
# So many tokens, padding included, go through the network at once: a core's cache, or a GPU's many cores.
_A_PART = {"cpu": 1600, "cuda": 65536}
# Kernels for attention on a GPU want widths that are divisible by this.
_WIDTH = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True)
class Options:
    """How to train; the values are those of the run on a CPU that docs/ADAPTER.md tells of.

    Attributes:
        minutes: How long; the rate falls with the time that has passed.
        steps: How many steps instead, where it is not 0.
        rank: Rank of the change to each matrix, beside the one that the adapter began with.
        full: Whether the matrices change in all their directions, to be reduced to `rank` when written.
        first: First layer that changes.
        share: How much of what was learnt is added. Half of it keeps nearly all that is gained across
            languages and loses half of what is lost within one (Wortsman et al., "Robust fine-tuning of
            zero-shot models", CVPR 2022).
        sections: Sections a step, beside `code` descriptions of functions.
        cluster: Most sections of a step that are neighbours in a book.
        languages: Fewest and most languages that the passages of a step prefer.
        questions: Most questions of a section.
        own: How often one of them is in the passage's own language.
        align: Weight of a question finding the same one in other languages among all questions.
        backwards: Weight of finding the question by the passage.
        distill: Weight of keeping the similarities that texts of one language had.
        held: From how many questions, and their passages, that is measured.
        earlier: Passages of earlier steps that are wrong answers, too.
        sources: How often a section is of which source.
    """

    seed: int = 1
    minutes: float = 36.0
    steps: int = 0
    warm_up: int = 25
    rate: float = 4e-4
    decay: float = 0.01
    rank: int = 32
    full: bool = False
    first: int = 3
    share: float = 0.5
    sections: int = 56
    code: int = 5
    cluster: int = 4
    languages: tuple[int, int] = (3, 5)
    questions: int = 3
    own: float = 0.4
    temperature: float = 0.05
    backwards: float = 0.5
    align: float = 0.3
    distill: float = 0.2
    held: int = 28
    earlier: int = 512
    query_tokens: int = 48
    passage_tokens: int = 112
    sources: tuple[tuple[str, float], ...] = (
        ("man", 0.25),
        ("lo", 0.3),
        ("gnome", 0.08),
        ("kde", 0.15),
        ("gimp", 0.12),
        ("ddtp", 0.1),
    )


@dataclass(frozen=True)
class Item:
    """A passage and questions that it answers, each text with its language."""

    questions: tuple[tuple[str, str], ...]
    passage: tuple[str, str]
    topic: str
    title: str


@dataclass(frozen=True)
class Part:
    """Texts of similar length, as token ids.

    Attributes:
        ids: (texts, width), filled up with 0.
        lengths: How many of them are the text's, (texts,).
        places: Which texts these are, (texts,).
    """

    ids: npt.NDArray[np.int32]
    lengths: Whole
    places: Whole


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        sides: The questions' parts, and the passages'.
        of: Passage of each question (questions,).
        titles: Equal where two passages have the same heading (passages,).
        topics: Equal where two passages are of the same section (passages,).
        fresh: So many passages, the first ones, are wrong answers in the following steps.
        own: Questions in their passage's own language (held,).
        alike: Whether a passage is in a question's language, or code (held questions, held passages).
        held: As `sides`, the questions that `own` names and their passages.
    """

    sides: tuple[list[Part], list[Part]]
    of: Whole
    titles: Whole
    topics: Whole
    fresh: int
    own: Whole
    alike: npt.NDArray[np.bool_]
    held: tuple[list[Part], list[Part]]


def parts_of(texts: Sequence[Sequence[int]], device: str) -> list[Part]:
    """Put texts of similar length together, the longest first."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    found, first = [], 0
    while first < len(order):
        step = _WIDTH[device]
        width = -(-len(texts[order[first]]) // step) * step
        most = first + max(1, _A_PART[device] // width)
        # Where parts are large, a long text would make hundreds of short ones as wide.
        shortest = (width - step) / 1.5 if device == "cuda" else 0
        mine = [at for at in order[first:most] if len(texts[at]) >= shortest] or [order[first]]
        ids = np.zeros((len(mine), width), np.int32)
        for row, at in enumerate(mine):
            ids[row, : len(texts[at])] = texts[at]
        lengths = np.array([len(texts[at]) for at in mine], np.int64)
        found.append(Part(ids, lengths, np.array(mine, np.int64)))
        first += len(mine)
    return found


def batch_of(
    items: Sequence[Item],
    code: Sequence[Item],
    tokens: tuple[Callable[[Sequence[str]], list[list[int]]], Callable[[Sequence[str]], list[list[int]]]],
    held: int,
    device: str,
) -> Batch:
    """Make items into what a step learns from.

    Args:
        items: Sections.
        code: Descriptions of functions and their sources.
        tokens: Token ids of questions, and of passages.
        held: `Options.held`.
        device: ``cpu`` or ``cuda``: how large parts are.
    """
    every = [*items, *code]
    asked = [(text, lang, at) for at, item in enumerate(every) for text, lang in item.questions]
    texts = (tokens[0]([text for text, _, _ in asked]), tokens[1]([item.passage[0] for item in every]))
    own = [at for at, (_, lang, of) in enumerate(asked) if every[of].passage[1] == lang or of >= len(items)][
        -held:
    ]
    answers = [asked[at][2] for at in own]
    spoken = np.array([asked[at][1] for at in own], dtype=np.str_)
    answered = np.array([every[of].passage[1] for of in answers], dtype=np.str_)
    source = np.array([of >= len(items) for of in answers], dtype=np.bool_)
    return Batch(
        sides=(parts_of(texts[0], device), parts_of(texts[1], device)),
        of=np.array([of for _, _, of in asked], np.int64),
        titles=_digests([item.title for item in every]),
        topics=_digests([item.topic for item in every]),
        fresh=len(items),
        own=np.array(own, np.int64),
        alike=(spoken[:, None] == answered[None]) | source[None],
        held=(
            parts_of([texts[0][at] for at in own], device),
            parts_of([texts[1][of] for of in answers], device),
        ),
    )


def _digests(names: Sequence[str]) -> Whole:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], np.int64)


class Network:
    """multilingual-e5-small in bfloat16, with a change beside each matrix of its upper layers.

    What is learnt is kept in float32. Of its own rather than transformers', because half the time there goes
    into attention's way back on a CPU, and because weights that already hold their change need one product a
    matrix instead of three.

    Args:
        weights: Of the model, under transformers' names, with the adapter to begin with added.
        config: The model's, as transformers has it.
        options: Rank of the changes, or whether they are full, and the first layer that has them.
        device: Where to compute.
        exact: Whether in float32, to compare.
    """

    def __init__(
        self,
        weights: Mapping[str, Matrix],
        config: Mapping[str, Any],
        options: Options,
        device: str = "cpu",
        *,
        exact: bool = False,
    ) -> None:
        import torch

        self.device = device
        self._dtype = torch.float32 if exact else torch.bfloat16
        self._heads, self._eps = int(config["num_attention_heads"]), float(config["layer_norm_eps"])

        def get(name: str) -> torch.Tensor:
            return torch.from_numpy(np.array(weights[name], np.float32)).to(device)

        def normal(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return get(f"{name}.weight").to(self._dtype), get(f"{name}.bias").to(self._dtype)

        self._words = get("embeddings.word_embeddings.weight").to(self._dtype)
        types = get("embeddings.token_type_embeddings.weight")[0]
        self._places = (get("embeddings.position_embeddings.weight") + types).to(self._dtype)
        self._first_normal = normal("embeddings.LayerNorm")
        self.changes: dict[str, Any] = {}
        self._layers = []
        for number in range(int(config["num_hidden_layers"])):
            name = f"encoder.layer.{number}"
            layer: dict[str, Any] = {
                norm: normal(f"{name}.{norm}") for norm in ("attention.output.LayerNorm", "output.LayerNorm")
            }
            learns = number >= options.first
            for matrix in _MATRICES:
                weight, bias = get(f"{name}.{matrix}.weight"), get(f"{name}.{matrix}.bias")
                rank = (options.rank, -1)[options.full] if learns else 0
                layer[matrix] = changed = changed_matrix()(weight, bias.to(self._dtype), rank)
                if learns:
                    self.changes[f"{name}.{matrix}.weight"] = changed
            self._layers.append((learns, layer))

    def parameters(self) -> list[torch.Tensor]:
        """What is learnt."""
        return [weight for change in self.changes.values() for weight in change.learnt]

    def merge(self, *, learnt: bool = True) -> None:
        """Make the weights those with what was `learnt` by now, or those of the beginning."""
        for change in self.changes.values():
            change.merge(learnt)

    def factors(self, rank: int) -> dict[str, Factors]:
        """What was learnt, as `Adapter.factors`; full changes are reduced to a rank."""
        found = {}
        for name, change in self.changes.items():
            learnt = [weight.detach().cpu().numpy().copy() for weight in change.learnt]
            found[name] = (learnt[0], learnt[1]) if len(learnt) == 2 else truncated(learnt[0], rank)
        return found

    def take(self, factors: Mapping[str, Factors]) -> None:
        """Go on from what `factors` gave.

        Raises:
            ValueError: They are of other matrices or of another rank.
        """
        import torch

        if factors.keys() != self.changes.keys():
            raise ValueError("these changes are of other layers")
        for name, (a, b) in factors.items():
            learnt = self.changes[name].learnt
            given = (a, b) if len(learnt) == 2 else (b @ a,)
            with torch.no_grad():
                for weight, array in zip(learnt, given, strict=True):
                    if weight.shape != array.shape:
                        raise ValueError(f"{name}: rank {len(a)} where {len(weight)} is trained")
                    weight.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)))
        self.merge()

    def __call__(self, part: Part) -> torch.Tensor:
        """Unit vectors, float32, in the order of the part."""
        import torch
        from torch.nn import functional

        width = part.ids.shape[1]
        ids = torch.from_numpy(part.ids).to(self.device, non_blocking=True).long()
        lengths = torch.from_numpy(part.lengths).to(self.device, non_blocking=True)
        mask = (torch.arange(width, device=self.device)[None] < lengths[:, None]).float()
        hidden = self._words[ids] + self._places[:width]
        weight, bias = self._first_normal
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], weight, bias, self._eps)
        hidden_by = (1 - mask) * -1e4
        learns = torch.is_grad_enabled()
        for changes, layer in self._layers:
            with torch.set_grad_enabled(learns and changes):
                hidden = self._layer(hidden, layer, hidden_by)
        hidden = hidden.float()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vectors: torch.Tensor = functional.normalize(mean, dim=1)
        return vectors

    def _layer(self, hidden: torch.Tensor, layer: Mapping[str, Any], hidden_by: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        query, key, value = (layer[f"attention.self.{name}"](hidden) for name in ("query", "key", "value"))
        attend = self._attend if self.device == "cpu" else self._attend_fused
        seen = attend(query, key, value, hidden_by)
        weight, bias = layer["attention.output.LayerNorm"]
        hidden = hidden + layer["attention.output.dense"](seen)
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], weight, bias, self._eps)
        weight, bias = layer["output.LayerNorm"]
        hidden = hidden + layer["output.dense"](functional.gelu(layer["intermediate.dense"](hidden)))
        return functional.layer_norm(hidden, hidden.shape[-1:], weight, bias, self._eps)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden_by: torch.Tensor
    ) -> torch.Tensor:
        import torch

        count, width, size = query.shape

        def heads(states: torch.Tensor) -> torch.Tensor:
            split = states.view(count, width, self._heads, -1)
            return split.transpose(1, 2).reshape(count * self._heads, width, -1).float()

        asked = heads(query)
        bias = hidden_by.repeat_interleave(self._heads, 0)[:, None, :]
        scores = torch.baddbmm(bias, asked / math.sqrt(asked.shape[-1]), heads(key).transpose(1, 2))
        seen = torch.bmm(scores.softmax(-1), heads(value)).to(self._dtype)
        return seen.view(count, self._heads, width, -1).transpose(1, 2).reshape(count, width, size)

    def _attend_fused(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden_by: torch.Tensor
    ) -> torch.Tensor:
        from torch.nn import functional

        count, width, size = query.shape

        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.view(count, width, self._heads, -1).transpose(1, 2)

        bias = hidden_by.to(self._dtype)[:, None, None, :].expand(count, self._heads, width, width)
        seen = functional.scaled_dot_product_attention(heads(query), heads(key), heads(value), attn_mask=bias)
        return seen.transpose(1, 2).reshape(count, width, size)


def truncated(change: Matrix, rank: int) -> Factors:
    """The nearest change of a rank (Eckart and Young, "The approximation of one matrix by another", 1936)."""
    left, sizes, right = np.linalg.svd(change, full_matrices=False)
    root = np.sqrt(sizes[:rank])
    return (root[:, None] * right[:rank]).astype(np.float32), (left[:, :rank] * root).astype(np.float32)


def changed_matrix() -> Callable[..., Any]:
    """The class of a matrix with a change; made here because torch is imported late."""
    import torch

    class Product(torch.autograd.Function):
        """Times a matrix that holds its change; the way back leads to the change alone."""

        @staticmethod
        def forward(
            ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *learnt: torch.Tensor
        ) -> torch.Tensor:
            ctx.save_for_backward(inputs, weight, *learnt)
            return torch.nn.functional.linear(inputs, weight, bias)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            inputs, weight, *learnt = ctx.saved_tensors
            outer = gradients[0].reshape(-1, weight.shape[0])
            rows = inputs.reshape(-1, weight.shape[1])
            inward = (outer @ weight).view(inputs.shape) if ctx.needs_input_grad[0] else None
            if len(learnt) == 1:
                return inward, None, None, (outer.T @ rows).float()
            a, b = learnt
            to_b = outer.T @ (rows @ a.to(rows.dtype).T)
            to_a = (outer @ b.to(rows.dtype)).T @ rows
            return inward, None, None, to_a.float(), to_b.float()

    class Changed:
        """A matrix that changes by a product of two, in all its directions (rank -1), or not (rank 0)."""

        def __init__(self, weight: torch.Tensor, bias: torch.Tensor, rank: int) -> None:
            self.first, self._bias = weight, bias
            self.weight = weight.to(bias.dtype)
            self.learnt: tuple[torch.Tensor, ...] = ()
            if rank < 0:
                self.learnt = (torch.zeros_like(weight).requires_grad_(),)
            elif rank:
                # Drawn on the CPU, so that the same seed begins alike everywhere.
                a = torch.randn(rank, weight.shape[1]) / math.sqrt(weight.shape[1])
                b = torch.zeros(weight.shape[0], rank, device=weight.device)
                self.learnt = (a.to(weight.device).requires_grad_(), b.requires_grad_())

        def merge(self, learnt: bool) -> None:
            with torch.no_grad():
                weight = self.first
                if learnt and self.learnt:
                    weight = weight + (
                        self.learnt[0] if len(self.learnt) == 1 else self.learnt[1] @ self.learnt[0]
                    )
                self.weight = weight.to(self._bias.dtype)

        def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
            if not self.learnt:
                return torch.nn.functional.linear(inputs, self.weight, self._bias)
            return Product.apply(inputs, self.weight, self._bias, *self.learnt)  # type: ignore[no-any-return, no-untyped-call]

    return Changed


class Loss:
    """How badly questions find their passages in the language-neutral space, and what was lost for it.

    Args:
        centres: Mean vectors of questions, and of passages (2, dim).
        directions: What is taken out of both (n, dim).
        options: The terms' weights.
        device: Where to compute.
    """

    def __init__(self, centres: Matrix, directions: Matrix, options: Options, device: str = "cpu") -> None:
        import torch

        self._options, self._device = options, device
        self._centres = torch.from_numpy(np.array(centres)).to(device)
        self._directions = torch.from_numpy(np.array(directions)).to(device)
        self._earlier = torch.zeros(0, centres.shape[1], device=device)
        self._earlier_topics = torch.zeros(0, dtype=torch.long, device=device)

    def neutral(self, vectors: torch.Tensor, side: int) -> torch.Tensor:
        """As `LanguageSpace.queries` (side 0) and `LanguageSpace.passages` (side 1), with a gradient."""
        import torch

        moved = vectors - self._centres[side]
        moved = moved - (moved @ self._directions.T) @ self._directions
        return torch.nn.functional.normalize(moved, dim=1)

    def __call__(
        self, batch: Batch, vectors: Sequence[torch.Tensor], before: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a step; its passages become wrong answers of the next ones.

        Args:
            batch: What the step learns from.
            vectors: Of questions and passages, as the network gives them.
            before: Those of `Batch.held`, as the network gave them in the beginning.

        Returns:
            The loss, and the contrastive loss both ways, the one among questions, the drift, and how many
            questions found their passage first.
        """
        import torch
        from torch.nn.functional import cross_entropy, softplus

        options = self._options

        def here(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array).to(self._device, non_blocking=True)

        questions, passages = (self.neutral(mine, side) for side, mine in enumerate(vectors))
        of, titles, topics = here(batch.of), here(batch.titles), here(batch.topics)
        count = len(titles)
        similar = questions @ passages.T
        same_title = (titles[:, None] == titles[None]) & ~torch.eye(
            count, dtype=torch.bool, device=self._device
        )
        scores = (similar / options.temperature).masked_fill(same_title[of], -1e4)
        old = (questions @ self._earlier.T / options.temperature).masked_fill(
            topics[of][:, None] == self._earlier_topics[None], -1e4
        )
        # Each passage counts the same, however many questions it has.
        weights = 1 / torch.bincount(of, minlength=count)[of].float()
        weights = weights / weights.sum()
        found = torch.cat([scores, old], 1)
        forwards = (cross_entropy(found, of, reduction="none") * weights).sum()
        mine = of[None] == torch.arange(count, device=self._device)[:, None]
        others = scores.T.masked_fill(mine, -1e4).logsumexp(1)[of]
        right = scores.gather(1, of[:, None])[:, 0]
        backwards = (softplus(others - right) * weights).sum()
        alike = self._alike(questions, of, same_title)
        drift = similar.new_zeros(())
        if len(batch.own):
            own = here(batch.own)
            then = self.neutral(before[0], 0) @ self.neutral(before[1], 1).T
            moved = (similar[own][:, of[own]] - then) / options.temperature
            one = here(batch.alike)
            drift = (moved**2 * one).sum() / one.sum()
        loss = forwards + options.backwards * backwards + options.align * alike + options.distill * drift
        kept = passages.detach()[: batch.fresh]
        self._earlier = torch.cat([kept, self._earlier])[: options.earlier]
        self._earlier_topics = torch.cat([topics[: batch.fresh], self._earlier_topics])[: options.earlier]
        first = (found.argmax(1) == of).float().mean()
        return loss, torch.stack([forwards, backwards, alike, drift, first]).detach()

    def _alike(self, questions: torch.Tensor, of: torch.Tensor, same_title: torch.Tensor) -> torch.Tensor:
        """How badly a question finds itself in other languages among all questions."""
        import torch
        from torch.nn.functional import softplus

        scores = questions @ questions.T / self._options.temperature
        together = of[:, None] == of[None]
        wrong = scores.masked_fill(together | same_title[of][:, of], -1e4).logsumexp(1)
        together.fill_diagonal_(False)
        # No list of pairs: how long it is a GPU's memory knows, and waiting for that would take time.
        pairs = together.sum()
        terms = softplus((wrong[:, None] - scores).masked_fill(~together, -1e4))
        return terms.sum() / torch.clamp(pairs, min=1)


class Refiner:
    """The steps that fit a network's changes."""

    def __init__(self, network: Network, loss: Loss, options: Options) -> None:
        import torch

        self.network, self.loss, self.options = network, loss, options
        self._map: Callable[..., Any] = map
        if network.device == "cpu":
            # Two threads with one core each wait less for one another than one operation on both cores.
            torch.set_num_threads(1)
            self._map = ThreadPoolExecutor(2).map
        self._weights = network.parameters()
        self._optimizer = torch.optim.AdamW(
            self._weights, options.rate, betas=(0.9, 0.98), weight_decay=options.decay
        )
        self.steps, self.done, self._since = 0, 0.0, 0
        self._last = time.monotonic()

    def step(self, batch: Batch) -> torch.Tensor:
        """Learn from a batch; returns the terms of `Loss`, which nothing has waited for."""
        import torch

        self._set_rate()
        self.network.merge(learnt=False)
        before = [self.vectors(parts) for parts in batch.held]
        self.network.merge()
        parts = [*batch.sides[0], *batch.sides[1]]
        outputs = list(self._map(self.network, parts))
        leaves = [output.detach().requires_grad_() for output in outputs]
        cut = len(batch.sides[0])
        vectors = [_in_order(batch.sides[0], leaves[:cut]), _in_order(batch.sides[1], leaves[cut:])]
        loss, terms = self.loss(batch, vectors, before)
        self._optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        ways = zip(outputs, leaves, strict=True)
        list(self._map(lambda way: torch.autograd.backward(way[0], way[1].grad), ways))
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self.network.merge()
        self.steps += 1
        self._since += 1
        now = time.monotonic()
        options = self.options
        passed = (now - self._last) / 60 / options.minutes
        self.done, self._last = self.done + (1 / options.steps if options.steps else passed), now
        return terms

    def start(self) -> None:
        """Count time from now on."""
        self._last = time.monotonic()

    def vectors(self, parts: Sequence[Part]) -> torch.Tensor:
        """Vectors of all texts of some parts, in the texts' order, without a gradient."""
        import torch

        def forward(part: Part) -> torch.Tensor:
            with torch.no_grad():  # holds for one thread only
                return self.network(part)

        return _in_order(parts, list(self._map(forward, parts)))

    def _set_rate(self) -> None:
        cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, self.done)))
        # After a start from weights alone the optimizer knows nothing yet, so it warms up again.
        warm = min(1.0, (self._since + 1) / self.options.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.rate * warm * cosine

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on."""
        return {
            "weights": [weight.detach() for weight in self._weights],
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "done": self.done,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        import torch

        with torch.no_grad():
            for weight, kept in zip(self._weights, state["weights"], strict=True):
                weight.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps, self.done, self._since = state["steps"], state["done"], self.options.warm_up
        self.network.merge()


def _in_order(parts: Sequence[Part], rows: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    if not parts:
        return torch.zeros(0, 0)
    order = np.argsort(np.concatenate([part.places for part in parts]))
    together = torch.cat(list(rows))
    return together[torch.from_numpy(order).to(together.device, non_blocking=True)]


def rounds(draw: Callable[[int], Batch], first: int, processes: int) -> Iterator[Batch]:
    """Batches from number `first` on, drawn ahead by so many processes, or one by one where it is 0."""
    import multiprocessing
    from collections import deque
    from itertools import count

    if not processes:
        yield from map(draw, count(first))
        return
    # Forked, so that all of them share the texts.
    global _draw
    _draw = draw
    ahead = 4 * processes
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        waiting = deque(pool.apply_async(_drawn, (number,)) for number in range(first, first + ahead))
        for number in count(first + ahead):
            yield waiting.popleft().get()
            waiting.append(pool.apply_async(_drawn, (number,)))


_draw: Callable[[int], Batch] | None = None


def _drawn(number: int) -> Batch:
    assert _draw is not None
    return _draw(number)
