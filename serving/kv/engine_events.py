"""KV events as engines write them: vLLM's and SGLang's batches in both encodings, and TensorRT-LLM's. Pure.

vLLM and SGLang send msgpack of ``[timestamp, [event, ...], data parallel rank?]``. An event is an array that begins
with its name (older releases, fields by position), or a map with the name under ``type``, without defaults (newer)::

    BlockStored: block_hashes, parent_block_hash, token_ids, block_size, lora_id, medium, lora_name, ...
    BlockRemoved: block_hashes, medium, ...
    AllBlocksCleared

Hashes are integers of either sign or bytes. What is not known is ignored, and counted by whoever reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from callboard.transports.errors import TransportError

from .changes import AllCleared, BlocksRemoved, BlocksStored, EngineChange
from .hashing import pack

_decode = msgspec.msgpack.Decoder().decode
_MASK = (1 << 64) - 1

STORED = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
    "group_idx",
)  # fmt: skip
REMOVED = ("block_hashes", "medium", "group_idx")
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
    """Return the changes of a batch, and how many of its events do not count or are of no known kind.

    ``dp_rank`` holds where the batch names none. In the place of an event that makes no sense stands `AllCleared`: what
    it may have said is lost, and nothing may stay that is gone. Raises `BadEvents` for what is no batch.
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
        try:
            change = _change(event, rank)
        except BadEvents:
            change = AllCleared(dp_rank=rank)
        if change is None:
            unknown += 1
        else:
            changes.append(change)
    return changes, unknown


def _change(event: object, rank: int) -> EngineChange | None:
    name, fields = _fields(event)
    if name not in FIELDS or not _counts(fields):
        return None
    if name == "BlockStored":
        return _stored(fields, rank)
    if name == "BlockRemoved":
        return BlocksRemoved(dp_rank=rank, blocks=_hashes(fields), medium=_text(fields, "medium"))
    return AllCleared(dp_rank=rank)


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
    group = fields.get("group_idx")
    if (type(group) is int and group) or fields.get("locality") == "REMOTE":
        return False
    lora, extra = fields.get("lora_name"), fields.get("extra_keys")
    entries = [keys for keys in extra if keys] if isinstance(extra, list) else []
    return all(isinstance(keys, list) and all(key == lora for key in keys) for keys in entries)


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
    are offloaded to the host (``updated`` to a cache level above 0) are gone from the device.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._window = 0
        self._last: dict[int, int] = {}
        self.gaps = self.unknown = 0

    def read(self, event: object) -> list[EngineChange]:
        """Return the changes of one event; `AllCleared` first if one is missing. Raises `BadEvents`."""
        if not isinstance(event, dict) or not isinstance(data := event.get("data"), dict):
            raise BadEvents("an event of TensorRT-LLM is no map with data")
        rank = event.get("attention_dp_rank") or 0
        window = event.get("window_size") or 0
        if type(rank) is not int or rank < 0 or type(window) is not int:
            raise BadEvents(f"attention_dp_rank is {rank!r}, window_size {window!r}")
        changes = self._missing(event.get("event_id"), rank)
        if window > self._window:
            if self._window:  # what was told so far was of a smaller window
                changes = [AllCleared(dp_rank=known) for known in sorted({rank, *self._last})]
            self._window = window
        if data.get("type") == "created" or (window and window < self._window):
            return changes
        return changes + self._changes(data, rank)

    def _missing(self, number: object, rank: int) -> list[EngineChange]:
        last = self._last.get(rank)
        if type(number) is not int:
            return []
        self._last[rank] = number
        if last is None or number == last + 1:
            return []
        self.gaps += 1
        return [AllCleared(dp_rank=rank)]

    def _changes(self, data: Mapping[str, Any], rank: int) -> list[EngineChange]:
        kind = data.get("type")
        if kind == "stored":
            return self._stored(data, rank)
        if kind == "removed":
            return [BlocksRemoved(dp_rank=rank, blocks=_hashes(data))]
        if kind == "updated":
            level = data.get("cache_level")
            new = level.get("new_value") if isinstance(level, dict) else None
            return [BlocksRemoved(dp_rank=rank, blocks=[normal_hash(data.get("block_hash"))])] if new else []
        self.unknown += 1
        return []

    def _stored(self, data: Mapping[str, Any], rank: int) -> list[EngineChange]:
        parent, listed = data.get("parent_hash"), data.get("blocks")
        if not isinstance(listed, list):
            raise BadEvents(f"blocks is {type(listed).__name__}")
        blocks: list[int] = []
        tokens: list[Any] = []
        for block in listed:
            if not isinstance(block, dict) or not isinstance(block.get("tokens"), list):
                raise BadEvents("a block is no map with tokens")
            ids = [token.get("token_id") if isinstance(token, dict) else None for token in block["tokens"]]
            if len(ids) != self.block_size:
                break  # not full, and nothing full follows it
            blocks.append(normal_hash(block.get("block_hash")))
            tokens += ids
        if not blocks:
            return []
        try:
            packed = pack(tokens)
        except (TypeError, OverflowError) as error:
            raise BadEvents(f"tokens: {error}") from None
        above = None if parent is None else normal_hash(parent)
        return [
            BlocksStored(dp_rank=rank, blocks=blocks, parent=above, tokens=packed, block_size=self.block_size)
        ]
