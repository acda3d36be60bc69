# SPDX-License-Identifier: GPL-2.0-or-later
"""Values while a function is being written: records and tables reached, kinds converted, conditions decided.

The base of the translator: it has the builder, and every mistake that it meets is a CoreError with file and line.
"""

import ast

from llvmlite import ir

from .errors import CoreError
from .kinds import BOOL, I8, I64, INT, Field, Group, Record, Static, Table, Value, group, number, plain, scalar, static


class Values:
    """What can be done with values.  program, builder, path: set by the translator."""

    def fail(self, node, text):
        raise CoreError(f"{self.path}:{node.lineno}: {text}")

    def _new(self, name):
        return self.builder.function.append_basic_block(name)

    # ---- memory

    def _load(self, pointer, name):
        made = self.builder.load(pointer, align=8, typ=I64)
        made.set_metadata("tbaa", self.program.tag(name))
        return made

    def _field(self, node, owner):
        """(pointer, tag) of a record's field."""
        if not isinstance(owner.kind, Record):
            self.fail(node, f"a {owner.kind.name} has no {node.attr}")
        fields = owner.kind.fields
        if node.attr not in fields:
            self.fail(node, f"{owner.kind.name} has no field {node.attr}")
        return self.offset(owner.parts[0], number(fields[node.attr][0])), f"{owner.kind.name}.{node.attr}"

    def header(self, node, vm, name):
        """A number of the machine's header."""
        if not isinstance(vm.kind, Record):
            self.fail(node, f"the machine is needed here, not a {vm.kind.name}")
        at = self.offset(vm.parts[0], number(vm.kind.fields[name][0]))
        return self._load(at, f"{vm.kind.name}.{name}")

    def offset(self, pointer, amount):
        """A pointer so many bytes further."""
        return self.builder.gep(pointer, [amount], source_etype=I8)

    def _constant_element(self, node, values, index):
        """Element of a constant tuple of integers, or of tuples of integers of one length."""
        width = len(values[0]) if isinstance(values[0], tuple) else 0
        flat = tuple(int(x) for row in values for x in row) if width else tuple(int(x) for x in values)
        if width and any(len(row) != width for row in values):
            self.fail(node, "the rows of this table differ in length")
        table, out = self.program.table(flat), []
        for i in range(max(width, 1)):
            at = self.builder.add(self.builder.mul(index, number(max(width, 1))), number(i))
            out.append(self.builder.load(self.builder.gep(table, [at], source_etype=I64), align=8, typ=I64))
        return Value(group([INT] * width), tuple(out)) if width else Value(INT, tuple(out))

    def _place(self, table, index):
        kind = table.kind
        width = ir.IntType(kind.bits)
        tag = kind.name.partition(":")[2] if isinstance(kind, Field) else None
        return self.builder.gep(table.parts[0], [index], source_etype=width), width, tag

    def _element(self, node, table, index):
        pointer, width, tag = self._place(table, index)
        made = self.builder.load(pointer, align=width.width // 8, typ=width)
        made.set_metadata("tbaa", self.program.tag(tag))
        return made if width.width == 64 else self.builder.zext(made, I64)

    def _set_element(self, node, table, index, value):
        pointer, width, tag = self._place(table, index)
        if width.width < 64:
            value = self.builder.trunc(value, width)
        self.builder.store(value, pointer, align=width.width // 8).set_metadata("tbaa", self.program.tag(tag))

    # ---- conversions

    def integer(self, node, value):
        """The i64 of a number or a truth value."""
        kind = value.kind
        if kind is INT:
            return value.parts[0]
        if kind is BOOL:
            return self.builder.zext(value.parts[0], I64)
        if isinstance(kind, Static) and isinstance(kind.value, int):
            return number(int(kind.value))
        self.fail(node, f"a number is needed here, not a {kind.name}")

    def truth(self, node, value):
        """The i1 of a number or a truth value."""
        if value.kind is BOOL:
            return value.parts[0]
        return self.builder.icmp_signed("!=", self.integer(node, value), number(0))

    def coerce(self, node, value, kind):
        """The value in another kind of the same meaning."""
        if value.kind == kind:
            return value
        if kind is INT:
            return Value(INT, (self.integer(node, value),))
        if kind is BOOL:
            return Value(BOOL, (self.truth(node, value),))
        if isinstance(kind, Group):
            items = self._items(node, value)
            if len(items) == len(kind.items):
                made = [self.coerce(node, item, inner) for item, inner in zip(items, kind.items)]
                return Value(kind, tuple(p for item in made for p in item.parts))
        if isinstance(kind, Table) and isinstance(value.kind, Table) and kind.bits == value.kind.bits:
            if len(kind.parts) <= len(value.parts):
                return Value(kind, value.parts[:len(kind.parts)])
        self.fail(node, f"a {value.kind.name} where a {kind.name} was before")

    def _items(self, node, value):
        """The items of a tuple as values."""
        kind = value.kind
        if isinstance(kind, Static) and isinstance(kind.value, tuple):
            return [Value(static(item)) for item in kind.value]
        if not isinstance(kind, Group):
            self.fail(node, f"a {kind.name} has no items")
        out, at = [], 0
        for item in kind.items:
            out.append(Value(item, value.parts[at:at + len(item.parts)]))
            at += len(item.parts)
        return out

    # ---- conditions

    def branch(self, node, yes, no):
        """Jump by a condition."""
        if isinstance(node, ast.BoolOp):
            both = isinstance(node.op, ast.And)
            for inner in node.values[:-1]:
                more = self._new("and" if both else "or")
                self.branch(inner, more if both else yes, no if both else more)
                self.builder.position_at_end(more)
            self.branch(node.values[-1], yes, no)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.branch(node.operand, no, yes)
        else:
            value = self.value(node)
            if isinstance(value.kind, Static):
                self.builder.branch(yes if value.kind.value else no)
            else:
                self.builder.cbranch(self.truth(node, value), yes, no)

    def _join(self, node, ends, end):
        """Values from several blocks become one: ends is a list of (block, value, its i64 or None)."""
        self.builder.position_at_end(end)
        kinds = [value.kind for _, value, _ in ends]
        if all(kind is BOOL for kind in kinds):
            parts = [(BOOL.parts[0], [(value.parts[0], block) for block, value, _ in ends])]
            kind = BOOL
        elif all(scalar(kind) for kind in kinds):
            parts, kind = [(I64, [(word, block) for block, _, word in ends])], INT
        elif all(kind == kinds[0] for kind in kinds):
            kind = kinds[0]
            parts = [(part, [(value.parts[i], block) for block, value, _ in ends]) for i, part in enumerate(kind.parts)]
        else:
            self.fail(node, "both sides of this must be of one kind: " + ", ".join(k.name for k in kinds))
        made = []
        for part, incoming in parts:
            phi = self.builder.phi(part)
            for machine_value, block in incoming:
                phi.add_incoming(machine_value, block)
            made.append(phi)
        return Value(kind, tuple(made))

    def _arrive(self, node, value, ends, end):
        """Leave the current block for `end` with this value."""
        if not scalar(value.kind):
            value = self.coerce(node, value, plain(value.kind))
        word = self.integer(node, value) if scalar(value.kind) else None
        ends.append((self.builder.block, value, word))
        return value
