"""How long a step takes. Pure."""

from __future__ import annotations

from random import Random

from .batching import Step
from .settings import SimulatedSettings


class Timing:
    """Seconds of a step, by the settings and a seed."""

    __slots__ = ("_rng", "_settings")

    def __init__(self, settings: SimulatedSettings, dp_rank: int) -> None:
        self._settings = settings
        self._rng = Random(f"{settings.seed}/{dp_rank}")

    def step_s(self, step: Step) -> float:
        """Return the time of a step."""
        settings = self._settings
        seconds = step.prefill_tokens * settings.prefill_us_per_token / 1e6
        if step.decodes:
            blocks = step.context_tokens / settings.block_size
            seconds += settings.decode_ms / 1e3 + step.decodes * settings.decode_us_per_request / 1e6
            seconds += blocks * settings.context_us_per_block / 1e6
        if settings.jitter:
            seconds *= 1 + settings.jitter * self._rng.uniform(-1, 1)
        return max(0.0, seconds)

    def transfer_s(self, tokens: int) -> float:
        """Return the time in which a computed prompt comes from another engine."""
        return tokens * self._settings.kv_bytes_per_token / (self._settings.transfer_gb_per_s * 1e9)
