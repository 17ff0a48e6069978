"""What becomes of a history on its way to the tree: losses, duplicates, disorder, batches."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from proctree_ds import ProcessTree
from proctree_ds.model import Change, Event, Exec, Exit, Fork, Header, Loss

__all__ = ["batches", "disordered", "in_pieces", "lossy", "tree_of"]


def lossy(random: Random, events: list[Event]) -> list[Event]:
    """Some events are lost, as a full ring loses them, and windows of time tell where."""
    told = list(events)
    kinds = (Fork, Exec, Exit, Change)
    for _ in range(random.randint(1, 3)):
        first = random.randrange(len(events))
        window = events[first : first + random.randint(1, 12)]
        share = random.choice([0.3, 0.7, 1.0])
        lost = [e for e in window if isinstance(e, kinds) and e in told and random.random() < share]
        told = [event for event in told if event not in lost]
        times = [event.time for event in window if not isinstance(event, Header)]
        if lost and times:
            since = min(times) - 5  # a task starts a little before its fork is told
            told.append(Loss(max(times), since, random.choice([None, len(lost)])))
    return told


def in_pieces(events: list[Event]) -> Iterator[list[Event]]:
    """What each run of the capture told: a header, and what followed."""
    piece: list[Event] = []
    for event in events:
        if isinstance(event, Header) and piece:
            yield piece
            piece = []
        piece.append(event)
    yield piece


def disordered(random: Random, events: list[Event]) -> list[Event]:
    """In any order and some of them twice; only a header stands where it did."""
    arrivals: list[Event] = []
    for header, *others in in_pieces(events):
        others += random.sample(others, len(others) // 4)
        random.shuffle(others)
        arrivals += [header, *others]
    return arrivals


def batches(random: Random, arrivals: list[Event]) -> Iterator[list[Event]]:
    left = list(arrivals)
    while left:
        size = random.randint(1, 8)
        yield left[:size]
        left = left[size:]


def tree_of(random: Random, arrivals: list[Event]) -> ProcessTree:
    """A tree that got the events in random batches."""
    tree = ProcessTree()
    for batch in batches(random, arrivals):
        if len(batch) == 1:
            tree.apply(batch[0])
        else:
            tree.apply_all(batch)
        tree._check()
    return tree
