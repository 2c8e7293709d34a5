"""Measures what refine_adapter.py learnt on what adapter_pack.py packed, and joins it with its beginning.

``python packaging/adapter_measure.py --pack PACK --learnt FILE --share 0.5 0.7 1 --json FIGURES`` needs no
more than training does. Vectors alone are compared, as docs/ADAPTER.md tells: headings of pages never
trained on, asked across and within languages in a library of all of them, with a bonus for passages in the
question's own language; the sample library; functions by their descriptions. ``--write ADAPTER`` writes the
last share joined with the adapter that training began with, reduced to ``--rank`` where that is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from adapter_network import Factors, Network, Options, parts_of, truncated
from adapter_pack import Pack, Task
from refine_adapter import (
    PASSAGE,
    QUERY,
    bare,
    join,
    packed_config,
    packed_weights,
    tokens_of,
    weights_of,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from indexer.embed.space import LanguageSpace

_log = logging.getLogger("adapter_measure")

Rows = npt.NDArray[np.float32]
BONUSES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.13)
# The one at which variants are compared: what the ranking gives passages in the question's own language.
_USUAL = 0.04
_ALONE = ("sample", "code")
_LONGEST = 512


class Vectors:
    """A network as the language profile wants an encoder."""

    def __init__(self, network: Network, tokenizer: Tokenizer) -> None:
        self._network, self._tokenizer = network, tokenizer

    def encode_queries(self, texts: Sequence[str]) -> Rows:
        """Vectors of questions (n, dim)."""
        return self._encode(QUERY, texts)

    def encode_passages(self, texts: Sequence[str]) -> Rows:
        """Vectors of passages (n, dim)."""
        return self._encode(PASSAGE, texts)

    def _encode(self, prefix: str, texts: Sequence[str]) -> Rows:
        import torch

        parts = parts_of(tokens_of(self._tokenizer, prefix, _LONGEST)(texts), self._network.device)
        rows = np.zeros((len(texts), 0), np.float32)
        with torch.no_grad():
            for part in parts:
                mine = self._network(part).cpu().numpy()
                if not rows.size:
                    rows = np.zeros((len(texts), mine.shape[1]), np.float32)
                rows[part.places] = mine
        return rows


def ranks(task: Task, asked: Rows, answers: Rows, bonus: float) -> npt.NDArray[np.int64]:
    """Of each question, how many files stand before the right one.

    Args:
        task: Which file is right, and the languages.
        asked: Vectors of the questions in the neutral space.
        answers: Those of the passages.
        bonus: What passages in the question's language are given.
    """
    spoken = np.array([lang for _, lang, _ in task.questions])
    written = np.array([lang for _, lang, _ in task.passages])
    scores = asked @ answers.T + np.float32(bonus) * (spoken[:, None] == written[None])
    files = np.array([file for _, _, file in task.passages])
    best = np.full((len(asked), int(files.max()) + 1), -np.inf, np.float32)
    np.maximum.at(best.T, files, scores.T)
    right = np.array([file for _, _, file in task.questions])
    mine = best[np.arange(len(right)), right]
    found: npt.NDArray[np.int64] = (best > mine[:, None]).sum(1)
    return found


def figures(places: npt.NDArray[np.int64]) -> list[float]:
    """hit@1, MRR@10 and recall@10."""
    if not len(places):
        return [0.0, 0.0, 0.0]
    found = (places == 0, np.where(places < 10, 1 / (places + 1), 0), places < 10)
    return [round(float(one.mean()), 4) for one in found]


def measure(tasks: Mapping[str, Task], vectors: Vectors, space: LanguageSpace) -> dict[str, Any]:
    """All figures of a network: by task, and the frontier, the mean over tasks by bonus."""
    result: dict[str, Any] = {"directions": len(space._directions)}
    frontier: dict[str, list[list[list[float]]]] = {}
    for name, task in tasks.items():
        asked = space.queries(vectors.encode_queries([text for text, _, _ in task.questions]))
        answers = space.passages(vectors.encode_passages([text for text, _, _ in task.passages]))
        if name in _ALONE:
            result[name] = figures(ranks(task, asked, answers, 0))
            continue
        written = {file: lang for _, lang, file in task.passages}
        own = np.array([lang == written[file] for _, lang, file in task.questions])
        for bonus in BONUSES:
            places = ranks(task, asked, answers, bonus)
            both = [figures(places[~own]), figures(places[own])]
            result[f"{name} {bonus}"] = both
            # Descriptions of packages are asked for in a way of their own.
            if name != "ddtp":
                frontier.setdefault(str(bonus), []).append(both)
    result["frontier"] = {b: np.round(np.mean(found, 0), 4).tolist() for b, found in frontier.items()}
    return result


def across_at(frontier: Mapping[str, Sequence[Sequence[float]]], within: float, figure: int) -> float:
    """What is found across languages where so much is found within them, between the measured bonuses.

    Args:
        frontier: Figures across and within by bonus.
        within: A figure within languages.
        figure: Which: 0 hit@1, 1 MRR@10, 2 recall@10.
    """
    points = sorted((both[1][figure], both[0][figure]) for both in frontier.values())
    return round(float(np.interp(within, [x for x, _ in points], [y for _, y in points])), 4)


def reduced(factors: Mapping[str, Factors], rank: int) -> tuple[dict[str, Factors], float]:
    """Factors of a lower rank, and which part of the change (of its Frobenius norm squared) that keeps."""
    found, whole, kept = {}, 0.0, 0.0
    for name, (a, b) in factors.items():
        # The change is b @ a = q (r @ s.T) p.T, and the middle is small.
        q, r = np.linalg.qr(b)
        p, s = np.linalg.qr(a.T)
        right, left = truncated(r @ s.T, rank)
        found[name] = (right @ p.T, q @ left)
        whole += float(((r @ s.T) ** 2).sum())
        kept += float(((left @ right) ** 2).sum())
    return found, kept / whole


def main() -> None:
    """Measure, and write."""
    bare()
    from indexer.embed.adapter import Adapter, pack
    from indexer.embed.space import LanguageSpace, compute_profile

    parser = argparse.ArgumentParser(description="Measure what was learnt.")
    parser.add_argument("--pack", type=Path, nargs="+", required=True)
    parser.add_argument("--learnt", type=Path, nargs="*", default=[], help="files of refine_adapter.py")
    parser.add_argument("--share", type=float, nargs="*", default=[0.5, 0.7, 1.0])
    parser.add_argument("--rank", type=int, default=0, help="reduce the joined adapter to a rank")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--most", type=int, default=0, help="at most so many passages of each task")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--write", type=Path, help="file for the last joined adapter")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    packed = Pack(arguments.pack)
    start = Adapter(packed.start())
    tasks = {
        name: few(task, arguments.most)
        for name, task in packed.tasks().items()
        if not arguments.tasks or name in arguments.tasks
    }
    tokenizer, config, rows = packed.tokenizer(), packed_config(packed), packed_weights(packed)
    shipped = LanguageSpace(packed.profile())
    variants = {"start": start.factors}
    for file in arguments.learnt:
        learnt = Adapter(file.read_bytes()).factors
        for share in arguments.share:
            variants[f"{file.stem} x {share}"] = join(start.factors, learnt, share)
    results: dict[str, Any] = {}
    for name, whole in variants.items():
        began = time.monotonic()
        factors, kept = whole, 1.0
        if arguments.rank and name != "start":
            factors, kept = reduced(whole, arguments.rank)
        data = pack(factors, {})
        fixed = Options(rank=0, first=int(config["num_hidden_layers"]))
        network = Network(weights_of(rows, Adapter(data)), config, fixed, arguments.device)
        vectors = Vectors(network, tokenizer)
        spaces = {"its own space": LanguageSpace(compute_profile(vectors))}  # type: ignore[arg-type]
        if name != "start":
            spaces["the old space"] = shipped
        for which, space in spaces.items():
            results[f"{name}, {which}"] = found = measure(tasks, vectors, space)
            found["kept"] = round(kept, 5)
            first = results["start, its own space"]
            if found["frontier"]:
                usual = first["frontier"][str(_USUAL)][1]
                at = [across_at(found["frontier"], usual[figure], figure) for figure in range(3)]
                found["across, with as much within as at first"] = at
                _log.info("%s, %s: across %s where within is %s", name, which, at, usual)
            _log.info("%s", {key: found[key] for key in ("frontier", *_ALONE) if key in found})
        _log.info("%s: %.0f s", name, time.monotonic() - began)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
        if arguments.write:
            arguments.write.write_bytes(data)
    if arguments.write:
        _log.info("%s: SHA-256 %s", arguments.write, hashlib.sha256(data).hexdigest())


def few(task: Task, most: int) -> Task:
    """The first files of a task, and what is asked of them."""
    if not most:
        return task
    return replace(
        task,
        passages=[one for one in task.passages if one[2] < most],
        questions=[one for one in task.questions if one[2] < most],
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
