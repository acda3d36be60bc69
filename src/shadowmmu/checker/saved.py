# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a search has come, in a file: written atomically every few seconds, read by `check --resume FILE`.

    line 1   {"format": "shadowmmu check", "version": 1, "source": ..., "patch": ..., "settings": {...}}
    rest     what `portfolio.Plan.save` made; nothing if no step has been done yet

A plan goes on exactly where it was saved: the continued search does what an uninterrupted one does.
"""

import json
import os
import pathlib
import tempfile
from dataclasses import dataclass

from .. import __version__
from . import known
from .portfolio import Plan, PlanError
from .tasks import Settings, SettingsError, patch_key, source_key

FORMAT, VERSION = "shadowmmu check", 2
#: No file of ours comes near this: at most a digest for every second place of `seen`, and the traces.
MAX_HEAD, MAX_BYTES = 1 << 16, 1 << 32


class SavedError(Exception):
    """A file that cannot be used; the message says which and why."""


@dataclass
class Totals:
    """Sums over one machine and number of vCPUs.  depth: the longest sequence; complete_depth: every sequence of so many
    operations of the short alphabet has been done, -1 without exhaustive search.  covered: set of `coverage.NAMES`."""

    machine: str
    vcpus: int
    operations: int = 0
    states: int = 0
    depth: int = 0
    seconds: float = 0.0
    skipped: int = 0
    abandoned: int = 0
    complete_depth: int = -1
    exhausted: bool = False
    covered: int = 0

    def add(self, result):
        """Count a Result."""
        for name in ("operations", "states", "seconds", "skipped", "abandoned"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.depth = max(self.depth, result.depth)
        self.complete_depth = max(self.complete_depth, result.complete_depth)
        self.exhausted |= result.exhausted
        self.covered |= result.covered


def new_plan(settings, progress=None):
    """The plan of these settings."""
    return Plan(settings.rules, settings.seed, settings.machines, settings.vcpus, known.mask(settings.aside),
                length=settings.length, progress=progress)


def default_path(settings):
    """Where a search without --resume is kept: one file for each combination of settings, rules and patch."""
    import hashlib
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    text = json.dumps([settings.as_dict(), patch_key()])
    return os.path.join(base, "shadowmmu", f"check-{hashlib.sha256(text.encode()).hexdigest()[:8]}.plan")


def save(path, settings, plan):
    """Replace the file as a whole: it is either the old one or the new one.  Raises SavedError."""
    head = {"format": FORMAT, "version": VERSION, "shadowmmu": __version__, "source": source_key(), "patch": patch_key(),
            "settings": settings.as_dict()}
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=path.name, suffix=".new", delete=False) as file:
            file.write(json.dumps(head).encode() + b"\n" + plan.save())
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError as error:
        raise SavedError(f"cannot write {path}: {error.strerror}") from None


def read_bytes(path, limit):
    """A file of at most so many bytes; SavedError in one line for everything that is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SavedError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise SavedError(f"{path}: larger than {limit >> 10} KiB, not a file of this kind")
    return data


def read_text(path, limit):
    """A small text file."""
    try:
        text = read_bytes(path, limit).decode()
    except UnicodeDecodeError:
        raise SavedError(f"{path}: not a text file") from None
    if "\0" in text:
        raise SavedError(f"{path}: not a text file")
    return text


def load(path, progress=None):
    """(Settings, Plan) of a file.  SavedError if it is damaged or belongs to other sources or another patch."""
    head, _, body = read_bytes(path, MAX_BYTES).partition(b"\n")
    try:
        document = json.loads(head) if len(head) <= MAX_HEAD else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SavedError(f"{path}: not a saved search, or damaged")
    if document.get("version") != VERSION:
        raise SavedError(f"{path}: version {document.get('version')}, this program reads {VERSION}")
    if document.get("patch") != patch_key():
        raise SavedError(f"{path}: was searched with patch {document.get('patch') or '(none)'}, now {patch_key() or '(none)'}")
    if document.get("source") != source_key():
        raise SavedError(f"{path}: was made by other sources ({document.get('source')}, now {source_key()}); start again")
    try:
        settings = Settings.from_dict(document.get("settings"))
        plan = Plan.restore(body, progress)
    except (SettingsError, PlanError) as error:
        raise SavedError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, MemoryError):
        raise SavedError(f"{path}: damaged") from None
    return settings, plan
