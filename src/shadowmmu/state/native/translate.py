# SPDX-License-Identifier: GPL-2.0-or-later
"""From the syntax trees of core functions to one module of LLVM's intermediate representation.

    Program     the module: the functions that its entry points reach, each once per combination of kinds
    Translator  one function, in two passes: the first finds the kind of the result, the second writes the function

The core is a small language: integers of 64 bits, records, tables, tuples; if, while, for over range; calls.  Whatever
else a function uses is a CoreError with its line.  Integers wrap, `//` and `%` round down, `>>` keeps the sign.

Records and tables are pointers, so LLVM sees which field is read and written; the tags of type-based alias analysis
say that a field of one record is never another field (a table may be anything).
"""

import ast

from llvmlite import ir

from . import source
from .kinds import I64, INT, VOID, Group, Table, Value, group, number, plain, scalar
from .statements import Statements

#: Functions of at most so many syntax nodes are always inlined.
SMALL = 110


class Instance:
    """A function of the core for arguments of certain kinds: LLVM function and kind of the result."""

    def __init__(self, kinds):
        self.kinds, self.result, self.llvm = kinds, None, None
        self.seen = []          # kinds of the results that the first pass has met


class Program:
    """An LLVM module in the making.  called: told the name of every function that is translated."""

    def __init__(self, name, called=lambda name: None):
        self.module, self.called = ir.Module(name), called
        self.instances, self.constants, self.tags = {}, {}, {}

    def instance(self, function, kinds):
        """The instance of a Python function for these kinds, translated if it is new."""
        key = function, tuple(kind.name for kind in kinds)
        made = self.instances.get(key)
        if made is None:
            made = self.instances[key] = Instance(kinds)
            made.name = f"{function.__module__}.{function.__name__}.{len(self.instances)}"
            self.called(made.name)
            Translator(self, function, made).run()
        return made

    def table(self, values):
        """A constant table of integers in the module."""
        if values not in self.constants:
            kind = ir.ArrayType(I64, len(values))
            made = ir.GlobalVariable(self.module, kind, f"table.{len(self.constants)}")
            made.initializer = ir.Constant(kind, [number(v) for v in values])
            made.global_constant, made.linkage = True, "internal"
            self.constants[values] = made
        return self.constants[values]

    def tag(self, name):
        """Alias tag of a field "RECORD.field", or of memory in general (None)."""
        if name not in self.tags:
            add = self.module.add_metadata
            if None not in self.tags:
                self.memory = add(["memory", add(["shadowmmu"]), ir.Constant(I64, 0)])
                self.tags[None] = add([self.memory, self.memory, ir.Constant(I64, 0)])
            if name is not None:
                field = add([name, self.memory, ir.Constant(I64, 0)])
                self.tags[name] = add([field, field, ir.Constant(I64, 0)])
        return self.tags[name]


class Translator(Statements):
    """Translates one instance."""

    def __init__(self, program, function, instance):
        self.program, self.function, self.instance = program, function, instance
        self.node, self.path = source.node_of(function)
        self.locals = source.assigned(self.node)
        self.names = [a.arg for a in self.node.args.args]

    def run(self):
        if len(self.names) != len(self.instance.kinds):
            self.fail(self.node, f"{self.node.name} takes {len(self.names)} arguments, not {len(self.instance.kinds)}")
        arguments = [part for kind in self.instance.kinds for part in kind.parts]
        self.result = None
        self._body(ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), arguments), "first"))
        result = VOID
        for kind in self.instance.seen:
            result = kind if result is VOID else self._merge(self.node, result, kind)
        self.instance.result = self.result = result
        parts = result.parts
        returns = ir.VoidType() if not parts else parts[0] if len(parts) == 1 else ir.LiteralStructType(parts)
        made = ir.Function(self.program.module, ir.FunctionType(returns, arguments), self.instance.name)
        made.linkage = "internal"
        made.attributes.add("nounwind")
        if sum(1 for _ in ast.walk(self.node)) <= SMALL:
            made.attributes.add("alwaysinline")
        self.instance.llvm = made
        self._body(made)

    def _merge(self, node, a, b):
        if a == b:
            return a
        if scalar(a) and scalar(b):
            return INT
        if isinstance(a, Group) and isinstance(b, Group) and len(a.items) == len(b.items):
            return group([self._merge(node, x, y) for x, y in zip(a.items, b.items)], a.shape)
        if isinstance(a, Table) and isinstance(b, Table) and a.bits == b.bits:
            return plain(a) if len(a.parts) == 1 else plain(b)
        self.fail(node, f"{self.node.name} returns a {a.name} and a {b.name}")

    def _body(self, function):
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.variables, self.loops = {}, []
        at = 0
        for name, kind in zip(self.names, self.instance.kinds):
            n = len(kind.parts)
            self._store(self.node, name, Value(kind, tuple(function.args[at:at + n])))
            at += n
        self._block(self.node.body)
        if not self.builder.block.is_terminated:
            self._return(self.node, Value(VOID))
