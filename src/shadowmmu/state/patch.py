# SPDX-License-Identifier: GPL-2.0-or-later
"""A changed MMU: functions of the core replaced from a file before anything is compiled.

    # change.py
    @replaces("mmu.unsync.try_to_unsync_pages")
    def try_to_unsync_pages(vm, slot, gfn, can_unsync, prefetch):    # sees the names of shadowmmu.mmu.unsync
        return 0

    SHADOWMMU_PATCH=change.py shadowmmu run        or        shadowmmu run --patch change.py

A file whose docstring has a line `base: other.py` is that file (of the same folder) with its own functions on top.

A replacement lives in the module of the function it replaces: it may use that module's names and `state`, and callers in other
modules get it, because the core calls across modules as `module.function(...)`.  What the file changes is part of
the key of the cache, so patched and unpatched code never mix.
"""

import ast
import os
import re
import sys

PACKAGE = __name__.split(".", 1)[0]


class PatchError(Exception):
    """The patch file cannot be used; the message says what and where."""


class Patch:
    """What the patch files (separated like the folders of PATH) replace.  `text`: their code, comments and docstrings left
    out, a patch file itself.  Problems are kept for `check`: this runs while the core is being imported."""

    def __init__(self, path):
        self.path, self.text, self.problem = path, "", None
        self.functions, self.applied = {}, set()
        for name in path.split(os.pathsep) if path else ():
            for target, node in self._open(name).items():
                if target in self.functions:
                    self._complain(node, f"{target} is replaced twice")
                self.functions.setdefault(target, node)
        self.text = "\n".join(f'@replaces("{target}")\n{ast.unparse(node)}' for target, node in self.functions.items())

    def _open(self, path, above=()):
        """Target -> function of a file and its bases.  above: the files that it is a base of."""
        try:
            with open(path, encoding="utf-8") as file:
                tree = ast.parse(file.read(), path)
        except OSError as error:
            who = f", the base of {above[-1]}" if above else ""
            self.problem = self.problem or f"{path}{who}: {error.strerror}"
        except SyntaxError as error:
            self.problem = self.problem or f"{path}:{error.lineno}: {error.msg}"
        except ValueError as error:
            self.problem = self.problem or f"{path}: {error}"
        else:
            base = re.search(r"^base: +(\S+)$", ast.get_docstring(tree) or "", re.MULTILINE)
            found, own = {}, {}
            if base and path in above:
                self.problem = self.problem or f"{path}: it is a base of itself"
            elif base:
                found = self._open(os.path.join(os.path.dirname(path), base[1]), (*above, path))
            for node in tree.body:
                self._read(path, node, own)
            return found | own
        return {}

    def _read(self, path, node, own):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        node.path = path
        target = _target(node)
        if target is None:
            self._complain(node, 'only functions marked @replaces("room.module.function") may stand here')
        elif target in own:
            self._complain(node, f"{target} is replaced twice")
        else:
            node.decorator_list = []
            own[target] = node

    def _complain(self, node, text):
        self.problem = self.problem or f"{node.path}:{node.lineno}: {text}"

    def apply(self, function):
        """The replacement of a core function, or the function itself."""
        target = f"{function.__module__}.{function.__name__}".removeprefix(PACKAGE + ".")
        node = self.functions.get(target)
        if node is None or self.problem:
            return function
        code = function.__code__
        expected = code.co_varnames[:code.co_argcount]
        if tuple(argument.arg for argument in node.args.args) != expected:
            self._complain(node, f"{target} takes ({', '.join(expected)})")
            return function
        self.applied.add(target)
        # the module may not need the room's name itself
        function.__globals__.setdefault("state", sys.modules[__package__])
        made: dict = {}
        exec(compile(ast.Module([node], []), node.path, "exec"), function.__globals__, made)
        replacement = made[node.name]
        replacement._core_node = node, self.path
        replacement.__defaults__ = replacement.__defaults__ or function.__defaults__
        return replacement

    def check(self):
        """Called when the whole core has been imported.  Raises PatchError."""
        for target, node in self.functions.items():
            if target not in self.applied:
                self._complain(node, f"the core has no function {target}")
        if self.problem:
            raise PatchError(self.problem)


def _target(node):
    """X of a function marked @replaces("X"), or None."""
    if not isinstance(node, ast.FunctionDef) or len(node.decorator_list) != 1:
        return None
    mark = node.decorator_list[0]
    if not (isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "replaces"):
        return None
    if len(mark.args) != 1 or not isinstance(mark.args[0], ast.Constant) or not isinstance(mark.args[0].value, str):
        return None
    return mark.args[0].value


PATCH = Patch(os.environ.get("SHADOWMMU_PATCH", ""))
