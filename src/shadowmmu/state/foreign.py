# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that C code calls, and raw memory: compiled in both modes.

    @callback("void", "i64", "u32", "i64")     an address for C code; in the function every argument is an integer
    @native                                    a helper of such functions
    load8(address) ... store64(address, value), call1(function, a) ... call7(function, a, b, c, d, e, f, g)

The engine calls such functions from C, sometimes with a `longjmp` still to come over them, so they hold no CPython
frame, and everything they know arrives as integers.
"""

from llvmlite import ir

from .compiled import Builtin, callback
from .compiled import core as native
from .native.kinds import I64, INT, POINTER, VOID, Value


def _pointer(t, node, argument):
    return t.builder.inttoptr(t.integer(node, argument), POINTER)


def _loader(bits):
    def emit(t, node, arguments):
        kind = ir.IntType(bits)
        value = t.builder.load(_pointer(t, node, arguments[0]), align=1, typ=kind)
        return Value(INT, (value if bits == 64 else t.builder.zext(value, I64),))
    return Builtin(emit)


def _storer(bits):
    def emit(t, node, arguments):
        value = t.integer(node, arguments[1])
        value = value if bits == 64 else t.builder.trunc(value, ir.IntType(bits))
        t.builder.store(value, _pointer(t, node, arguments[0]), align=1)
        return Value(VOID)
    return Builtin(emit)


def _caller(count):
    """Call `int64 function(int64 ...)`; a void function's result is garbage to ignore."""
    def emit(t, node, arguments):
        if len(arguments) != count + 1:
            t.fail(node, f"call{count} takes a function and {count} arguments")
        words = [t.integer(node, a) for a in arguments[1:]]
        kind = ir.FunctionType(I64, [I64] * count)
        return Value(INT, (t.builder.call(_Pointed(_pointer(t, node, arguments[0]), kind), words),))
    return Builtin(emit)


class _Pointed:
    """A pointer as something that the IR builder can call."""

    def __init__(self, pointer, kind):
        self.pointer, self.function_type = pointer, kind
        self.type, self.args = pointer.type, ()

    def get_reference(self):
        return self.pointer.get_reference()


load8, load16, load32, load64 = (_loader(bits) for bits in (8, 16, 32, 64))
store8, store16, store32, store64 = (_storer(bits) for bits in (8, 16, 32, 64))
call1, call2, call3, call4, call6, call7 = (_caller(count) for count in (1, 2, 3, 4, 6, 7))

__all__ = ["call1", "call2", "call3", "call4", "call6", "call7", "callback", "load16", "load32", "load64", "load8",
           "native", "store16", "store32", "store64", "store8"]
