# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUs that run guest code and take every translation from the shadow MMU."""
