# SPDX-License-Identifier: GPL-2.0-or-later
"""Role words of each kernel against ours: places from role_btf.txt of the recordings, translation both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmmu.trace import layouts

PLACES = {
    "6.12": {"level": 0, "has_4_byte_gpte": 4, "quadrant": 5, "direct": 7, "access": 8, "invalid": 11, "efer_nx": 12,
             "cr0_wp": 13, "smep_andnot_wp": 14, "smap_andnot_wp": 15, "ad_disabled": 16, "guest_mode": 17,
             "passthrough": 18, "smm": 24},
    "7.2": {"level": 0, "has_4_byte_gpte": 4, "quadrant": 5, "direct": 7, "access": 8, "invalid": 12, "efer_nx": 13,
            "cr0_wp": 14, "smap_andnot_wp": 15, "ad_disabled": 16, "guest_mode": 17, "passthrough": 18,
            "is_mirror": 19, "cr4_smep": 20, "smm": 24},
}


@pytest.mark.parametrize("kernel", PLACES)
def test_places_are_the_kernels(kernel):
    assert {name: at for name, at, _bits in layouts.LAYOUTS[kernel].role} == PLACES[kernel]


@pytest.mark.parametrize(("text", "kernel"), [
    ("6.12", "6.12"), ("linux-6.1", "6.1"), ("6.12.95+deb12-cloud-amd64", "6.12"), ("7.2.12", "7.2"),
    ("5.15.0", "5.15"),
    ("6.8.0-31-generic", "6.12"), ("5.19", "6.1"), ("8.0", "7.2"), ("6.1.0-56-cloud-amd64", "6.1")])
def test_kernel_names(text, kernel):
    assert layouts.layout_of(text).kernel == kernel


def test_no_version():
    with pytest.raises(ValueError, match="no kernel version"):
        layouts.layout_of("penguin")


@given(st.integers(0, 2**32 - 1), st.sampled_from(layouts.KERNELS))
def test_a_kernels_word_survives_ours(word, kernel):
    layout = layouts.LAYOUTS[kernel]
    word = layout.pack(layout.unpack(word)) | 1     # a page has a level
    if layout.wide_access:
        word |= 1 << 8                                # every page is readable with shadow paging
    assert layouts.role_to_kernel(layouts.role_from_kernel(word, kernel), kernel) == word


def test_known_words():
    ours = layouts.role_from_kernel(0x3704, "6.12")
    assert layouts.role_to_kernel(ours, "7.2") == 0x6F04
    assert layouts.role_to_kernel(ours, "5.15") == 0x3714
    assert layouts.describe(0x6F04, "7.2") == "level 4, 8-byte entries, access rwux, efer_nx, cr0_wp"


def test_extended_roles():
    from shadowmmu.mmu import roles
    ext = roles.EXT_VALID | roles.EXT_LMA
    role = layouts.role_from_kernel(0x3704, "6.12")
    assert layouts.ext_to_kernel(ext, "6.12", role) == 0x81
    assert layouts.ext_to_kernel(ext, "7.2", role) == 0xC1
    assert layouts.ext_to_kernel(ext, "5.15", role) == 1 | 1 << 2 | 1 << 3 | 1 << 9
    for kernel in layouts.KERNELS:
        assert layouts.ext_from_kernel(layouts.ext_to_kernel(ext, kernel, role), kernel) == ext
