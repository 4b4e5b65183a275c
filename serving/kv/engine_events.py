"""KV events as engines write them: vLLM's and SGLang's batches in both encodings, and TensorRT-LLM's. Pure.

vLLM and SGLang send msgpack of ``[timestamp, [event, ...], data parallel rank?]``. An event is an array that begins
with its name (older releases, fields by position), or a map with the name under ``type``, without defaults (newer)::

    BlockStored: block_hashes, parent_block_hash, token_ids, block_size, lora_id, medium, lora_name, ...
    BlockRemoved: block_hashes, medium, ...
    AllBlocksCleared

Hashes are integers of either sign or bytes. What is not known is ignored, and counted by whoever reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from callboard.transports.errors import TransportError

from .changes import AllCleared, BlocksRemoved, BlocksStored, EngineChange
from .hashing import pack

_decode = msgspec.msgpack.Decoder().decode
_MASK = (1 << 64) - 1

STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")
REMOVED = ("block_hashes", "medium")
FIELDS = {"BlockStored": STORED, "BlockRemoved": REMOVED, "AllBlocksCleared": ()}


class BadEvents(TransportError, ValueError):
    """What an engine sent is no batch of KV events."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"this is no batch of KV events: {why}")

    def __reduce__(self) -> tuple[type[BadEvents], tuple[str]]:
        return type(self), (self.why,)


def normal_hash(value: object) -> int:
    """Return an engine's hash as an unsigned 64-bit number; of bytes the last eight count. Raises `BadEvents`."""
    if type(value) is int:
        return value & _MASK
    if isinstance(value, bytes) and value:
        return int.from_bytes(value[-8:], "big")
    raise BadEvents(f"a block hash is {value!r}")


def read_batch(data: bytes, dp_rank: int = 0) -> tuple[list[EngineChange], int]:
    """Return the changes of a batch, and how many of its events are of no known kind.

    ``dp_rank`` holds where the batch names none. Raises `BadEvents`.
    """
    try:
        batch = _decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadEvents(str(error)) from None
    if not isinstance(batch, list) or len(batch) < 2 or not isinstance(batch[1], list):
        raise BadEvents("it is not [timestamp, [event, ...]]")
    rank = batch[2] if len(batch) > 2 and type(batch[2]) is int and batch[2] >= 0 else dp_rank
    changes: list[EngineChange] = []
    unknown = 0
    for event in batch[1]:
        name, fields = _fields(event)
        if name in FIELDS and not _counts(fields):
            unknown += 1
        elif name == "BlockStored":
            changes.append(_stored(fields, rank))
        elif name == "BlockRemoved":
            changes.append(
                BlocksRemoved(dp_rank=rank, blocks=_hashes(fields), medium=_text(fields, "medium"))
            )
        elif name == "AllBlocksCleared":
            changes.append(AllCleared(dp_rank=rank))
        else:
            unknown += 1
    return changes, unknown


def _fields(event: object) -> tuple[str, Mapping[str, Any]]:
    if isinstance(event, dict):
        return str(event.get("type", "")), event
    if isinstance(event, list) and event and isinstance(event[0], str):
        names = FIELDS.get(event[0], ())
        return event[0], dict(zip(names, event[1:], strict=False))
    return "", {}


def _counts(fields: Mapping[str, Any]) -> bool:
    """False for blocks that a prompt's tokens do not name, or that are not in this engine's own cache.

    Those of images and of salted prompts have ``extra_keys`` beyond the adapter's name; those of further attention
    groups have a ``group_idx``; those of another engine a ``locality``.
    """
    if fields.get("group_idx") not in (None, 0) or fields.get("locality") == "REMOTE":
        return False
    lora, extra = fields.get("lora_name"), fields.get("extra_keys")
    entries = [key for keys in extra for key in keys or ()] if isinstance(extra, list) else []
    return all(key == lora for key in entries)


def _stored(fields: Mapping[str, Any], rank: int) -> BlocksStored:
    parent, tokens, size = fields.get("parent_block_hash"), fields.get("token_ids"), fields.get("block_size")
    if type(size) is not int or size < 1 or not isinstance(tokens, list):
        raise BadEvents(f"BlockStored has block_size {size!r} and token_ids {type(tokens).__name__}")
    try:
        packed = pack(tokens)
    except (TypeError, OverflowError) as error:
        raise BadEvents(f"token_ids: {error}") from None
    lora = _text(fields, "lora_name")
    if not lora and type(fields.get("lora_id")) is int:
        lora = str(fields["lora_id"])
    return BlocksStored(
        dp_rank=rank,
        blocks=_hashes(fields),
        parent=None if parent is None else normal_hash(parent),
        tokens=packed,
        block_size=size,
        lora=lora,
        medium=_text(fields, "medium"),
    )


def _hashes(fields: Mapping[str, Any]) -> list[int]:
    hashes = fields.get("block_hashes")
    if not isinstance(hashes, list):
        raise BadEvents(f"block_hashes is {type(hashes).__name__}")
    return [normal_hash(value) for value in hashes]


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


class TensorRtEvents:
    """Reads TensorRT-LLM's events, which are maps with ``event_id`` and ``data``; keeps what it must remember.

    Only full blocks of the largest attention window count: others are no prefix that could be used again. Blocks that
    were not full are remembered, so that their removal is not told.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._window = 0
        self._partial: set[int] = set()
        self._last: dict[int, int] = {}
        self.gaps = self.unknown = 0

    def read(self, event: Mapping[str, Any]) -> list[EngineChange]:
        """Return the changes of one event; `AllCleared` first if one is missing. Raises `BadEvents`."""
        data = event.get("data")
        if not isinstance(data, dict):
            raise BadEvents("an event of TensorRT-LLM has no data")
        rank = event.get("attention_dp_rank") or 0
        changes: list[EngineChange] = []
        number, last = event.get("event_id"), self._last.get(rank)
        if type(number) is int:
            if last is not None and number != last + 1:
                self.gaps += 1
                changes.append(AllCleared(dp_rank=rank))
            self._last[rank] = number
        window = event.get("window_size") or 0
        self._window = max(self._window, window)
        kind = data.get("type")
        if kind == "created" or (window and window < self._window):
            return changes
        if kind == "stored":
            changes += self._stored(data, rank)
        elif kind == "removed":
            changes += self._removed(data, rank)
        else:
            self.unknown += 1
        return changes

    def _stored(self, data: Mapping[str, Any], rank: int) -> list[EngineChange]:
        parent = data.get("parent_hash")
        blocks, tokens = [], []
        for block in data.get("blocks") or ():
            ids = [token.get("token_id") for token in block.get("tokens") or ()]
            name = normal_hash(block.get("block_hash"))
            if len(ids) != self.block_size:
                self._partial.add(name)
                break  # nothing full follows it
            blocks.append(name)
            tokens += ids
        if not blocks or (parent is not None and normal_hash(parent) in self._partial):
            return []
        return [
            BlocksStored(
                dp_rank=rank,
                blocks=blocks,
                parent=None if parent is None else normal_hash(parent),
                tokens=pack(tokens),
                block_size=self.block_size,
            )
        ]

    def _removed(self, data: Mapping[str, Any], rank: int) -> list[EngineChange]:
        names: Sequence[int] = [normal_hash(value) for value in data.get("block_hashes") or ()]
        gone = [name for name in names if name not in self._partial]
        self._partial.difference_update(names)
        return [BlocksRemoved(dp_rank=rank, blocks=gone)] if gone else []
