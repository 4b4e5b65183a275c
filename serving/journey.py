"""One request on its way over one worker or several. Pure; the time is given."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from .kv.hashing import block_hashes, lora_seed, pack_hashes, sequence_hashes
from .kv.words import word_ids
from .prompts import prompt_text
from .protocol import GenerateRequest, Input, ModelInfo
from .scheduling.demand import Demand, Rank

EMPTY: array[int] = array("Q")


@dataclass(slots=True, eq=False)
class Journey:
    """A request, what of its answer is there, and who has failed it."""

    request: GenerateRequest
    """What is left to do."""
    arrived_s: float
    number: int = 0
    """Of this router's journeys: request ids are the callers', and may come twice."""
    attempt: int = 0
    moves: int = 0
    """How often it went on elsewhere after a part of the answer was there."""
    losses: int = 0
    """Workers in a row that failed while they had it, before they gave a piece."""
    waited_s: float = 0.0
    """How long it has waited for a worker since it came, or since it last moved."""
    before: int = 0
    """Tokens of the answer that workers other than the last have made."""
    excluded: set[tuple[int, int]] = field(default_factory=set)
    """Incarnations that have failed or declined it: number of the instance, and incarnation."""
    lost: set[tuple[int, int]] = field(default_factory=set)
    """Those of them that failed."""
    busy: dict[tuple[int, int], float] = field(default_factory=dict)
    """Those of them that are well and had no room, with what `Placer.ended_on` said then; infinite after twice."""
    retry_after_s: int = 0
    """The earliest of what busy engines behind workers said; 0 if none said anything."""
    failure: str = ""
    prefilled_by: str = ""
    block_size: int = 0
    prompt_tokens: int = 0
    local: bytes = b""
    """Packed local hashes of the prompt's full blocks."""
    sequence: bytes = b""
    _sequence: array[int] = field(default_factory=lambda: array("Q"))
    _hashed: int = -1

    @property
    def is_special(self) -> bool:
        """True if what keeps it waiting need not keep others waiting."""
        request = self.request
        return bool(self.excluded or request.worker is not None or request.session)

    def patience_s(self, wait_s: float) -> float:
        """Return how long it may still wait for a worker, of ``wait_s`` in all."""
        return max(0.0, wait_s - self.waited_s)

    def hash(self, info: ModelInfo) -> None:
        """Compute the hashes of its blocks, once for each state of the request."""
        request = self.request
        if self._hashed == len(request.done) and self.block_size == info.block_size:
            return
        self._hashed = len(request.done)
        if info.input is Input.TOKENS:
            ids = request.tokens
            if request.done:
                more = array("I", [piece for piece in request.done if isinstance(piece, int)])
                ids += more.tobytes()
        else:
            ids = request.tokens or word_ids(prompt_text(request))
            if request.done:
                ids += word_ids("".join(map(str, request.done)))
        self.prompt_tokens = len(ids) // 4
        self.block_size = info.block_size
        if info.block_size:
            local = block_hashes(ids, info.block_size, lora_seed(request.lora))
            self._sequence = sequence_hashes(local)
            self.local, self.sequence = pack_hashes(local), pack_hashes(self._sequence)

    def demand(self) -> Demand:
        """Return what a scheduler must know of it."""
        request = self.request
        pinned = None if request.worker is None else Rank(request.worker, request.dp_rank or 0)
        return Demand(
            id=f"{self.number}/{self.attempt}",
            prompt_tokens=self.prompt_tokens or len(request.tokens) // 4,
            block_size=self.block_size,
            sequence=self._sequence,
            priority=request.priority,
            arrived_s=self.arrived_s,
            session=request.session,
            is_computed=request.handover is not None,
            pinned=pinned,
        )
