# SPDX-License-Identifier: GPL-2.0-or-later
"""The house rules of DESIGN section 2, read off the syntax trees of all modules.

    a room imports only the rooms that the table allows; the oracle never sees the MMU, the MMU never the VM
    inside mmu/ and vm/ modules are called as `module.function`, so that a patch can replace a function
    only state/ knows how records are stored; others may look through `state.interpreted`
    every module has the licence line and says what it is for
"""

import ast
import pathlib

import pytest

import shadowmmu

SRC = pathlib.Path(shadowmmu.__file__).parent
MODULES = sorted(SRC.rglob("*.py"))

ABOVE_VM = {"x86", "state", "mmu", "rules", "vm"}
ALL = {path.name for path in SRC.iterdir() if path.is_dir()}
#: room -> rooms that it may import besides itself (DESIGN section 2, column "may import").
MAY_IMPORT = {
    "x86": set(),
    "state": set(),
    "mmu": {"x86", "state"},
    "rules": {"x86", "state"},
    "vm": {"x86", "state", "mmu", "rules"},
    # "vm": and what vm itself stands on
    "engines": ABOVE_VM,
    "guests": ABOVE_VM | {"engines"},
    "oracle": {"x86", "state"},
    "checker": ABOVE_VM | {"engines", "guests", "oracle"},
    # "mmu, checker": a story also names the registers' bits and the rules it runs under
    "museum": ABOVE_VM | {"engines", "guests", "oracle", "checker"},
    "trace": {"x86", "state", "mmu"},
    # "read-only use of all above"
    "view": ABOVE_VM | {"engines", "guests", "oracle", "checker", "museum", "trace"},
    "lab": ALL,
    "cli": ALL,
}
#: `trace` may import one module of mmu only.
TRACE_FROM_MMU = {"mmu.events"}
#: Modules of state/ that know storage.
STORAGE = {"state.compiled", "state.foreign", "state.layout", "state.store", "state.cache", "state.interpreted"}
#: Who may import which of them: layout is names and sizes, store makes machines, interpreted is for looking.
MAY_KNOW = {"state.layout": ALL, "state.store": ALL, "state.interpreted": ALL - {"mmu", "oracle", "x86"},
            "state.cache": {"cli", "lab", "museum", "checker"}, "state.compiled": set(), "state.foreign": {"engines"}}
LICENCE = "# SPDX-License-Identifier: GPL-2.0-or-later"


def name_of(path):
    """Dotted name below `shadowmmu`."""
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path):
    """Dotted names below `shadowmmu` that a module imports: (line, name)."""
    package = list(path.relative_to(SRC).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "shadowmmu":
                    yield node.lineno, alias.name.removeprefix("shadowmmu").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[:len(package) - node.level + 1]
            elif node.module and node.module.split(".")[0] == "shadowmmu":
                base = []
            else:
                continue
            module = (node.module or "").removeprefix("shadowmmu").lstrip(".") if not node.level else node.module
            prefix = ".".join(base + ([module] if module else []))
            for alias in node.names:
                full = f"{prefix}.{alias.name}".lstrip(".")
                yield node.lineno, full if full in NAMES else prefix


def room(name):
    return name.split(".")[0]


def test_every_room_has_a_rule():
    """A new room needs a line in the table (and in DESIGN)."""
    rooms = {room(name_of(path)) for path in MODULES if path.parent != SRC}
    assert rooms <= set(MAY_IMPORT), rooms - set(MAY_IMPORT)


@pytest.mark.parametrize("own", sorted(MAY_IMPORT))
def test_rooms_import_only_what_the_table_allows(own):
    wrong = [f"{path.relative_to(SRC)}:{line} imports {name}" for path in MODULES if room(name_of(path)) == own
             for line, name in imports(path) if name and room(name) not in MAY_IMPORT[own] | {own}]
    assert wrong == []


def test_the_reader_of_imports_sees_all_forms(tmp_path):
    """The test's own instrument: absolute and relative imports, of packages, modules and names."""
    probe = SRC / "checker" / "probe.py"      # never written; only its place counts

    class Probe(type(probe)):
        def read_text(self, *args, **options):
            return ("from ..mmu import walk\nfrom ..mmu.walk import FAILED\nimport shadowmmu.vm.machine\n"
                    "from shadowmmu import oracle\nfrom shadowmmu.state import core\nfrom . import x\nimport os\n")

    assert [name for _, name in imports(Probe(probe))] == [
        "mmu.walk", "mmu.walk", "vm.machine", "oracle", "state", "checker"]


def test_trace_takes_only_the_events_from_the_mmu():
    wrong = [f"{path.relative_to(SRC)}:{line} imports {name}" for path in MODULES if room(name_of(path)) == "trace"
             for line, name in imports(path) if room(name) == "mmu" and name not in TRACE_FROM_MMU]
    assert wrong == []


@pytest.mark.parametrize("own, never", [("oracle", "mmu"), ("oracle", "vm"), ("oracle", "rules"), ("mmu", "vm"),
                                        ("mmu", "rules"), ("mmu", "oracle")])
def test_forbidden_even_indirectly(own, never):
    """Not through a third module either: following all imports never leads there."""
    graph = {name_of(path): {name for _, name in imports(path) if name} for path in MODULES}
    seen, todo = {}, [(name, name) for name in graph if room(name) == own]
    while todo:
        name, way = todo.pop()
        if name not in seen:
            seen[name] = way
            todo += [(n, f"{way} -> {n}") for n in graph.get(name, ())]
    assert [way for name, way in seen.items() if room(name) == never] == []


def test_storage_is_known_to_state_alone():
    wrong = [f"{path.relative_to(SRC)}:{line} imports {name}" for path in MODULES if room(name_of(path)) != "state"
             for line, name in imports(path)
             if name in STORAGE and room(name_of(path)) not in MAY_KNOW[name]]
    assert wrong == []


@pytest.mark.parametrize("own", ["mmu", "vm"])
def test_core_functions_are_called_through_their_module(own):
    """DESIGN section 3: never `from module import function`, or a patch of the function would be missed."""
    core = {f"{name_of(path)}.{node.name}" for path in MODULES for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef)
            and any(isinstance(d, ast.Name) and d.id == "core" for d in node.decorator_list)}
    wrong = []
    for path in MODULES:
        if room(name_of(path)) != own:
            continue
        package = name_of(path).rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package.split(".")[:len(package.split(".")) - node.level + 1]
                module = ".".join([*base, node.module] if node.module else base)
                wrong += [f"{path.relative_to(SRC)}:{node.lineno} {alias.name}" for alias in node.names
                          if f"{module}.{alias.name}" in core]
    assert wrong == []


#: Packages of outside tools that the core rooms must not need.
CORE = ("x86", "mmu", "rules", "oracle")


@pytest.mark.parametrize("own", CORE)
def test_core_rooms_import_nothing_from_outside(own):
    wrong = []
    for path in MODULES:
        if room(name_of(path)) != own:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{path.relative_to(SRC)}:{node.lineno} {n}" for n in names
                      if n.split(".")[0] not in {"dataclasses", "shadowmmu", "collections", "typing"}]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_licence_and_purpose(path):
    """Every module opens with its licence and with what it is for."""
    text = path.read_text()
    assert text.startswith(LICENCE), "no SPDX line"
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
