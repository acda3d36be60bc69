# SPDX-License-Identifier: GPL-2.0-or-later
"""What userspace and the host's memory management do to a VM, as operations.

    write behind the MMU's back | memslots | dirty logs | notifiers: unmap, migrate, age | the quota

An operation that was only begun (parameter `begin`) has released mmu_lock in the middle: a dirty log is write-protected and not
yet flushed, a notifier has started and the pages are still there.  `finish` does the rest; until then the host begins nothing
else (slots_lock, mmap_lock).
"""

from .. import state
from ..mmu import dirty, flush, host, memslots, roles, shadow_pages, zap
from ..state import core
from . import architecture, known, ops
from . import area as areas

#: First word of PENDING while a fault is under way (execute.FAULT).
FAULT_BEGUN = 1


@core
def look_at_host(vm, area):
    """The host may have given a page."""
    h = areas.head(vm, area)
    if h[areas.FREE_RAM] != vm.n_free_ram:
        h[areas.FREE_RAM] = vm.n_free_ram
        architecture.frames(vm, area)


@core
def empty_free_frames(vm):
    """A frame that the host has taken back holds nothing."""
    free = state.words(vm, vm.free_ram)
    for i in range(vm.n_free_ram):
        host.zero_frame(vm, free[i])


@core
def taint(vm, area, page):
    """Before the host changes the page at hva page `page`: is it a guest page table that KVM believes in?

    A shadow page that is unsync is reread at the next flush, an obsolete one is never used again.
    """
    for i in range(vm.n_slots):
        slot = state.slot(vm, i)
        if not slot.used or not slot.hva <= page < slot.hva + slot.npages:
            continue
        gfn = slot.base_gfn + page - slot.hva
        k = shadow_pages.hash_first(vm, gfn)
        while k >= 0:
            sp = state.page(vm, k)
            k = sp.hash_next
            if sp.gfn == gfn and roles.has_gptes(sp.role) and not sp.unsync and not shadow_pages.is_obsolete(vm, sp):
                areas.head(vm, area)[areas.TAINTED] = 1


@core
def move_page(vm, page):
    """The primary MMU gives the page at hva page `page` another frame with the same contents."""
    table = state.words(vm, vm.hva)
    old = table[page] & host.PFN_MASK
    # a large host mapping is split by it
    host.unmap(vm, page)
    free = state.words(vm, vm.free_ram)
    new = free[vm.n_free_ram - 2]
    free[vm.n_free_ram - 2] = old
    vm.n_free_ram -= 1
    ram = state.words(vm, vm.ram)
    n = 1 << (vm.page_shift - 3)
    for i in range(n):
        ram[(new - vm.ram_pfn) * n + i] = ram[(old - vm.ram_pfn) * n + i]
    table[page] = 1 << host.LEVEL_SHIFT | new


@core
def change_pages(vm, area, code, page, npages):
    """Between a notifier's start and its end: the pages go (UNMAP), or one moves (MIGRATE)."""
    if code == ops.UNMAP:
        for k in range(page, page + npages):
            taint(vm, area, k)
            host.unmap(vm, k)
    elif state.words(vm, vm.hva)[page] != host.ABSENT and vm.n_free_ram:
        move_page(vm, page)
    empty_free_frames(vm)


@core
def split_first(vm, page):
    """Before one page of a large mapping changes, the host splits the mapping, with a notifier event for all of it
    (__split_huge_pmd)."""
    level = state.words(vm, vm.hva)[page] >> host.LEVEL_SHIFT
    if state.words(vm, vm.hva)[page] == host.ABSENT or level == 1:
        return
    unit = 1 << (vm.level_bits * (level - 1))
    dirty.invalidate_begin(vm, page & -unit, unit)
    host.split(vm, page)
    dirty.invalidate_end(vm)


@core
def notify(vm, area, code, page, npages, begin):
    """An MMU notifier event; False if there is nothing to do."""
    if state.words(vm, vm.hva)[page] == host.ABSENT or code == ops.MIGRATE and vm.n_free_ram == 0:
        return False
    for k in range(page, page + npages):
        split_first(vm, k)
    dirty.invalidate_begin(vm, page, npages)
    if begin:
        leave_open(vm, area, code, page, npages)
        return True
    change_pages(vm, area, code, page, npages)
    dirty.invalidate_end(vm)
    return True


@core
def leave_open(vm, area, code, a, b):
    """Note what `finish` needs."""
    h = areas.head(vm, area)
    h[areas.HOST_CODE] = code
    h[areas.HOST_A] = a
    h[areas.HOST_B] = b


@core
def log_dirty(vm, area, as_id, slot_id, on, begin):
    """KVM_MEM_LOG_DIRTY_PAGES on or off; False if that changes nothing."""
    i = dirty.find_slot(vm, as_id, slot_id)
    if i < 0 or state.slot(vm, i).flags & memslots.LOG_DIRTY_PAGES == on:
        return False
    result = dirty.apply_flags(vm, as_id, slot_id, state.slot(vm, i).flags & ~memslots.LOG_DIRTY_PAGES | on)
    if result == dirty.FLUSH_DUE:
        flush_or_leave_open(vm, area, ops.DIRTY_LOG, begin)
    return result >= 0


@core
def read_dirty_log(vm, area, as_id, slot_id, begin):
    """KVM_GET_DIRTY_LOG; False if no page is dirty."""
    count = dirty.collect_dirty_log(vm, as_id, slot_id, areas.common(vm, area, areas.OUTCOMES))
    if count > 0:
        flush_or_leave_open(vm, area, ops.DIRTY_READ, begin)
    return count > 0


@core
def flush_or_leave_open(vm, area, code, begin):
    """After write protection for a dirty log."""
    if begin:
        leave_open(vm, area, code, 0, 0)
    else:
        flush.remote_tlbs(vm)


@core
def finish(vm, area):
    """The rest of what the host began; False if it began nothing."""
    h = areas.head(vm, area)
    code = h[areas.HOST_CODE] + 0
    h[areas.HOST_CODE] = 0
    if code == ops.UNMAP or code == ops.MIGRATE:
        if h[areas.ASIDE] & known.INVLPG_NOTIFIER and state.rules(vm).invlpg_zaps:
            dirty.invalidate_begin(vm, h[areas.HOST_A], h[areas.HOST_B])
            vm.invalidate_in_progress -= 1
        change_pages(vm, area, code, h[areas.HOST_A], h[areas.HOST_B])
        dirty.invalidate_end(vm)
    elif code:
        flush.remote_tlbs(vm)
    return code != 0


@core
def write(vm, area, gpa, value, size):
    """The host writes guest memory (kvm_write_guest: address space 0)."""
    i = memslots.gfn_to_memslot(vm, 0, gpa >> vm.page_shift)
    if i >= 0:
        taint(vm, area, memslots.gfn_to_hva(vm, i, gpa >> vm.page_shift))
    return host.write_guest_page(vm, i, gpa, value, size)


@core
def awaited(vm, area, slot_id):
    """Is a fault under way that has looked for a memslot and found this one, or none?  A change of memslots waits until nobody
    uses the old ones any more (synchronize_srcu in kvm_swap_active_memslots)."""
    for v in range(vm.n_vcpus):
        if areas.part(vm, area, v, areas.PENDING)[0] == FAULT_BEGUN:
            i = state.fault(vm, v * 2).slot
            if i < 0 or state.slot(vm, i).id == slot_id:
                return True
    return False


@core
def from_host(vm, area, code, a, b, c, d, e):
    """What userspace or the host's memory management does."""
    h = areas.head(vm, area)
    done = False
    if code == ops.HOST_FINISH:
        done = finish(vm, area)
    elif h[areas.HOST_CODE]:
        done = False
    elif code == ops.HOST_WRITE:
        done = write(vm, area, a, b, c)
    elif ops.SLOT_DELETE <= code <= ops.SLOT_MOVE and awaited(vm, area, -1 if code == ops.SLOT_CREATE else a):
        done = False
    elif code == ops.SLOT_DELETE:
        done = dirty.delete_memslot(vm, b, a) >= 0
    elif code == ops.SLOT_CREATE:
        done = dirty.find_slot(vm, e & 1, a) < 0 and dirty.create_memslot(vm, e & 1, a, b, c, d, e >> 1) >= 0
    elif code == ops.SLOT_MOVE:
        done = dirty.move_memslot(vm, c, a, b) >= 0
    elif code == ops.DIRTY_LOG:
        done = log_dirty(vm, area, c, a, b, d)
    elif code == ops.DIRTY_READ:
        done = read_dirty_log(vm, area, b, a, c)
    elif code == ops.DIRTY_CLEAR:
        done = dirty.clear_dirty_log(vm, d, a, b, c) >= 0
    elif code == ops.UNMAP:
        done = notify(vm, area, code, a, b, c)
    elif code == ops.MIGRATE:
        done = notify(vm, area, code, a, 1, b)
    elif code == ops.AGE:
        done = dirty.age_hva_range(vm, a, b)
    elif code == ops.SET_NR_MMU_PAGES:
        done = vm.n_max_mmu_pages != a
        if done:
            dirty.set_nr_mmu_pages(vm, a)
    elif code == ops.NX_RECOVERY:
        done = zap.recover_nx_huge_pages(vm, a) > 0
    if not done:
        h[areas.SKIPPED] = 1
    h[areas.FREE_RAM] = vm.n_free_ram
    architecture.frames(vm, area)
    h[areas.STALE] = -1
