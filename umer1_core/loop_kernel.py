"""The compiled part of `umer1_core.loops`; imported on first use, because importing numba takes half a second.

Guarantees: nothing here holds the GIL, and nothing is shared between calls, so that threads may call it at once. What
is compiled is kept on disk beside this file, or in the user's cache where that folder is read-only.

Exactness. Every run of at least two copies has, in the usual order of the ids or in the reverse one, a copy that is the
longest Lyndon word at its start (Bannai et al., "The runs theorem", 2017). So each place offers at most two periods,
and each is measured by comparing tokens (`_words_tell`). Nearly every row is spared this by `_chains_tell`, which meets
all runs above a certain size; see there for why it misses none.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Counts = NDArray[np.float64]
_GRAM, _SHORTEST = 4, 8  # tokens compared at once; matches in a row that a run of FLOOR (16) tokens has at least
_STRIDE = _SHORTEST - _GRAM + 1
_BITS = 12
_SLOTS = 1 << _BITS
_CHAIN = 100  # equal grams followed; a row with more is examined through its Lyndon words
_LAST_BASE = 2**30
_HASH_A, _HASH_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT, _HALF = np.uint64(64 - _BITS), np.uint64(32)


@njit(nogil=True, cache=True)
def profile_rows(flat: Ids, offsets: NDArray[np.int64], counts: Counts, floor: int) -> Ids:
    """Tokens [rows, 0, counts] and period [rows, 1, counts] of the longest run with so many copies; else zeros.

    `floor`: the tokens a run must cover, at least 16; or 0, for all runs.
    """
    rows = len(offsets) - 1
    found = np.zeros((rows, 2, len(counts)), np.int32)
    longest = 0
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    heads = np.full(_SLOTS, -1, np.int32)
    links = np.zeros((3, longest // _STRIDE + 1), np.int32)
    around = np.zeros(4, np.int32)
    work = np.empty((4, longest + 1), np.int32)
    base = 0  # samples of a row are numbered from here, so that those of the rows before need not be wiped out
    for row in range(rows):
        ids = flat[offsets[row] : offsets[row + 1]]
        if base > _LAST_BASE:
            heads[:] = -1
            base = 0
        if floor == 0 or not _chains_tell(ids, counts, floor, heads, links, base, around, work, found[row]):
            _words_tell(ids, counts, max(floor, 2), work, found[row])
        base += len(ids) // _STRIDE + 1
    return found


@njit(nogil=True, cache=True)
def most_copies(ids: Ids) -> tuple[int, int]:
    """Period and tokens of the run with most copies, of the shortest period where equal; zeros without any."""
    work = np.empty((4, len(ids) + 1), np.int32)
    period, tokens = 0, 0
    for reverse in range(2):
        _reset(work, len(ids))
        for place in range(len(ids) - 1, -1, -1):
            other, start, end = _run_at(ids, place, reverse == 1, work)
            more = (end - start) * period - tokens * other  # copies, times both periods
            if other and (period == 0 or more > 0 or (more == 0 and other < period)):
                period, tokens = other, end - start
    return period, tokens


@njit(nogil=True, cache=True)
def _chains_tell(
    ids: Ids, counts: Counts, floor: int, heads: Ids, links: Ids, base: int, around: Ids, work: Ids, found: Ids
) -> bool:
    """Write the longest runs of two copies and `floor` tokens; False where a chain is too long to be followed.

    A run of 16 tokens and period p has at least max(8, p) tokens in a row that equal those p later. Eight in a row hold
    one of the grams of four that start at every fifth place. These are kept in chains by hash, and every place follows
    its own, so that each such run is met.

    around: period, start and end of the run that reaches furthest, and its number. links: of each gram the one before
    it in its chain; the next one that a place of the same run must look at; and the number of that run.
    """
    size = len(ids)
    if size < 2 * _SHORTEST:
        return True
    first = np.uint64(np.uint32(ids[0])) | np.uint64(np.uint32(ids[1])) << _HALF
    second = np.uint64(np.uint32(ids[1])) | np.uint64(np.uint32(ids[2])) << _HALF
    until_kept, sample, fresh = 0, 0, True
    for place in range(size - _GRAM + 1):
        third = second >> _HALF | np.uint64(np.uint32(ids[place + 3])) << _HALF
        slot = (first * _HASH_A + third * _HASH_B) >> _SHIFT
        first, second = second, third
        head = heads[slot]
        if head >= base:
            if fresh:
                _reset(work, size)
                around[0], around[1], around[2] = 1, 0, 0
                fresh = False
            if not _follow(ids, counts, floor, place, head - base, links, around, work, found):
                return False
        if until_kept == 0:
            _link(place, sample, head - base if head >= base else -1, links, around)
            heads[slot] = base + sample
            sample += 1
            until_kept = _STRIDE
        until_kept -= 1
    return True


@njit(nogil=True, cache=True)
def _implied(place: int, start: int, around: Ids) -> bool:
    """Whether two places lie in the run around, some of its periods apart: no other run of that distance has them.

    Such a run would have the same tokens and fewer copies, so that it need not be measured.
    """
    inside = place < around[2] and start >= around[1]
    return inside and np.uint32(place - start) % np.uint32(around[0]) == 0  # half the time of 64 bits


@njit(nogil=True, cache=True)
def _link(place: int, sample: int, head: int, links: Ids, around: Ids) -> None:
    """Put a gram before the others of its chain."""
    links[0, sample] = links[1, sample] = head
    links[2, sample] = around[3]
    if head >= 0 and _implied(place, head * _STRIDE, around):
        links[1, sample] = links[1, head] if links[2, head] == around[3] else links[0, head]


@njit(nogil=True, cache=True)
def _follow(
    ids: Ids, counts: Counts, floor: int, place: int, sample: int, links: Ids, around: Ids, work: Ids, found: Ids
) -> bool:
    """Measure the stretch of matches with each earlier gram of a chain, unless it is known; False for a long chain."""
    size = len(ids)
    known_from, known_to = work[1], work[2]
    for _ in range(_CHAIN):
        start = sample * _STRIDE
        period, end = place - start, start
        if _implied(place, start, around):
            sample = links[1, sample] if links[2, sample] == around[3] else links[0, sample]
        else:
            sample = links[0, sample]
            if not known_from[period] <= start < known_to[period]:
                while end + period < size and ids[end] == ids[end + period]:
                    end += 1
                if end - start >= _GRAM:
                    while start > 0 and ids[start - 1] == ids[start - 1 + period]:
                        start -= 1
                    known_from[period], known_to[period] = start, end
                    if end + period > around[2]:
                        around[0], around[1], around[2] = period, start, end + period
                        around[3] += 1
                    if end - start >= period and end - start + period >= floor:
                        _record(period, end - start + period, counts, found)
        if sample < 0:
            return True
    return False


@njit(nogil=True, cache=True)
def _words_tell(ids: Ids, counts: Counts, floor: int, work: Ids, found: Ids) -> None:
    """Write the longest runs of two copies and `floor` tokens, whatever the row."""
    for reverse in range(2):
        _reset(work, len(ids))
        for place in range(len(ids) - 1, -1, -1):
            period, start, end = _run_at(ids, place, reverse == 1, work)
            if period and end - start >= floor:
                _record(period, end - start, counts, found)


@njit(nogil=True, cache=True)
def _record(period: int, tokens: int, counts: Counts, found: Ids) -> None:
    """Keep a run, in found[0] its tokens and in found[1] its period, for each count where it is the longest so far."""
    for k in range(len(counts)):
        if tokens / period < counts[k]:
            return
        if tokens > found[0, k] or (tokens == found[0, k] and period < found[1, k]):
            found[0, k], found[1, k] = tokens, period


@njit(nogil=True, cache=True)
def _reset(work: Ids, size: int) -> None:
    work[1:, : size + 1] = 0


@njit(nogil=True, cache=True)
def _run_at(ids: Ids, place: int, reverse: bool, work: Ids) -> tuple[int, int, int]:
    """Period, start and end of the run whose Lyndon word starts at `place`; zeros where there is none, or known.

    Places are asked for from the last to the first. work[0]: where the Lyndon word of each later place ends; work[3]:
    by period, where the stretch of matches ends that was measured last, as each is offered once a copy.
    """
    size = len(ids)
    word_end, measured = work[0], work[3]
    later, end = place + 1, place
    while later < size:
        end = _matches_until(ids, place, later - place, work)
        behind = end + later - place
        if behind >= size or (ids[end] < ids[behind]) == reverse:
            break
        later = word_end[later]
    word_end[place] = later
    period = later - place
    if later >= size or end == measured[period]:
        return 0, 0, 0
    start = place
    while start > 0 and ids[start - 1] == ids[start - 1 + period]:
        start -= 1
    if end > start:
        work[1, period], work[2, period], measured[period] = start, end, end
    if end - start < period:
        return 0, 0, 0
    return period, start, end + period


@njit(nogil=True, cache=True)
def _matches_until(ids: Ids, place: int, distance: int, work: Ids) -> int:
    """The first place from `place` on whose token differs from the one `distance` later.

    work[1] and work[2], by distance: from where to where tokens are known to equal those so much later. Each stretch is
    thus compared once, though many places ask for it.
    """
    size = len(ids)
    known_from, known_to = work[1], work[2]
    if known_from[distance] <= place < known_to[distance]:
        return int(known_to[distance])
    end = place
    while end + distance < size and ids[end] == ids[end + distance]:
        end += 1
        if end == known_from[distance] and end < known_to[distance]:
            end = int(known_to[distance])
            break
    if end > place:
        known_from[distance], known_to[distance] = place, end
    return end
