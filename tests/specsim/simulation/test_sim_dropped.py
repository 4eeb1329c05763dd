"""What a preempted request finds of its cache, against a queue of single blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.simulation.dropped import DroppedCaches

USABLE = 40


class Queue:
    """Every block by itself: freed to the end, last block of a request first, and taken from the front."""

    def __init__(self):
        self.free = [None] * USABLE
        self.held = {}
        self.full = {}

    def allocate(self, owner, blocks):
        self.free = self.free[blocks:]
        self.held[owner] = self.held.get(owner, 0) + blocks

    def finish(self, owner):
        self.free += [None] * self.held.pop(owner)

    def preempt(self, owner, full):
        blocks = self.held.pop(owner)
        self.free += [(owner, i) for i in reversed(range(blocks))]
        self.full[owner] = full

    def kept(self, owner):
        left = {place for place in self.free if place is not None and place[0] == owner}
        count = 0
        while count < self.full.get(owner, 0) and (owner, count) in left:
            count += 1
        return count

    def admit(self, owner, blocks):
        found = self.kept(owner)
        mine = {(owner, i) for i in range(found)}
        self.free = [None if p is not None and p[0] == owner else p for p in self.free if p not in mine]
        self.full.pop(owner, None)
        self.held[owner] = found
        self.allocate(owner, blocks - found)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_same_blocks_survive_as_in_a_queue_of_blocks(data):
    queue, counted = Queue(), DroppedCaches()
    away = {}
    for step in range(data.draw(st.integers(1, 40))):
        choices = ["new"] + ["grow", "finish", "preempt"] * bool(queue.held) + ["return"] * bool(away)
        what = data.draw(st.sampled_from(choices))
        free = len(queue.free)
        if what == "new" and free:
            queue.allocate(step, data.draw(st.integers(1, free)))
        elif what == "grow" and free:
            queue.allocate(data.draw(st.sampled_from(sorted(queue.held))), data.draw(st.integers(1, free)))
        elif what == "finish":
            owner = data.draw(st.sampled_from(sorted(queue.held)))
            counted.free(queue.held[owner])
            queue.finish(owner)
        elif what == "preempt":
            owner = data.draw(st.sampled_from(sorted(queue.held)))
            blocks = queue.held[owner]
            full = data.draw(st.integers(0, blocks))
            counted.drop(owner, blocks, full)
            queue.preempt(owner, full)
            away[owner] = blocks
        elif what == "return":
            owner = data.draw(st.sampled_from(sorted(away)))
            if away[owner] <= free:
                counted.take(owner, counted.kept(owner, free, 10**6, 16))
                queue.admit(owner, away.pop(owner))
        for owner in away:
            assert counted.kept(owner, len(queue.free), 10**6, 16) == queue.kept(owner)


def test_the_last_token_is_always_computed_again():
    caches = DroppedCaches()
    caches.drop(7, 4, 4)
    assert caches.kept(7, 40, 64, 16) == 3
    assert caches.kept(7, 40, 65, 16) == 4
    assert caches.kept(8, 40, 65, 16) == 0
