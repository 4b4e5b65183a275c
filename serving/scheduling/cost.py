"""The cost of placing a request on a rank, and the choice among costs. Pure.

The formula is Dynamo's (its router's documentation, version 1.6), without the terms for caches in host memory and on
disk, of which no event of ours tells::

    credit     = overlap_score_credit * decay * overlap_blocks
    decay      = 1 / (1 + overlap_score_credit_decay * excess_prefill_blocks / request_blocks)
    prefill    = max(0, raw_prefill_blocks - credit)
    cost       = prefill_load_scale * prefill + decode_blocks + decode_active_request_weight * active_requests

``raw_prefill_blocks`` are the blocks of this prompt and of those that wait to be computed there, ``decode_blocks`` the
blocks that all requests there would hold with this one. With the defaults a cost is "blocks to compute, and blocks
held". ``excess_prefill_blocks`` is what waits there beyond the least that waits anywhere among the candidates: Dynamo
does not say what it is measured from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from random import Random
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The knobs of the formula."""

    overlap_score_credit: float = 1.0
    overlap_score_credit_decay: float = 0.0
    prefill_load_scale: float = 1.0
    decode_active_request_weight: float = 0.0


def cost(
    weights: Weights,
    *,
    request_blocks: float,
    waiting_blocks: float,
    least_waiting_blocks: float,
    overlap_blocks: float,
    decode_blocks: float,
    active_requests: int,
) -> float:
    """Return the cost of one rank.

    >>> cost(Weights(), request_blocks=10, waiting_blocks=4, least_waiting_blocks=0, overlap_blocks=6,
    ...      decode_blocks=3, active_requests=2)
    11.0
    """
    decay = 1.0
    if weights.overlap_score_credit_decay and request_blocks:
        excess = max(0.0, waiting_blocks - least_waiting_blocks)
        decay = 1.0 / (1.0 + weights.overlap_score_credit_decay * excess / request_blocks)
    credit = weights.overlap_score_credit * decay * overlap_blocks
    prefill = max(0.0, request_blocks + waiting_blocks - credit)
    return (
        weights.prefill_load_scale * prefill
        + decode_blocks
        + weights.decode_active_request_weight * active_requests
    )


def cheapest(costs: Mapping[K, float], temperature: float, rng: Random) -> K:
    """Return one of the keys: the least cost, or at a ``temperature`` above 0 one drawn by its cost.

    Equal costs are drawn from: routers that think alike must not all choose the same. With a temperature the weights
    are ``exp(-(cost - least) / (range * temperature))``. ``costs`` must not be empty.
    """
    least = min(costs.values())
    if temperature <= 0:
        return _any([key for key, value in costs.items() if value == least], rng)
    spread = max(costs.values()) - least
    if spread <= 0:
        return _any(list(costs), rng)
    weights = [exp(-(value - least) / (spread * temperature)) for value in costs.values()]
    return rng.choices(list(costs), weights)[0]


def _any(keys: Sequence[K], rng: Random) -> K:
    return keys[0] if len(keys) == 1 else keys[rng.randrange(len(keys))]
