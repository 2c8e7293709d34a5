"""Texts one behind the other instead of padded side by side.

A batch is one row of tokens with no padding. Positions begin anew with each text, and attention, which is the
only part of a transformer where tokens meet, is told where texts begin. Transformers lets the function of
attention be chosen by name (its AttentionInterface) and hands unknown keyword arguments on to it, so that its
own models run packed as they are; whether one really does is tried on each model before it is used so.

On CUDA the function is torch's own `varlen_attn` (Dao, "FlashAttention-2: Faster Attention with Better
Parallelism and Work Partitioning", 2023), which comes with torch. Elsewhere it takes one text after the
other: slower than padding, and the same numbers, which is how everything around it is tested without a GPU.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from indexer.embed.tokenized import Input

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

ATTENTION = "dragoman_packed"
# FlashAttention 2, as torch has it, runs from Ampere on, in half precision.
_FIRST_CAPABILITY = (8, 0)
# Two ways to compute the same in half precision are this near, and wrong positions or texts that see one
# another are not.
_SAME = 0.99
# Of the texts that packing is tried with, in tokens. The long ones leave windows of attention.
_TRIED = (3, 150, 1, 40, 1100, 7)
# Norms that are replaced must give the same to this relative error, in float32.
_SAME_NORM = 1e-5


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a packed batch on the host.

    Attributes:
        tokens: Rows of tokens, those that fill up included.
        texts: Texts, those that fill up included.
        longest: No text has more tokens.
    """

    tokens: int
    texts: int
    longest: int

    @property
    def size(self) -> int:
        """Numbers that describe such a batch; see `pack`."""
        return 3 * self.tokens + 2 * self.texts + 1


def shape_of(inputs: Sequence[Input]) -> Shape:
    """The shape of a batch without anything that fills up."""
    lengths = [len(one) for one in inputs]
    return Shape(sum(lengths), len(lengths), max(lengths))


def rounded(shape: Shape) -> Shape:
    """The next larger of the shapes that a CUDA graph is kept for.

    Tokens are rounded to an eighth of their power of two (12 % more at most, for they cost), texts and the
    longest text to powers of two (blocks of attention that find nothing to do end at once).
    """
    step = max(64, 1 << max(0, (shape.tokens - 1).bit_length() - 3))
    return Shape(
        -(-shape.tokens // step) * step,
        1 << max(3, (shape.texts - 1).bit_length()),
        1 << max(5, (shape.longest - 1).bit_length()),
    )


def packs(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group texts so that the sum of a group's tokens keeps to a budget.

    Args:
        lengths: Tokens of each text.
        budget: Most tokens of a group; a single longer text is a group.

    Yields:
        Positions in `lengths`; each comes once, the longest first.
    """
    group: list[int] = []
    total = 0
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if group and total + lengths[at] > budget:
            yield group
            group, total = [], 0
        group.append(at)
        total += lengths[at]
    if group:
        yield group


def pack(
    inputs: Sequence[Input], shape: Shape, out: npt.NDArray[np.int64], *, first_position: int, pad: int
) -> None:
    """Write a batch down as one array, so that one copy brings it to the device.

    Args:
        inputs: The texts.
        shape: As `shape_of` gives it, or larger: what is more is filled with tokens of no text and with
            texts of no tokens.
        out: Int64 (shape.size,): tokens, positions, text of each token (`shape.texts` for none), first token
            of each text and behind them the number of all tokens, tokens of each text that are not pooled.
        first_position: Number of a text's first position.
        pad: The token that fills up.
    """
    tokens, texts = shape.tokens, shape.texts
    lengths = np.fromiter((len(one) for one in inputs), np.int64, len(inputs))
    total = int(lengths.sum())
    ids, positions, rows, edges, unpooled = np.split(out, np.cumsum([tokens, tokens, tokens, texts + 1]))
    ids[:total] = np.concatenate([np.asarray(one.ids, np.int64) for one in inputs])
    ids[total:] = pad
    edges[0] = 0
    np.cumsum(lengths, out=edges[1 : len(inputs) + 1])
    edges[len(inputs) + 1 :] = total
    positions[:total] = np.arange(total) - np.repeat(edges[: len(inputs)], lengths) + first_position
    positions[total:] = first_position
    rows[:total] = np.repeat(np.arange(len(inputs)), lengths)
    rows[total:] = texts
    unpooled[: len(inputs)] = [one.unpooled for one in inputs]
    unpooled[len(inputs) :] = 0


def forward(model: Any, flat: torch.Tensor, shape: Shape, pooling: str) -> torch.Tensor:
    """The pooled vectors of a packed batch.

    Args:
        model: A transformer whose attention is `ATTENTION`.
        flat: What `pack` writes, on the model's device.
        shape: What it was written with.
        pooling: See `indexer.embed.folder.Model.pooling`.

    Returns:
        Float32 (shape.texts, dim times the number of poolings); rows of texts without tokens mean nothing.
    """
    _, _, rows, edges, unpooled = _parts(flat, shape)
    return pooled(states(model, flat, shape), rows, edges, unpooled, pooling)


def states(model: Any, flat: torch.Tensor, shape: Shape) -> torch.Tensor:
    """What the model makes of each token, (shape.tokens, dim); arguments as of `forward`."""
    ids, positions, _, edges, _ = _parts(flat, shape)
    cuts = edges.int()
    hidden: torch.Tensor = model(
        input_ids=ids[None],
        position_ids=positions[None],
        cu_seq_lens_q=cuts,
        cu_seq_lens_k=cuts,
        max_length_q=shape.longest,
        max_length_k=shape.longest,
    ).last_hidden_state[0]
    return hidden


def _parts(flat: torch.Tensor, shape: Shape) -> list[torch.Tensor]:
    """The five parts of what `pack` writes."""
    tokens, texts = shape.tokens, shape.texts
    cuts = np.cumsum([0, tokens, tokens, tokens, texts + 1, texts]).tolist()
    return [flat[first:last] for first, last in pairwise(cuts)]


def pooled(
    hidden: torch.Tensor, rows: torch.Tensor, edges: torch.Tensor, unpooled: torch.Tensor, pooling: str
) -> torch.Tensor:
    """Make one vector of the vectors of each text's tokens; `indexer.embed.transformer.pooled`, packed.

    Args:
        hidden: (tokens, dim), of any floating type; of tokens of no text it may hold anything.
        rows: Int64 (tokens,), the text of each token; as many as there are texts where it is of none.
        edges: Int64 (texts + 1,), where texts begin, and where the last one ends.
        unpooled: Int64 (texts,), tokens at the beginning of each text that are left out.
        pooling: See `indexer.embed.folder.Model.pooling`.

    Returns:
        Float32 (texts, dim times the number of poolings).
    """
    import torch

    first, texts = edges[:-1], len(edges) - 1
    length = edges[1:] - first
    # Where nothing is left the whole is pooled, for there is nothing else.
    skipped = torch.where(unpooled < length, unpooled, 0)
    last_token = hidden.shape[0] - 1
    vectors = []
    for mode in pooling.split("+"):
        if mode == "cls":
            vectors.append(hidden[(first + skipped).clamp(max=last_token)].float())
            continue
        if mode == "lasttoken":
            vectors.append(hidden[(edges[1:] - 1).clamp(min=0)].float())
            continue
        # One row more, for tokens of no text.
        at = torch.arange(len(rows), device=rows.device)
        position = at - torch.nn.functional.pad(first, (0, 1))[rows] + 1
        kept = (rows < texts) & (position > torch.nn.functional.pad(skipped, (0, 1))[rows])
        if mode == "max":
            highest = hidden.new_full((texts + 1, hidden.shape[1]), float("-inf"), dtype=torch.float32)
            values = hidden.float().masked_fill(~kept[:, None], float("-inf"))
            at_row = rows[:, None].expand_as(values)
            vectors.append(highest.scatter_reduce_(0, at_row, values, "amax")[:-1])
            continue
        weight = (kept * position if mode == "weightedmean" else kept).float()
        sums = hidden.new_zeros((texts + 1, hidden.shape[1]), dtype=torch.float32)
        # Put to zero rather than multiplied with it: it may be infinite.
        sums.index_add_(0, rows, hidden.float().masked_fill(~kept[:, None], 0) * weight[:, None])
        total = weight.new_zeros(texts + 1).index_add_(0, rows, weight).clamp(min=1e-9)[:, None]
        vectors.append((sums / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total))[:-1])
    return torch.cat(vectors, dim=1)


# --- attention ----------------------------------------------------------------------------------------


def register() -> None:
    """Make `ATTENTION` known to transformers. No mask belongs to it, so none is built."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in which each text sees only itself, as transformers calls it.

    Args:
        module: The layer; says whether it is causal.
        query: (1, heads, tokens, numbers a head).
        key: As `query`, with as many heads or a part of them.
        value: As `key`.
        attention_mask: Must be None.
        scaling: Of the products; None for one by the root of the numbers a head.
        dropout: None is done; models are in inference mode.
        sliding_window: A token sees those nearer than this, to the left and, where it is not causal, to the
            right.
        is_causal: In place of the layer's own word.
        cu_seq_lens_q: Int32 (texts + 1,), where texts begin, and where the last one ends.
        max_length_q: No text has more tokens.
        more: What other implementations want.

    Returns:
        (1, tokens, heads, numbers a head), undefined where a token is of no text; and no weights.

    Raises:
        NotImplementedError: The model wants what is not done here.
    """
    del dropout
    if attention_mask is not None or query.shape[0] != 1:
        raise NotImplementedError("a mask")
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if more.get(name) is not None:
            raise NotImplementedError(name)
    causal = bool(module.is_causal if is_causal is None else is_causal)
    causal = causal and getattr(module.config, "is_causal", True) is not False
    left = -1 if sliding_window is None else sliding_window - 1
    window = (left, 0 if causal else left)
    rows = _one_by_one if query.device.type in {"cpu", "mps"} else _flash
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    return rows(query, key, value, cu_seq_lens_q, max_length_q, scaling, window)[None], None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scale: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """(tokens, heads, numbers a head), on CUDA."""
    from torch.nn.attention.varlen import varlen_attn

    more: dict[str, Any] = {}
    if key.shape[1] != query.shape[1]:
        if _shares_heads():
            more["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    out: Any = varlen_attn(
        query, key, value, edges, edges, longest, longest, scale=scale, window_size=window, **more
    )
    rows: torch.Tensor = out
    return rows


@cache
def _shares_heads() -> bool:
    """Whether several heads of queries may share one of keys; torch 2.12 is the first that says so."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    edges: torch.Tensor,
    longest: int,
    scale: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """As `_flash`, where there is no kernel for it."""
    import torch

    del longest
    left, right = window
    out = torch.full_like(query, float("nan"))  # so that a test notices what depends on it
    for begin, end in pairwise(edges.tolist()):
        if begin == end:
            continue
        mask = None
        if left >= 0:
            # How far the key is to the right of the query.
            distance = torch.arange(end - begin)[None] - torch.arange(end - begin)[:, None]
            mask = ((distance >= -left) & (distance <= right)).to(query.device)
        q, k, v = (part[begin:end].transpose(0, 1)[None] for part in (query, key, value))
        seen = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and right == 0,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        out[begin:end] = seen[0].transpose(0, 1)
    return out


# --- whether a model can be packed --------------------------------------------------------------------


def possible(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for packed attention."""
    import torch

    return (
        device.type == "cuda"
        and torch.version.hip is None
        and dtype in {torch.bfloat16, torch.float16}
        and torch.cuda.get_device_capability(device) >= _FIRST_CAPABILITY
    )


def first_position(model: Any) -> int:
    """Number of a text's first position: RoBERTa's kin count from behind the padding's number."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(module.padding_idx) + 1
    return 0


def switch(model: Any, length: int, pad: int) -> bool:
    """Make a model attend packed, and see whether its vectors are what they were.

    Architectures that do not take positions, that place tokens by a table of distances or that ignore
    the function of attention are found out here, and stay as they are.

    Args:
        model: As transformers gives it, in inference mode, on its device.
        length: Longest input in tokens.
        pad: The token that stands where there is none.

    Returns:
        Whether it is packed from now on.

    Raises:
        RuntimeError: The device failed, or had too little memory.
    """
    import torch

    before = model.config._attn_implementation
    register()
    draw = np.random.default_rng(1)
    vocabulary = int(model.config.vocab_size)
    wanted = [Input(draw.integers(0, vocabulary, min(one, length)).tolist(), 0) for one in _TRIED]
    # A model may take the padding's token for padding wherever it is.
    inputs = [Input([at if at != pad else (pad + 1) % vocabulary for at in one.ids], 0) for one in wanted]
    shape = shape_of(inputs)
    flat = np.empty(shape.size, np.int64)
    device = model.device
    with torch.inference_mode():
        alone = [
            model(input_ids=torch.tensor([one.ids], device=device)).last_hidden_state[0] for one in inputs
        ]
        try:
            pack(inputs, shape, flat, first_position=first_position(model), pad=pad)
            model.set_attn_implementation(ATTENTION)
            together = states(model, torch.from_numpy(flat).to(device), shape)
            cuts = np.cumsum([0, *map(len, inputs)]).tolist()
            near = min(
                _cosine(together[first:last], one)
                for (first, last), one in zip(pairwise(cuts), alone, strict=True)
            )
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, NotImplementedError) as error:
            _log.info("%s is not packed: %s", type(model).__name__, error)
            near = 0.0
        if near >= _SAME:
            return True
    _log.info("%s is not packed: least cosine %.4f", type(model).__name__, near)
    model.set_attn_implementation(before)
    return False


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    import torch

    return torch.nn.functional.cosine_similarity(one.float().flatten(), other.float().flatten(), 0).item()


def fuse_norms(model: Any) -> int:
    """Replace norms that are computed in seven steps by torch's own, which reads and writes once.

    Only those that give the same numbers are replaced (Zhang and Sennrich, "Root Mean Square Layer
    Normalization", 2019); they keep their weights.

    Returns:
        How many were replaced.
    """
    import torch

    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight, eps = getattr(child, "weight", None), getattr(child, "variance_epsilon", None)
            if not type(child).__name__.endswith("RMSNorm") or weight is None or not isinstance(eps, float):
                continue
            norm = torch.nn.RMSNorm(weight.shape, eps, device="meta")
            norm.weight = weight
            if _same_norm(child, norm.eval(), weight.shape[-1]):
                setattr(parent, name, norm)
                replaced += 1
    return replaced


def _same_norm(one: Any, other: Any, width: int) -> bool:
    import copy

    import torch

    rows = torch.linspace(-3, 5, 4 * width).reshape(4, width).sin() * 7
    with torch.inference_mode():
        first, second = (copy.deepcopy(norm).to("cpu", torch.float32)(rows) for norm in (one, other))
    return bool(torch.allclose(first, second, rtol=_SAME_NORM, atol=_SAME_NORM))
