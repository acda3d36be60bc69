# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler of the core: machine code does what Python does with the same function, wrapped to 64 bits.

`state.foreign.native` compiles in both modes, and `.core` is the Python function it was made from.
"""

import inspect
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmmu.state.foreign import callback, load32, native, store8
from shadowmmu.state.native.errors import CoreError

WORD = st.one_of(st.integers(-5, 5), st.integers(-(1 << 63), (1 << 63) - 1))
SMALL = st.integers(0, 40)
Pair = namedtuple("Pair", "first second")
TABLE = (3, 1, 4, 1, 5, -9)
ROWS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def wrapped(value):
    if isinstance(value, tuple):
        return tuple(wrapped(v) for v in value)
    value = int(value) & (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def same(function, *arguments):
    """Compiled and interpreted give the same; the compiled result."""
    expected = function.core(*arguments)
    got = function(*arguments)
    assert wrapped(got) == wrapped(expected), (function.__name__, arguments)
    return got


# ---- arithmetic

@native
def arithmetic(a, b):
    return (a + b) * 3 - (a ^ b) + (a & ~b) - (a | 7)


@native
def divided(a, b):
    return a // b, a % b


@native
def shifted(a, n):
    return a << n, a >> n


@native
def constants():
    return (1 << 64) - 1, -(1 << 63), 0xFFFFFFFFFFFFFFFF & ~1, 7 // -2, 7 % -2


@settings(max_examples=200, deadline=None)
@given(WORD, WORD, SMALL)
def test_numbers_wrap_and_round_as_in_python(a, b, n):
    same(arithmetic, a, b)
    same(shifted, a, n)
    if b and not (a == -(1 << 63) and b == -1):
        same(divided, a, b)


def test_constants_are_folded_before_they_wrap():
    same(constants)


# ---- truth values

@native
def compared(a, b):
    return a < b


@native
def chained(a, b, c):
    return a <= b < c


@native
def values(a, b, c):
    return a and b or c


@native
def truths(a, b):
    flag = a > b
    both = flag and b > 0
    return both + 1 if not flag or a == 3 else flag


@native
def member(a):
    return a in (1, 5, -7), a not in (2, 3)


@native
def least(a, b, c):
    return min(a, b, c), max(a, b), abs(a >> 1)


@settings(max_examples=200, deadline=None)
@given(WORD, WORD, WORD)
def test_comparisons_and_short_circuits(a, b, c):
    for function, arguments in ((compared, (a, b)), (chained, (a, b, c)), (values, (a, b, c)), (truths, (a, b)),
                                (member, (a,)), (least, (a, b, c))):
        same(function, *arguments)


# ---- statements

@native
def loops(n, step_down):
    total = 0
    for i in range(n):
        if i == 7:
            continue
        if i > 30:
            break
        for k in range(n, step_down, -3):
            total = total * 31 + k
        i += 100
        total ^= i
    while True:
        total -= 13
        if (total & 15) == 3:
            return total


@native
def collatz(n):
    steps = 0
    while n != 1:
        n = n // 2 if n & 1 == 0 else 3 * n + 1
        steps += 1
    return steps


@native
def depth(n):
    if n <= 1:
        return n
    return depth(n - 1) + depth(n - 2)


@native
def early(n):
    if n < 0:
        return
    TABLE[n]


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(-3, 50))
def test_loops(n, down):
    same(loops, n, down)
    same(collatz, n + 1)
    same(depth, min(n, 12))


def test_a_function_without_a_result():
    assert early(-1) is None and early(3) is None


# ---- tuples, tables, defaults

@native
def second(pair):
    return pair.second, pair.first


@native
def parts(a, b):
    low, high = a & 0xFF, b > a
    pair = Pair(low, high)
    swapped = second(pair)
    return swapped[1], pair


@native
def picked(i, k):
    x, y, z = ROWS[i]
    return TABLE[i] + x - y * z, ROWS[i][k], len(TABLE)


@native
def with_default(a, b=5, c=7):
    return a * 100 + b * 10 + c


@native
def defaults(a):
    return with_default(a), with_default(a, 1), with_default(a, 1, 2)


@native
def summed(table, n):
    total = len(table)
    for i in range(n):
        table[i] += i
        total += table[i]
    return total


def test_tuples_and_constant_tables():
    for a in (0, 300, -1):
        same(parts, a, 7)
        same(defaults, a)
    for i in range(3):
        for k in range(3):
            same(picked, i, k)


@pytest.mark.parametrize("kind, largest", [(np.int64, (1 << 63) - 1), (np.uint32, (1 << 32) - 1), (np.uint8, 255)])
def test_tables_from_outside(kind, largest):
    ours, theirs = (np.array([1, 2, largest - 5, 4, 9], kind) for _ in range(2))
    assert summed(ours, 5) == wrapped(sum(int(v) + i for i, v in enumerate(theirs)) + 5)
    assert ours.tolist() == [int(v) + i for i, v in enumerate(theirs)]


def test_a_comparison_comes_back_as_a_truth_value():
    assert compared(1, 2) is True and chained(1, 2, 2) is False and member(5) == (True, True)


def test_numbers_that_are_not_python_integers():
    assert compared(np.int64(3), True) is False
    assert arithmetic((1 << 64) - 1, 0) == same(arithmetic, -1, 0)


# ---- C code and raw memory

@callback("u8", "i64", "i32", "u32")
def from_c(address, signed, unsigned):
    store8(address, signed)
    return load32(address) + unsigned


def test_callback_widens_its_arguments():
    import ctypes
    cell = ctypes.c_uint32(0x11223344)
    call = ctypes.CFUNCTYPE(ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32)(from_c.address)
    assert call(ctypes.addressof(cell), -2, 0xFFFFFFFF) == 0xFD
    assert cell.value == 0x112233FE


# ---- what the core does not have

@native
def text(a):
    return "no"


@native
def keyword(a):
    return with_default(a, c=1)


@native
def stranger(a):
    return sorted(a)


@native
def unset(a):
    if a:
        b = 1
    return c + b        # noqa: F821


@native
def many(a):
    x, y = a, a, a
    return x + y


@native
def mixed(a):
    if a:
        return 1, 2
    return 3


@native
def real(a):
    return a / 2


@pytest.mark.parametrize("function, line, message", [
    (text, 2, "no str constants"), (keyword, 2, "no keyword arguments"), (stranger, 2, "not a function of the core"),
    (unset, 4, "there is no c"), (many, 2, "3 values for 2 names"), (mixed, 1, "returns a"), (real, 2, "no operator Div"),
])
def test_mistakes_are_told_with_file_and_line(function, line, message):
    first = inspect.getsourcelines(function.core)[1]
    with pytest.raises(CoreError) as caught:
        function(1)
    where, _, what = str(caught.value).partition(": ")
    assert where == f"{__file__}:{first + line}"
    assert message in what


def test_wrong_arguments_from_python():
    with pytest.raises(CoreError, match="takes 2 arguments, not 1"):
        compared(1)
    with pytest.raises(TypeError, match="cannot take a str"):
        compared("a", 1)
