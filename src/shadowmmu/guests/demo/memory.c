/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * memory.c - what a process's addresses mean: areas, demand paging, copy-on-write.
 *
 * A private page is writable in the PTE only while its frame has one user. A write fault in a
 * writable area is therefore copy-on-write; no software bit in the PTE is needed.
 */
#include "kernel.h"

#define OBJECTS         32
#define OBJECT_PAGES    16

/* Pages shared by key (SYS_MAP with MAP_SHARED); the object holds one use of each frame. */
static struct { u64 key; u32 areas; u64 frames[OBJECT_PAGES]; } objects[OBJECTS];

static int shared(const struct area *area) { return area->kind == AREA_SHARED; }

struct area *area_find(struct process *process, u64 va)
{
    for (int i = 0; i < process->area_count; i++)
        if (va >= process->areas[i].start && va < process->areas[i].end)
            return &process->areas[i];
    return 0;
}

struct area *area_add(struct process *process, u64 start, u64 end, int protection, int kind)
{
    struct area *area = &process->areas[process->area_count++];

    if (process->area_count > MAX_AREAS)
        panic("too many areas");
    *area = (struct area){ .start = start, .end = end, .protection = protection, .kind = kind };
    return area;
}

static void object_release(const struct area *area)
{
    if (!shared(area) || --objects[area->object].areas)
        return;
    for (int i = 0; i < OBJECT_PAGES; i++)
        if (objects[area->object].frames[i]) {
            frame_drop(objects[area->object].frames[i]);
            objects[area->object].frames[i] = 0;
        }
}

static u64 object_frame(const struct area *area, u64 va)
{
    u64 *frame = &objects[area->object].frames[(area->base + va - area->start) / PAGE];

    if (!*frame) {
        *frame = frame_take();
        fill_words(direct(*frame), 0, 512);
    }
    return *frame;
}

static u64 rights_of(const struct area *area)
{
    return P_PRESENT | P_USER | (area->protection & MAP_EXEC ? 0 : P_NX);
}

/* The frame behind a private page nobody wrote yet: a page of the image or the page of zeroes. */
static u64 pristine_frame(const struct area *area, u64 va)
{
    return area->kind == AREA_IMAGE ? area->base + va - area->start : (u64)zero_page - KERNEL_BASE;
}

static u64 private_copy(u64 from)
{
    u64 to = frame_take();

    copy_words(window_map(to), direct(from), 512);
    return to;
}

static int large_fill(struct process *process, const struct area *area, u64 va)
{
    u64 start = va & ~(LARGE_PAGE - 1), pa, *pde;

    if (area->kind != AREA_LARGE || start < area->start || start + LARGE_PAGE > area->end)
        return 0;
    pde = entry_of(&process->space, va, 2, 1);
    if (*pde || !(pa = large_frame_take()))
        return 0;
    fill_words(direct(pa), 0, LARGE_PAGE / 8);
    *pde = pa | rights_of(area) | P_WRITE | P_LARGE;    /* R1 */
    totals.large++;
    return 1;
}

/* Write fault on a present private page: take the frame over when this is its last user. */
static void break_copy(struct process *process, u64 *pte, u64 page)
{
    u64 frame = *pte & P_FRAME;

    if (frame_users(frame) == 1) {
        *pte |= P_WRITE;        /* R4: more rights, the #PF dropped the old translation */
        process->reused++;
        totals.reused++;
        return;
    }
    /* Another frame: the #PF dropped the old translation, but the CPU may have cached it again by
     * speculation since, so INVLPG after the change (R2). */
    *pte = private_copy(frame) | P_WRITE | (*pte & (P_PRESENT | P_USER | P_NX));
    page_flush(page);
    frame_drop(frame);
    process->copied++;
    totals.copied++;
}

/* Resolve a #PF at `va` with this error code. 0: the process had no right to do that. */
int fault_resolve(struct process *process, u64 va, u64 error)
{
    struct area *area = va < USER_END ? area_find(process, va) : 0;
    u64 page = va & ~(PAGE - 1), *pte;
    int write = !!(error & PF_WRITE);

    if (!area || (write && !(area->protection & MAP_WRITE)) ||
        (error & PF_FETCH && !(area->protection & MAP_EXEC)))
        return 0;
    if (options.verbose)
        print("fault pid %u at 0x%x error 0x%x\n", (u64)process->pid, va, error);
    process->faults++;
    totals.faults++;
    pte = entry_of(&process->space, page, 1, 0);
    if (!pte && large_fill(process, area, va))
        return 1;
    pte = entry_of(&process->space, page, 1, 1);
    if (!pte || (*pte & P_PRESENT && (!write || *pte & P_WRITE))) {
        totals.spurious++;      /* R4: the tables allow it by now */
        return 1;
    }
    if (*pte & P_PRESENT) {
        if (shared(area))
            *pte |= P_WRITE;
        else
            break_copy(process, pte, page);
        return 1;
    }
    process->filled++;
    totals.filled++;
    if (shared(area)) {
        u64 frame = object_frame(area, page);

        frame_share(frame);
        *pte = frame | rights_of(area) | (area->protection & MAP_WRITE ? P_WRITE : 0);
    } else if (write) {
        *pte = private_copy(pristine_frame(area, page)) | rights_of(area) | P_WRITE;
    } else {
        *pte = pristine_frame(area, page) | rights_of(area);
    }
    return 1;
}

/* fork: the child gets the parent's areas and pages; private ones become read-only in both. */
void areas_copy(struct process *parent, struct process *child)
{
    int weakened = 0;
    u64 last = 0;

    child->area_count = parent->area_count;
    child->heap_end = parent->heap_end;
    for (int i = 0; i < parent->area_count; i++) {
        struct area *area = &parent->areas[i];

        child->areas[i] = *area;
        if (shared(area))
            objects[area->object].areas++;
        for (u64 va = area->start; va < area->end; va += PAGE) {
            u64 *pte;

            split_large(&parent->space, va);
            pte = entry_of(&parent->space, va, 1, 0);
            if (!pte || !(*pte & P_PRESENT))
                continue;
            if (!shared(area) && *pte & P_WRITE) {
                *pte &= ~P_WRITE;
                weakened++;
                last = va;
            }
            frame_share(*pte & P_FRAME);
            *entry_of(&child->space, va, 1, 1) = *pte & ~(P_ACCESSED | P_DIRTY);        /* R1 */
        }
    }
    /* The parent runs on: what it may still hold as writable must go (R2). */
    if (weakened == 1)
        page_flush(last);
    else if (weakened)
        space_flush(&parent->space);
}

static void page_unmap(struct process *process, u64 va)
{
    u64 *pte, old;

    pte = entry_of(&process->space, va, 1, 0);
    if (!pte || !(*pte & P_PRESENT))
        return;
    old = *pte;
    *pte = 0;
    page_flush(va);             /* R2: before the frame can become something else */
    frame_drop(old & P_FRAME);
}

/* Drop the pages of [start, end) of the loaded process, whole large pages as one. */
static void pages_unmap(struct process *process, u64 start, u64 end)
{
    for (u64 va = start; va < end; va += PAGE) {
        u64 *pde = entry_of(&process->space, va, 2, 0);

        if (pde && *pde & P_LARGE) {
            if (!(va & (LARGE_PAGE - 1)) && va + LARGE_PAGE <= end) {
                u64 pa = *pde & P_FRAME & ~(LARGE_PAGE - 1);

                *pde = 0;
                page_flush(va); /* R2; one INVLPG drops all of a large page (SDM 4.10.4.2) */
                for (u64 i = 0; i < 512; i++)
                    frame_drop(pa + i * PAGE);
                va += LARGE_PAGE - PAGE;
                continue;
            }
            split_large(&process->space, va);
        }
        page_unmap(process, va);
    }
    for (u64 va = start & ~(LARGE_PAGE - 1); va < end; va += LARGE_PAGE)
        tables_trim(&process->space, va);
}

/* Make `va` a border between areas. */
static void area_cut(struct process *process, u64 va)
{
    struct area *area = area_find(process, va), *rest;

    if (!area || area->start == va)
        return;
    rest = area_add(process, va, area->end, area->protection, area->kind);
    rest->object = area->object;
    rest->base = area->base + va - area->start;
    area->end = va;
    if (shared(area))
        objects[area->object].areas++;
}

void unmap_range(struct process *process, u64 start, u64 end)
{
    area_cut(process, start);
    area_cut(process, end);
    pages_unmap(process, start, end);
    for (int i = 0; i < process->area_count; i++)
        if (process->areas[i].start >= start && process->areas[i].end <= end) {
            object_release(&process->areas[i]);
            process->areas[i--] = process->areas[--process->area_count];
        }
}

/* New rights for [start, end). Rights taken away are flushed; rights given come by fault. */
void protect_range(struct process *process, u64 start, u64 end, int protection)
{
    area_cut(process, start);
    area_cut(process, end);
    for (int i = 0; i < process->area_count; i++) {
        struct area *area = &process->areas[i];

        if (area->start < start || area->end > end)
            continue;
        area->protection = protection;
        for (u64 va = area->start; va < area->end; va += PAGE) {
            u64 *pte;

            split_large(&process->space, va);
            pte = entry_of(&process->space, va, 1, 0);
            if (!pte || !(*pte & P_PRESENT))
                continue;
            *pte = (*pte & ~P_NX) | (protection & MAP_EXEC ? 0 : P_NX);
            if (!(protection & MAP_WRITE))
                *pte &= ~P_WRITE;
            page_flush(va);     /* R2 */
        }
    }
}

/* Exit: every page of a process whose tables are not loaded; no flush, the PCID is marked. */
void areas_drop(struct process *process)
{
    for (int i = 0; i < process->area_count; i++) {
        struct area *area = &process->areas[i];

        for (u64 va = area->start; va < area->end; va += PAGE) {
            u64 *pde = entry_of(&process->space, va, 2, 0), *pte;

            if (pde && *pde & P_LARGE) {
                frame_drop((*pde & P_FRAME & ~(LARGE_PAGE - 1)) + (va & (LARGE_PAGE - 1)));
                continue;
            }
            pte = entry_of(&process->space, va, 1, 0);
            if (pte && *pte & P_PRESENT)
                frame_drop(*pte & P_FRAME);
        }
        object_release(area);
    }
    process->area_count = 0;
}

static int object_for(u64 key)
{
    int empty = -1;

    for (int i = OBJECTS - 1; i >= 0; i--) {
        if (objects[i].areas && objects[i].key == key)
            return i;
        if (!objects[i].areas)
            empty = i;
    }
    if (empty < 0)
        panic("too many shared objects");
    objects[empty].key = key;
    return empty;
}

/* First fit from MAP_START, so an address just unmapped is the next one given out. */
u64 map_area(struct process *process, u64 length, int flags, u64 key)
{
    u64 step = flags & MAP_LARGE ? LARGE_PAGE : PAGE, start = MAP_START;
    int kind = flags & MAP_SHARED ? AREA_SHARED : flags & MAP_LARGE ? AREA_LARGE : AREA_ANONYMOUS;
    struct area *area;

    length = (length + PAGE - 1) & ~(PAGE - 1);
    if (!length || length > 64 * LARGE_PAGE || (kind == AREA_SHARED && length > OBJECT_PAGES * PAGE))
        return -1UL;
    for (int i = 0; i < process->area_count; i++) {
        area = &process->areas[i];
        if (start < area->end && area->start < start + length) {
            start = (area->end + step - 1) & ~(step - 1);
            i = -1;
        }
    }
    area = area_add(process, start, start + length, flags & (MAP_WRITE | MAP_EXEC), kind);
    if (kind == AREA_SHARED) {
        area->object = object_for(key);
        objects[area->object].areas++;
    }
    return start;
}

u64 heap_set(struct process *process, u64 end)
{
    struct area *heap = area_find(process, HEAP_START);

    end = (end + PAGE - 1) & ~(PAGE - 1);
    if (end < HEAP_START || end > MAP_START)
        return process->heap_end;
    if (end < process->heap_end)
        unmap_range(process, end, process->heap_end);
    else if (heap)
        heap->end = end;
    else if (end > HEAP_START)
        area_add(process, HEAP_START, end, MAP_WRITE, AREA_ANONYMOUS);
    return process->heap_end = end;
}

/* Working set of [start, end): how many pages have A, how many D; both cleared. Clearing needs
 * INVLPG, or the CPU goes on with the old translation and sets neither again (R2). */
u64 harvest(struct process *process, u64 start, u64 end)
{
    u64 accessed = 0, dirty = 0;

    for (u64 va = start; va < end; va += PAGE) {
        u64 *pte = entry_of(&process->space, va, 1, 0);

        if (!pte || !(*pte & (P_ACCESSED | P_DIRTY)))
            continue;           /* D without A: accessed_scan() was here in between */
        accessed += !!(*pte & P_ACCESSED);
        dirty += !!(*pte & P_DIRTY);
        *pte &= ~(P_ACCESSED | P_DIRTY);
        page_flush(va);
    }
    return dirty << 32 | accessed;
}

/* The kernel's own scan, of any process: counts and clears A only. One flush at the end. */
void accessed_scan(struct process *process, u32 *resident, u32 *accessed)
{
    *resident = *accessed = 0;
    for (int i = 0; i < process->area_count; i++)
        for (u64 va = process->areas[i].start; va < process->areas[i].end; va += PAGE) {
            u64 *pte = entry_of(&process->space, va, 1, 0);

            if (!pte || !(*pte & P_PRESENT))
                continue;
            ++*resident;
            if (*pte & P_ACCESSED)
                ++*accessed;
            /* atomic: a CPU that runs the process may set D at this moment */
            __atomic_fetch_and(pte, ~P_ACCESSED, __ATOMIC_SEQ_CST);
        }
    space_flush(&process->space);
}
