"""The keys of ``engine = { kind = "simulated", ... }``."""

from __future__ import annotations

from dataclasses import dataclass

from callboard.transports.errors import ConfigError, did_you_mean

NUMBERS = (
    "first_token_ms", "per_token_ms", "prefill_us_per_token", "decode_ms", "decode_us_per_request",
    "context_us_per_block", "jitter",
)  # fmt: skip
COUNTS = {
    "answer_tokens": 1, "context_tokens": 1, "vocabulary": 2, "blocks": 0, "block_size": 1, "max_running": 1,
    "max_batch_tokens": 1, "dp_ranks": 1, "kv_bytes_per_token": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """How the simulated engine behaves. Raises `ConfigError` with every problem."""

    model: str = "simulated"
    input: str = "text"
    """``text``: words for a prompt of words; ``tokens``: ids for ids."""
    vocabulary: int = 32_000
    """Ids are below this; for ``input = "tokens"``."""
    tokenizer: str = ""
    """Directory of the tokenizer that the frontend uses; for ``input = "tokens"``."""
    first_token_ms: float = 0.0
    """From a request to its first token; only without blocks."""
    per_token_ms: float = 0.0
    """From each token to the next; only without blocks."""
    answer_tokens: int = 16
    """Length of an answer whose request sets no ``max_tokens``."""
    context_tokens: int = 131_072
    """Prompt and answer together."""
    seed: int = 0
    """Of the jitter; the words depend on the requests alone."""

    blocks: int = 0
    """KV blocks of each rank; 0: no cache, no batches, no steps."""
    block_size: int = 16
    max_running: int = 256
    """Requests of a rank that run at once."""
    max_batch_tokens: int = 8192
    """Tokens that one step computes at most."""
    prefill_us_per_token: float = 0.0
    decode_ms: float = 0.0
    """Each step that makes tokens of answers takes this,"""
    decode_us_per_request: float = 0.0
    """and this for each request in it,"""
    context_us_per_block: float = 0.0
    """and this for each block that they attend to."""
    jitter: float = 0.0
    """Steps take up to this share longer or shorter, by the seed."""
    dp_ranks: int = 1
    kv_events: bool = True
    role: str = "both"
    kv_bytes_per_token: int = 0
    transfer_gb_per_s: float = 64.0
    """How fast computed prompts come from a prefill worker."""

    def __post_init__(self) -> None:
        problems = [
            f"engine.{name} is {value!r}; it must be a number from 0 to 600000"
            for name in NUMBERS
            if not _is_number(value := getattr(self, name)) or not 0 <= value <= 600_000
        ]
        problems += [
            f"engine.{name} is {value!r}; it must be a whole number, at least {least}"
            for name, least in COUNTS.items()
            if type(value := getattr(self, name)) is not int or value < least
        ]
        for name, known in (("input", ("text", "tokens")), ("role", ("both", "prefill", "decode"))):
            if (value := getattr(self, name)) not in known:
                near = did_you_mean(str(value), known)
                problems.append(f"engine.{name} is {value!r}; it must be one of {', '.join(known)}{near}")
        if not isinstance(self.model, str) or not self.model:
            problems.append(f"engine.model is {self.model!r}; it must be a name")
        if not _is_number(self.transfer_gb_per_s) or not self.transfer_gb_per_s > 0:
            problems.append(f"engine.transfer_gb_per_s is {self.transfer_gb_per_s!r}; it must be above 0")
        if not isinstance(self.tokenizer, str):
            problems.append(f"engine.tokenizer is {self.tokenizer!r}; it must be a directory")
        if type(self.seed) is not int:
            problems.append(f"engine.seed is {self.seed!r}; it must be a whole number")
        if type(self.kv_events) is not bool:
            problems.append(
                f"engine.kv_events is {self.kv_events!r}; it must be true or false, without quotes"
            )
        problems += self._together()
        if problems:
            raise ConfigError(problems)

    def _together(self) -> list[str]:
        problems = []
        if self.blocks and self.is_paced:
            problems.append(
                "engine.first_token_ms and per_token_ms are for engines without blocks; with blocks use"
                " prefill_us_per_token and decode_ms"
            )
        if self.role != "both" and not self.blocks:
            problems.append(f"engine.role is {self.role!r}, which needs blocks: set engine.blocks")
        return problems

    @property
    def is_paced(self) -> bool:
        """True if a token ever waits, in an engine without blocks."""
        return any(_is_number(pace) and pace > 0 for pace in (self.first_token_ms, self.per_token_ms))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
