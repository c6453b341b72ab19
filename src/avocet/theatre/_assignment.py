"""Best one-to-one assignment and longest ordered subsequence, for the exact judge."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence


def best_assignment(worth: Sequence[Sequence[int]]) -> dict[int, int]:
    """Row -> column, each column at most once, so that the summed worth is largest; worth 0 is never assigned.

    Of equally good assignments the one with the smaller summed column index is taken, and of those the one that
    crosses least (the largest sum of row x column). With R rows and C columns the
    work is O(R C + R^4): a row can lose at most R - 1 of its best columns to other rows, so only its R best matter.
    """
    num_rows = len(worth)
    columns = sorted({column for row in worth for column in _best_columns(row, num_rows)})
    if not columns:
        return {}
    # Each criterion outweighs all that the later ones can add up to; the dummy columns (one per row) gain nothing.
    place_scale = 1 + num_rows * num_rows * len(columns)
    worth_scale = place_scale * (1 + num_rows * len(columns))
    gain = [
        [
            row[column] * worth_scale - place * place_scale + index * place if row[column] else -worth_scale
            for place, column in enumerate(columns)
        ]
        + [0] * num_rows
        for index, row in enumerate(worth)
    ]
    return {row: columns[place] for row, place in enumerate(_assign(gain)) if place < len(columns)}


def _best_columns(row: Sequence[int], count: int) -> list[int]:
    useful = (column for column, value in enumerate(row) if value)
    return heapq.nsmallest(count, useful, key=lambda column: (-row[column], column))


def _assign(gain: Sequence[Sequence[int]]) -> list[int]:
    """The Hungarian method with potentials on integers (exact): the column of every row; needs rows <= columns."""
    num_rows, num_columns = len(gain), len(gain[0])
    infinite = 1 + 2 * sum(max(abs(value) for value in row) for row in gain) * (num_rows + 1)
    row_potential = [0] * (num_rows + 1)
    column_potential = [0] * (num_columns + 1)
    owner = [0] * (num_columns + 1)  # the row (from 1) of every column (from 1); column 0 holds the row being placed
    for row in range(1, num_rows + 1):
        owner[0] = row
        column = 0
        slack = [infinite] * (num_columns + 1)
        previous = [0] * (num_columns + 1)
        visited = [False] * (num_columns + 1)
        while owner[column]:
            visited[column] = True
            current, step, nearest = owner[column], infinite, 0
            for other in range(1, num_columns + 1):
                if visited[other]:
                    continue
                reduced = -gain[current - 1][other - 1] - row_potential[current] - column_potential[other]
                if reduced < slack[other]:
                    slack[other], previous[other] = reduced, column
                if slack[other] < step:
                    step, nearest = slack[other], other
            for other in range(num_columns + 1):
                if visited[other]:
                    row_potential[owner[other]] += step
                    column_potential[other] -= step
                else:
                    slack[other] -= step
            column = nearest
        while column:
            owner[column] = owner[previous[column]]
            column = previous[column]
    assigned = [0] * num_rows
    for column in range(1, num_columns + 1):
        if owner[column]:
            assigned[owner[column] - 1] = column - 1
    return assigned


def longest_ordered(values: Sequence[int]) -> list[int]:
    """Positions of a longest subsequence that never decreases."""
    tails: list[int] = []  # tails[k]: the smallest last value of an ordered subsequence of length k + 1
    places: list[int] = []
    before: list[int] = []
    for position, value in enumerate(values):
        length = bisect.bisect_right(tails, value)
        before.append(places[length - 1] if length else -1)
        tails[length : length + 1] = [value]
        places[length : length + 1] = [position]
    chain = []
    position = places[-1] if places else -1
    while position >= 0:
        chain.append(position)
        position = before[position]
    return chain[::-1]
