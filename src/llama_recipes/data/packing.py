"""Best-fit packing: whole documents into rows of at most `capacity` tokens.

Each document goes into the fullest row that still has room for it, longest documents first
(best-fit decreasing; Ding et al. 2024, https://arxiv.org/abs/2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence


def pack(documents: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of document numbers; every document is in exactly one row.

    documents: numbers, lengths: tokens of each of them, none above `capacity`. Among documents of
    equal length the given order decides, so that a shuffled order gives different rows.
    """
    order = sorted(range(len(documents)), key=lambda i: -lengths[i])
    rows: list[list[int]] = []
    rows_with_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the sizes of room that some row has, ascending
    for i in order:
        at = bisect_left(rooms, lengths[i])
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rooms[at]
        rows[row].append(documents[i])
        room -= lengths[i]
        if not rows_with_room[room]:
            insort(rooms, room)
        rows_with_room[room].append(row)
    return rows
