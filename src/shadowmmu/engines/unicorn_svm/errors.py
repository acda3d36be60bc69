# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception this room raises for things it cannot do."""


class EngineError(Exception):
    """The engine is missing, is not the version we know, or met something it cannot execute.

    The message is one line and says what and where.
    """
