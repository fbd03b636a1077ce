"""Swap space: KV blocks of preempted requests on the host, and the PCIe copies that take them there and back.

Copies run before the step that orders them, on its stream, and delay it (as vLLM 0.x does [known]): each
direction costs a launch per piece and the bytes at the channel's bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.errors import LawBroken
from simserve.sim.request import Seen
from simserve.units import NS_PER_S


@dataclass(frozen=True)
class Copies:
    """One direction of the channel: ns per piece launched, payload bytes/s."""

    launch_ns: int
    bandwidth_bytes_per_s: int

    def cost_ns(self, size_bytes: int, pieces: int) -> int:
        """Time of `pieces` pieces of `size_bytes` in all, rounded up; nothing costs nothing."""
        return pieces * self.launch_ns - (-size_bytes * NS_PER_S // self.bandwidth_bytes_per_s)


class SwapSpace:
    """`total` blocks on the host; block_bytes: KV bytes of a block over all layers of this GPU; pieces_per_block:
    separate copies that a block takes (layers x 2 unless the layout is contiguous).
    """

    def __init__(self, total: int, block_bytes: int, *, out: Copies, back: Copies, pieces_per_block: int = 1) -> None:
        self.total = self.free = total
        self._block_bytes, self._pieces = block_bytes, pieces_per_block
        self._out, self._back = out, back
        self._held: dict[int, int] = {}
        self._moved_out = self._moved_back = 0

    def take(self, request: Seen) -> bool:
        """Copy the request's blocks to the host; False (and no change) if they do not fit. Release them after."""
        if request.blocks > self.free or not request.blocks:
            return False
        self.free -= request.blocks
        self._held[request.id] = request.blocks
        self._moved_out += request.blocks
        return True

    def give_back(self, request: Seen) -> None:
        """Copy the request's blocks back to the GPU, into blocks reserved before."""
        held = self._held.pop(request.id, 0)
        if not held or request.blocks < held:
            raise LawBroken("swap", f"{held} blocks on the host, {request.blocks} reserved", request=request.id)
        self.free += held
        self._moved_back += held

    def settle_ns(self) -> tuple[int, int]:
        """The time of all copies since the last call: (to the host, back to the GPU)."""
        out, back = self._moved_out, self._moved_back
        self._moved_out = self._moved_back = 0
        return (
            self._out.cost_ns(out * self._block_bytes, out * self._pieces),
            self._back.cost_ns(back * self._block_bytes, back * self._pieces),
        )
