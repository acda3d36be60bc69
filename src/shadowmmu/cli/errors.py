# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors that a user can do something about: one line on stderr, exit code 2."""

from ..checker.main import USER_ERRORS as CHECK_ERRORS
from ..engines.unicorn_svm.errors import EngineError
from ..guests.image import GuestImageError
from ..lab.errors import LabError
from ..museum.exhibit import ExhibitError
from ..state import PatchError
from ..trace.errors import TraceError
from ..vm import VmError

USER_ERRORS = (*CHECK_ERRORS, EngineError, ExhibitError, GuestImageError, LabError, PatchError, TraceError, VmError)


class UsageError(Exception):
    """An option or file that cannot be used; the message says what and why."""
