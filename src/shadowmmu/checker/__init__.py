# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking for a guest-visible violation: operations, search, and the properties that must hold (`invariants`)."""
