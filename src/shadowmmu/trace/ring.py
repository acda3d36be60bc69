# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of the kernel's ring buffer, many at a time.

    page   | timestamp (8) | commit (8) | event | event | ...
    event  | type_len:5 time_delta:27 | data ...      type_len 1..28: data of 4 * type_len bytes
                                                      0: length in the next word;  29: padding
                                                      30: time extend;  31: absolute time stamp
Within a page events form a chain: where one ends the next begins.  All pages of a block are walked side by side, one
event of each page in a step, with numpy: as many steps as the fullest page has events.
"""

from dataclasses import dataclass

import numpy as np

_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_DELTA_BITS = 27
_COMMIT_MASK = (1 << 27) - 1
_MISSING = 1 << 31
_MSB = 0xF8 << 56


@dataclass
class PageFormat:
    """What the file says about its pages: size in bytes, byte order, and the places in the page header."""

    size: int = 4096
    big_endian: bool = False
    commit_offset: int = 8
    commit_size: int = 8
    data_offset: int = 16


@dataclass
class Events:
    """Events of a block of pages, in page order, as arrays of equal length.

    data    the block's bytes (numpy uint8), padded so that a gather never leaves it
    start   offset of the event's data in `data`; length  its bytes; time  nanoseconds (or ticks)
    page    index of its page in the block
    missed  pages before which events were lost;  damaged  [(page, offset in the page, why)]
    """

    data: np.ndarray
    start: np.ndarray
    length: np.ndarray
    time: np.ndarray
    page: np.ndarray
    missed: int
    damaged: list


#: Zero bytes after the block, for gathers past the last event.
PAD = 4096


def walk(block, form):
    """`Events` of a bytes object that holds whole pages."""
    order = ">" if form.big_endian else "<"
    count = len(block) // form.size
    data = np.zeros(count * form.size + PAD, np.uint8)
    data[:count * form.size] = np.frombuffer(block, np.uint8, count * form.size)
    words = data.view(f"{order}u4")
    base = np.arange(count, dtype=np.int64) * form.size
    stamps = _gather(data, base, f"{order}u8")
    commit = _gather(data, base + form.commit_offset, f"{order}u{form.commit_size}").astype(np.uint64)
    used = (commit & np.uint64(_COMMIT_MASK)).astype(np.int64)
    missed = int(np.count_nonzero(commit & np.uint64(_MISSING)))
    damaged = []
    too_long = used > form.size - form.data_offset
    for page in np.flatnonzero(too_long)[:100]:
        damaged.append((int(page), form.commit_offset, f"commit of {int(used[page])} bytes in a page of {form.size}"))
    used[too_long] = 0

    at = base + form.data_offset
    end = at + used
    time = stamps.astype(np.uint64)
    live = np.flatnonzero(at + 4 <= end)
    out = []
    while live.size:
        here = at[live]
        word = words[here >> 2].astype(np.uint64)
        if form.big_endian:
            kind, delta = (word >> np.uint64(27)).astype(np.int64), word & np.uint64((1 << 27) - 1)
        else:
            kind, delta = (word & np.uint64(31)).astype(np.int64), word >> np.uint64(5)
        following = words[(here >> 2) + 1].astype(np.int64)
        start, length = here + 4, kind * 4
        extended = kind == 0
        start[extended] += 4
        length[extended] = following[extended] - 4
        step = (length + 3) & ~3

        special = kind >= _PADDING
        if special.any():
            wide = (following.astype(np.uint64) << np.uint64(_DELTA_BITS)) + delta
            absolute = kind == _TIME_STAMP
            delta = np.where(kind == _TIME_EXTEND, wide, delta)
            now = time[live] + delta
            now[absolute] = (wide | (time[live] & np.uint64(_MSB)))[absolute]
            step[special] = 4
            padding = kind == _PADDING
            step[padding] = following[padding]
            step[padding & (delta == 0)] = form.size          # nothing follows in this page
        else:
            now = time[live] + delta
        time[live] = now
        after = start + step
        bad = ((length < 0) | (after > end[live])) & ~special
        if bad.any():
            for k in np.flatnonzero(bad)[:100]:
                page = int(live[k])
                damaged.append((page, int(here[k] - base[page]), f"event of {int(length[k])} bytes leaves the page"))
            after[bad] = end[live][bad]
        keep = ~special & ~bad
        if keep.any():
            out.append((live[keep], start[keep], length[keep], now[keep]))
        at[live] = after
        live = live[(after + 4 <= end[live]) & (after > here)]
    if not out:
        empty = np.zeros(0, np.int64)
        return Events(data, empty, empty, empty.astype(np.uint64), empty, missed, damaged)
    page, start, length, now = (np.concatenate(parts) for parts in zip(*out, strict=True))
    order_of = np.argsort(start, kind="stable")
    return Events(data, start[order_of], length[order_of], now[order_of], page[order_of], missed, damaged)


def _gather(data, places, kind):
    """Values of type `kind` at byte offsets `places`."""
    kind = np.dtype(kind)
    return data[places[:, None] + np.arange(kind.itemsize)].copy().view(kind)[:, 0]


def structures(data, starts, dtype):
    """Array of structures `dtype` at byte offsets `starts` of `data`."""
    size = dtype.itemsize
    return np.ascontiguousarray(data[starts[:, None] + np.arange(size)]).view(dtype)[:, 0]
