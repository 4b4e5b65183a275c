"""Block hashes as Dynamo computes them, so that its routers and ours mean the same by the same number. Pure.

Tokens and hashes travel packed: unsigned 32-bit tokens, unsigned 64-bit hashes, little-endian, one after the other. A
*block* is ``block_size`` tokens; only full blocks have a hash.

* local hash: xxh3-64 of the block's packed tokens, seed 1337;
* with a LoRA adapter the seed is 1337 plus the xxh3-64 of its name, modulo 2^64;
* sequence hash: the local hash for the first block, then xxh3-64 (seed 1337) of the packed pair of the sequence hash
  before it and the block's local hash. This one follows Dynamo's description; its bindings do not show theirs.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from struct import Struct, iter_unpack

from xxhash import xxh3_64_intdigest

SEED = 1337
TOKEN_BYTES = 4
HASH_BYTES = 8
_MASK = (1 << 64) - 1
_PAIR = Struct("<QQ").pack
_SWAPS = sys.byteorder == "big"


def pack(ids: Iterable[int]) -> bytes:
    """Return token ids packed. Raises `OverflowError` for what is no unsigned 32-bit number.

    >>> pack([1, 258])
    b'\\x01\\x00\\x00\\x00\\x02\\x01\\x00\\x00'
    """
    packed = array("I", ids)
    if _SWAPS:
        packed.byteswap()
    return packed.tobytes()


def unpack(tokens: bytes) -> array[int]:
    """Return the ids of packed tokens. Raises `ValueError` if it is no whole number of them."""
    ids = array("I")
    ids.frombytes(tokens)
    if _SWAPS:
        ids.byteswap()
    return ids


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """Return hashes packed. Raises `OverflowError` for what is no unsigned 64-bit number."""
    packed = array("Q", hashes)
    if _SWAPS:
        packed.byteswap()
    return packed.tobytes()


def unpack_hashes(packed: bytes) -> array[int]:
    """Return packed hashes as numbers. Raises `ValueError` if it is no whole number of them."""
    hashes = array("Q")
    hashes.frombytes(packed)
    if _SWAPS:
        hashes.byteswap()
    return hashes


def lora_seed(name: str) -> int:
    """Return the seed for an adapter; the plain one for the empty name."""
    return (SEED + xxh3_64_intdigest(name.encode())) & _MASK if name else SEED


def block_hashes(tokens: bytes, block_size: int, seed: int = SEED) -> array[int]:
    """Return the local hash of each full block of packed tokens. Raises `ValueError` for a block size below 1."""
    if block_size < 1:
        raise ValueError(f"the block size is {block_size}; it must be at least 1")
    step = block_size * TOKEN_BYTES
    digest = xxh3_64_intdigest
    whole = tokens[: len(tokens) // step * step]
    # Cut by struct: half as much time again goes on slices.
    return array("Q", [digest(block, seed) for (block,) in iter_unpack(f"{step}s", whole)])


def sequence_hashes(local: Iterable[int], parent: int | None = None) -> array[int]:
    """Return the sequence hash of each block, given the local ones and the sequence hash of the block before them."""
    digest, pair = xxh3_64_intdigest, _PAIR
    hashes = array("Q")
    append = hashes.append
    for block in local:
        parent = block if parent is None else digest(pair(parent, block), SEED)
        append(parent)
    return hashes
