"""Cache blocks of servers: streams wait for them, grow into them, and the youngest gives its own up where they run out.

Streams reach a boundary before every pass: there they ask for what the pass needs. A stream within a round never gives
way, so a pass that runs is never undone; whoever needs its blocks waits for that round to end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import simpy

from specsim.errors import InputError


class BlockPool:
    """The blocks of one server. ``held``: blocks of each stream, in order of admission, so that the last is youngest.

    One of ``num_blocks`` never holds anything, as in the folded executor's ``Serving``.
    """

    def __init__(self, env: simpy.Environment, name: str, num_blocks: int, block_size: int) -> None:
        self.env, self.name, self.block_size = env, name, block_size
        self.usable = self.free = num_blocks - 1
        self.held: dict[Cached, int] = {}
        self.most = 0
        self._block_s = self._changed_s = 0.0

    def missing(self, stream: Cached, tokens: int) -> int:
        """Blocks that the stream lacks to hold so many tokens."""
        return max(0, -(-tokens // self.block_size) - self.held.get(stream, 0))

    def give(self, stream: Cached, blocks: int) -> None:
        """Hand out so many free blocks (0: the stream is admitted and holds none yet)."""
        if blocks > self.free:
            raise RuntimeError(f"{blocks} blocks of {self.free} free ones on {self.name}")
        self._count()
        self.held[stream] = self.held.get(stream, 0) + blocks
        self.free -= blocks
        self.most = max(self.most, self.usable - self.free)

    def drop(self, stream: Cached) -> None:
        """Take back all that the stream holds."""
        self._count()
        self.free += self.held.pop(stream)

    @property
    def block_s(self) -> float:
        """Time integral of the blocks held."""
        self._count()
        return self._block_s

    def _count(self) -> None:
        self._block_s += (self.env.now - self._changed_s) * (self.usable - self.free)
        self._changed_s = self.env.now


class Cached(Protocol):
    """What a stream shows: the pools of its servers, tokens it starts with, tokens its next pass needs, and its turn.

    turn: order of admission, set here; a stream that is admitted again is younger.
    """

    pools: tuple[BlockPool, ...]
    starts_with: int
    needs: int
    turn: int


S = TypeVar("S", bound=Cached)


class CacheLimits(Generic[S]):
    """Who may run. ``begin(stream)``: it is admitted, with an empty cache; ``go(stream)``: its pass may run;
    ``dropped(stream)``: its cache is gone and it waits to be admitted again.
    """

    def __init__(
        self,
        begin: Callable[[S], None],
        go: Callable[[S], None],
        dropped: Callable[[S], None],
    ) -> None:
        self._begin, self._go, self._dropped = begin, go, dropped
        self._outside: deque[S] = deque()
        self._growing: list[S] = []
        self._turn = 0
        self._settling = False

    def enter(self, stream: S) -> None:
        """Admit the stream once all that it starts with fits on every one of its servers, in order of coming."""
        self._outside.append(stream)
        self._settle()

    def grow(self, stream: S) -> None:
        """The stream is at a boundary; its next pass needs ``needs`` tokens' blocks: now, later, or it is dropped."""
        if not self._growing and self._fits(stream):
            self._take(stream)
            return
        self._growing.append(stream)
        self._growing.sort(key=lambda one: one.turn)
        self._settle()

    def leave(self, stream: S) -> None:
        """The stream is finished."""
        for pool in stream.pools:
            pool.drop(stream)
        self._settle()

    def waits_for(self, stream: S) -> str | None:
        """What a stream that waits here waits for."""
        tokens = stream.needs if stream in self._growing else stream.starts_with if stream in self._outside else 0
        short = [p for p in stream.pools if p.missing(stream, tokens)]
        if not tokens or not short:
            return None
        pool = max(short, key=lambda p: p.missing(stream, tokens) - p.free)
        return f"waits for {pool.missing(stream, tokens)} cache blocks on server {pool.name}, {pool.free} are free"

    def _fits(self, stream: S) -> bool:
        return all(pool.missing(stream, stream.needs) <= pool.free for pool in stream.pools)

    def _take(self, stream: S) -> None:
        for pool in stream.pools:
            if more := pool.missing(stream, stream.needs):
                pool.give(stream, more)
        self._go(stream)

    def _settle(self) -> None:
        if self._settling:
            return  # whoever settles goes on until nothing changes
        self._settling = True
        while self._grow_one() or self._admit_one():
            pass
        self._settling = False

    def _grow_one(self) -> bool:
        """Let the oldest that can go on, or drop the youngest of a server on which an older one is short."""
        awaited: set[BlockPool] = set()
        for stream in self._growing:
            wanted = [pool for pool in stream.pools if pool.missing(stream, stream.needs)]
            if not awaited.intersection(wanted) and self._fits(stream):
                self._growing.remove(stream)
                self._take(stream)
                return True
            for pool in wanted:
                youngest = next(reversed(pool.held))
                waiting = next((one for one in self._growing if one is youngest), None)
                if pool.missing(stream, stream.needs) > pool.free and waiting is not None:
                    self._drop(waiting)
                    return True
            awaited.update(wanted)
        return False

    def _drop(self, stream: S) -> None:
        self._growing.remove(stream)
        for pool in stream.pools:
            pool.drop(stream)
        self._dropped(stream)
        self._outside.appendleft(stream)

    def _admit_one(self) -> bool:
        awaited = {p for one in self._growing for p in one.pools if p.missing(one, one.needs)}
        for stream in self._outside:
            if all(p not in awaited and p.missing(stream, stream.starts_with) <= p.free for p in stream.pools):
                self._outside.remove(stream)
                self._turn += 1
                stream.turn = self._turn
                for pool in stream.pools:
                    pool.give(stream, 0)
                self._begin(stream)
                return True
            awaited.update(stream.pools)
        return False


def check_fits(server: str, *, usable: int, block_size: int, tokens: int, request: int) -> None:
    """Raise InputError, naming the server, where a request could never run alone."""
    need = -(-tokens // block_size)
    if need > usable:
        raise InputError(
            f"cannot hold request {request}: its longest round needs {need} blocks of {block_size}, not {usable}",
            field=f"server {server}: num_blocks",
        )
