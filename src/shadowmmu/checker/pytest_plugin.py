# SPDX-License-Identifier: GPL-2.0-or-later
"""pytest: scripts as tests, and a search as a fixture.

    *.shadowmmu files are collected: each is a script, and passes if nothing is wrong.  A first line  # expect: RULE  turns that
    round: the test passes if the MMU fails that check (an exhibit, a patch that must be caught).

    def test_my_mmu(shadowmmu_check):
        shadowmmu_check("4-level", operations=20_000)        # a search; fails with the finding as its message

    pytest --shadowmmu-patch FILE      the changed MMU; has to be known before the core is imported
    pytest --shadowmmu-rules NAME      for the fixture and for scripts that name no rules

Nothing of shadowmmu is imported until a script or the fixture is used.
"""

import os
import re

import pytest

SUFFIX = ".shadowmmu"
EXPECT = re.compile(r"#\s*expect:\s*([a-z-]+)\s*$")


def pytest_addoption(parser):
    """The plugin's options."""
    group = parser.getgroup("shadowmmu", "KVM's shadow MMU")
    group.addoption("--shadowmmu-patch", metavar="FILE", help="Python file with changed functions of the core")
    group.addoption("--shadowmmu-rules", metavar="NAME", help="kernel whose MMU is tested (default: linux-6.12)")


def pytest_configure(config):
    """The patch goes into the environment, where the core looks when it is imported."""
    import sys
    patch = config.getoption("--shadowmmu-patch")
    if not patch:
        return
    path = os.path.abspath(patch)
    if not os.path.isfile(path):
        raise pytest.UsageError(f"--shadowmmu-patch {patch}: no such file")
    if "shadowmmu.state" in sys.modules and os.environ.get("SHADOWMMU_PATCH") != path:
        raise pytest.UsageError("--shadowmmu-patch: shadowmmu was imported before the option was read (a conftest or another "
                                "plugin does so); set SHADOWMMU_PATCH in the environment instead")
    os.environ["SHADOWMMU_PATCH"] = path


def pytest_report_header(config):
    """One line that says what is tested."""
    if config.getoption("--shadowmmu-patch"):
        return f"shadowmmu: patch {config.getoption('--shadowmmu-patch')}"
    return None


def pytest_collect_file(file_path, parent):
    """Scripts are test files."""
    if file_path.suffix == SUFFIX:
        return ScriptFile.from_parent(parent, path=file_path)
    return None


class ScriptFile(pytest.File):
    """A file with one script."""

    def collect(self):
        """Its only test."""
        yield ScriptTest.from_parent(self, name="script")


class ScriptTest(pytest.Item):
    """Replays a script."""

    def runtest(self):
        """Fails with a finding, or without the expected one."""
        from . import main
        script = main.read_script(str(self.path))
        rules = self.config.getoption("--shadowmmu-rules")
        text = self.path.read_text()
        if rules and not re.search(r"^\s*rules\s", text, re.M):
            script = script._replace(rules=rules)
        expected = next((found[1] for found in map(EXPECT.match, text.splitlines()) if found), None)
        finding = main.replayed(script)
        if finding is None and expected:
            raise ScriptFailure(f"nothing is wrong, although `{expected}` was expected")
        if finding is not None and finding.rule != expected:
            raise ScriptFailure(finding.text())

    def repr_failure(self, excinfo, style=None):
        """The finding, without a traceback."""
        from . import main
        if isinstance(excinfo.value, (ScriptFailure, *main.USER_ERRORS)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        """Where it is."""
        return self.path, 0, f"script {self.path.name}"


class ScriptFailure(Exception):
    """A script that did not do what it should; the message is for people."""


@pytest.fixture
def shadowmmu_check(request):
    """Function (machine, vcpus=1, operations=20_000, rules=None, seed=1, length=40, sought=()) that searches and fails the test
    with the finding."""
    rules = request.config.getoption("--shadowmmu-rules")

    def check(machine, vcpus=1, operations=20_000, seed=1, length=40, sought=(), **options):
        from . import main, tasks
        from .search import Found
        settings = tasks.Settings(options.pop("rules", rules) or tasks.Settings.rules, (machine,), (vcpus,),
                                  main.aside_names((), sought), seed, length)
        if options:
            raise TypeError(f"shadowmmu_check has no {', '.join(options)}")
        settings.check()
        runner = tasks.Runner(settings)
        result = runner.run(tasks.Task(machine, vcpus, "random", seed, operations, length, 0))
        if result.found:
            from .finding import minimal
            pytest.fail(minimal(runner.finder.arena, Found(*result.found)).text(), pytrace=False)
        return result

    return check
