# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements of the core."""

import ast

from llvmlite import ir

from .expressions import Expressions
from .kinds import BOOL, I64, INT, VOID, Static, Table, Value, number, plain, static_int


class Statements(Expressions):
    """One method per kind of node: _do_NODE writes it.  variables: name -> (kind, stack slots of its parts)."""

    def _block(self, statements):
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            handler = getattr(self, "_do_" + type(statement).__name__, None)
            if handler is None:
                self.fail(statement, f"the core has no {type(statement).__name__.lower()} statement")
            handler(statement)

    def _do_Pass(self, node):
        pass

    def _do_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.value(node.value)

    def _do_Assign(self, node):
        value = self.value(node.value)
        for target in node.targets:
            self._assign(target, value)

    def _do_AugAssign(self, node):
        load = ast.copy_location(ast.BinOp(_loaded(node.target), node.op, node.value), node)
        self._assign(node.target, self.value(load))

    def _assign(self, target, value):
        if isinstance(target, ast.Name):
            self._store(target, target.id, value)
        elif isinstance(target, ast.Tuple):
            items = self._items(target, value)
            if len(items) != len(target.elts):
                self.fail(target, f"{len(items)} values for {len(target.elts)} names")
            for inner, item in zip(target.elts, items):
                self._assign(inner, item)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value)
            pointer, name = self._field(target, owner)
            self.builder.store(self.integer(target, value), pointer, align=8).set_metadata("tbaa", self.program.tag(name))
        elif isinstance(target, ast.Subscript):
            table = self.value(target.value)
            if not isinstance(table.kind, Table):
                self.fail(target, f"an element of a {table.kind.name} cannot be set")
            self._set_element(target, table, self.integer(target, self.value(target.slice)), self.integer(target, value))
        else:
            self.fail(target, "this cannot be assigned to")

    def _store(self, node, name, value):
        kind = plain(value.kind)
        if name not in self.variables:
            with self.builder.goto_entry_block():
                self.variables[name] = kind, [self.builder.alloca(part, name=name) for part in kind.parts]
        known, places = self.variables[name]
        for part, place in zip(self.coerce(node, value, known).parts, places):
            self.builder.store(part, place)

    def _do_Return(self, node):
        self._return(node, self.value(node.value) if node.value else Value(VOID))

    def _return(self, node, value):
        if self.result is None:
            if value.kind is not VOID:
                kind = value.kind if value.kind is BOOL else plain(value.kind)
                self.instance.seen.append(BOOL if isinstance(value.kind, Static) and value.kind.value in (True, False)
                                          and isinstance(value.kind.value, bool) else kind)
            self.builder.unreachable()
        elif self.result is VOID:
            self.builder.ret_void()
        else:
            if value.kind is VOID:
                parts = [ir.Constant(part, ir.Undefined) for part in self.result.parts]
            else:
                parts = self.coerce(node, value, self.result).parts
            if len(parts) == 1:
                self.builder.ret(parts[0])
            else:
                made = ir.Constant(ir.LiteralStructType(self.result.parts), ir.Undefined)
                for i, part in enumerate(parts):
                    made = self.builder.insert_value(made, part, i)
                self.builder.ret(made)

    def _do_If(self, node):
        yes, no, end = self._new("then"), self._new("else"), None
        self.branch(node.test, yes, no)
        for block, statements in ((yes, node.body), (no, node.orelse)):
            self.builder.position_at_end(block)
            self._block(statements)
            if not self.builder.block.is_terminated:
                end = end or self._new("endif")
                self.builder.branch(end)
        if end:
            self.builder.position_at_end(end)

    def _do_While(self, node):
        test, body, end = self._new("while"), self._new("do"), self._new("done")
        self.builder.branch(test)
        self.builder.position_at_end(test)
        self.branch(node.test, body, end)
        self._loop(node, body, test, end)
        self.builder.position_at_end(end)
        if isinstance(node.test, ast.Constant) and not any(p for p in self._jumps(node)):
            self.builder.unreachable()

    def _jumps(self, node):
        """Break statements that end this loop."""
        for statement in node.body:
            yield from _breaks(statement)

    def _loop(self, node, body, again, end):
        if node.orelse:
            self.fail(node, "the core has no else of a loop")
        self.builder.position_at_end(body)
        self.loops.append((again, end))
        self._block(node.body)
        self.loops.pop()
        if not self.builder.block.is_terminated:
            self.builder.branch(again)

    def _do_For(self, node):
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            self.fail(node, "a loop goes over range(...)")
        values = [self.value(a) for a in call.args]
        first, last, step = (static_int(0), values[0], static_int(1)) if len(values) == 1 else (*values, static_int(1))[:3]
        if not isinstance(step.kind, Static):
            self.fail(node, "the step of a range is a constant")
        down = step.kind.value < 0
        stop = self.integer(node, last)
        with self.builder.goto_entry_block():
            counter = self.builder.alloca(I64)
        self.builder.store(self.integer(node, first), counter)
        test, body, more, end = self._new("for"), self._new("do"), self._new("next"), self._new("done")
        self.builder.branch(test)
        self.builder.position_at_end(test)
        now = self.builder.load(counter, typ=I64)
        self.builder.cbranch(self.builder.icmp_signed(">" if down else "<", now, stop), body, end)
        self.builder.position_at_end(body)
        self._assign(node.target, Value(INT, (now,)))
        self._loop(node, self.builder.block, more, end)
        self.builder.position_at_end(more)
        self.builder.store(self.builder.add(self.builder.load(counter, typ=I64), number(step.kind.value)), counter)
        self.builder.branch(test)
        self.builder.position_at_end(end)

    def _do_Break(self, node):
        self.builder.branch(self.loops[-1][1])

    def _do_Continue(self, node):
        self.builder.branch(self.loops[-1][0])


def _loaded(target):
    """The same place as an expression that is read."""
    return ast.copy_location(type(target)(**{**{f: getattr(target, f) for f in target._fields}, "ctx": ast.Load()}), target)


def _breaks(statement):
    if isinstance(statement, ast.Break):
        yield statement
    elif isinstance(statement, ast.If):
        for inner in statement.body + statement.orelse:
            yield from _breaks(inner)
