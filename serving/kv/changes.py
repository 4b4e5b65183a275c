"""What workers say of their KV caches: the events of topic ``kv``, and what engines say before it is normalised.

A block is named by its *sequence hash*, which stands for the block and everything before it (see
`callboard.serving.kv.hashing`), so that the same prefix has the same name on every worker.
Hashes travel packed: unsigned 64-bit little-endian numbers, one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stored(Struct, frozen=True, array_like=True, tag="s"):
    """A run of blocks is in the cache, each the continuation of the one before it."""

    parent: int | None
    """Sequence hash of the block before the run; None if the run begins a prompt."""
    local: bytes
    """Local hash of each block (of its tokens alone), packed."""
    sequence: bytes
    """Sequence hash of each block, packed."""


class Removed(Struct, frozen=True, array_like=True, tag="r"):
    """These blocks are no longer in the cache."""

    sequence: bytes


class Cleared(Struct, frozen=True, array_like=True, tag="c"):
    """Nothing is in the cache any more."""


Change = Stored | Removed | Cleared


class KvChanges(Struct, frozen=True, array_like=True):
    """One event of topic ``kv``: changes of one data-parallel rank of one worker, in their order."""

    dp_rank: int
    block_size: int
    changes: list[Change]


class BlocksStored(Struct, frozen=True, kw_only=True):
    """An engine has stored blocks; hashes are the engine's own, of whatever kind."""

    dp_rank: int = 0
    blocks: list[int]
    """The engine's hashes, normalised to unsigned 64 bits; each block continues the one before it."""
    parent: int | None
    tokens: bytes
    """The tokens of the blocks, packed u32; ``block_size`` of them per block."""
    block_size: int
    lora: str = ""
    medium: str = ""
    """Where they are, as the engine says it; empty: on the device."""


class BlocksRemoved(Struct, frozen=True, kw_only=True):
    """An engine has dropped blocks."""

    dp_rank: int = 0
    blocks: list[int]
    medium: str = ""


class AllCleared(Struct, frozen=True, kw_only=True):
    """An engine has emptied its cache."""

    dp_rank: int = 0


EngineChange = BlocksStored | BlocksRemoved | AllCleared


def no_changes(changes: Sequence[EngineChange]) -> None:
    """What an engine tells while nobody listens."""
