# SPDX-License-Identifier: GPL-2.0-or-later
"""The role without `direct`.

id:      R.direct
year:    -
commits: -
cve:     -
rules:   linux-6.12
change:  role_ignores=0x80
breaks:  direct-pages
needs:   -
length:  2

See S004.direct; here the pages know what they are, and the lookup does not ask.

Fix: the bit is compared.
"""
