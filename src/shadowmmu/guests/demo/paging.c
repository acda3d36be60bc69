/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * paging.c - paging structures, and every instruction that invalidates what a CPU cached of them.
 *
 * The rules obeyed (SDM vol. 3, 4.10; the same in APM vol. 2, 5.5):
 *   R1  a P=0 entry is never cached: making an entry present needs no invalidation;
 *   R2  an entry that was present may be cached, with any rights and A/D bits it had, until
 *       INVLPG of its address, a MOV CR3 that flushes its PCID, or (global) INVLPG/CR4 writes;
 *   R3  paging-structure caches hold upper-level entries of the PCID: INVLPG of any address, or a
 *       flushing MOV CR3, drops them all. Before a table page is reused, one of them must happen;
 *   R4  a #PF drops the translations of the faulting address; more rights may be given without
 *       INVLPG at the price of one spurious fault;
 *   R5  a load with CR3[63]=1 keeps the PCID's translations: only for a PCID not changed meanwhile;
 *   R6  changing a translation's page size: clear the entry, invalidate, then install the new one.
 */
#include "kernel.h"

extern u64 boot_pml4[], boot_pml5[], direct_pdpt[], image_pd[];
extern int paging_levels;
extern char kernel_text_start[], kernel_text_end[], kernel_rodata_end[];

static u64 image_table[512] __attribute__((aligned(4096)));
static u64 zeroes[512] __attribute__((aligned(4096)));
static u8 was_table[(64UL << 20) / PAGE];       /* frames that have been paging structures before */

u64 *const zero_page = zeroes;

#define WINDOW (KERNEL_BASE + 2 * LARGE_PAGE - PAGE)
static u64 window_table[512] __attribute__((aligned(4096)));

static u64 kernel_pa(const void *symbol)
{
    return (u64)symbol - KERNEL_BASE;
}

static u64 kernel_root(void)
{
    return kernel_pa(paging_levels == 5 ? boot_pml5 : boot_pml4);
}

static int index_of(u64 va, int level)
{
    return va >> (12 + 9 * (level - 1)) & 511;
}

/* Drop one page of the loaded space, or of the kernel, on this CPU. A process has one thread, so no other CPU has its space
 * loaded; but one that ran it before may have kept translations under its PCID. */
void page_flush(u64 va)
{
    totals.invlpg++;
    invlpg(va);
    if (va < USER_END && current)
        current->space.stale |= ~(1 << cpu_number());
}

/* Replace the image's 2 MiB page by 4 KiB pages: text read-only, all else not executable. */
static void image_protect(void)
{
    for (u64 i = 0; i < 512; i++) {
        u64 va = KERNEL_BASE + i * PAGE;
        u64 rights = P_PRESENT | P_GLOBAL;

        if (va >= (u64)kernel_text_start && va < (u64)kernel_text_end)
            ;
        else if (va >= (u64)kernel_text_end && va < (u64)kernel_rodata_end)
            rights |= P_NX;
        else
            rights |= P_NX | P_WRITE;
        image_table[i] = i * PAGE | rights;
    }
    /* R6 asks for a cleared entry in between, but this code runs through that very entry: load the
     * new one whole. Both map the same addresses to the same frames, so a mixture is harmless until
     * the flush: PGE is still off, MOV CR3 drops everything. */
    image_pd[0] = kernel_pa(image_table) | P_PRESENT | P_WRITE;
    write_cr3(kernel_root());
}

void paging_start(void)
{
    image_protect();
    image_pd[1] = kernel_pa(window_table) | P_PRESENT | P_WRITE;        /* R1 */
    boot_pml4[0] = 0;                   /* the identity map has served */
    boot_pml5[0] = 0;
    write_cr3(kernel_root());           /* R2, R3 */
    write_cr4(read_cr4() | CR4_PGE);    /* from here on G counts; the write flushes all once more */
    if (options.pcid)
        write_cr4(read_cr4() | CR4_PCIDE);      /* CR3[11:0] is 0 here, as the CPU demands */
}

/* A kernel address through which one frame can be read and written until the next call. Global,
 * so MOV CR3 would not drop the old translation: INVLPG does (R2). */
void *window_map(u64 pa)
{
    window_table[511] = pa | P_PRESENT | P_WRITE | P_GLOBAL | P_NX;
    page_flush(WINDOW);
    return (void *)WINDOW;
}

/* A device's page at a kernel address beside the window. */
void window_fix(u64 va, u64 pa)
{
    window_table[va / PAGE & 511] = pa | P_PRESENT | P_WRITE | P_GLOBAL | P_NX | P_UNCACHED;    /* R1 */
}

static u64 table_take(struct space *space)
{
    u64 pa = frame_take();

    fill_words(direct(pa), 0, 512);
    space->tables++;
    totals.tables_made++;
    if (was_table[pa / PAGE])
        totals.tables_recycled++;
    was_table[pa / PAGE] = 1;
    return pa;
}

/* The entry that maps `va` at `level` (1: a PTE, 2: a PDE), or 0 if a table above is missing or a
 * larger page is in the way. With `make`, missing tables are made. */
u64 *entry_of(struct space *space, u64 va, int level, int make)
{
    u64 *table = direct(space->root);

    for (int l = paging_levels; l > level; l--) {
        u64 *entry = &table[index_of(va, l)];

        if (!(*entry & P_PRESENT)) {
            if (!make)
                return 0;
            *entry = table_take(space) | P_PRESENT | P_WRITE | P_USER;
        } else if (*entry & P_LARGE) {
            return 0;
        }
        table = direct(*entry & P_FRAME);
    }
    return &table[index_of(va, level)];
}

/* Turn the 2 MiB page at `va`, if there is one, into 512 small ones with the same rights. */
void split_large(struct space *space, u64 va)
{
    u64 *pde = entry_of(space, va, 2, 0);
    u64 old, table_pa, *table;

    if (!pde || (*pde & (P_PRESENT | P_LARGE)) != (P_PRESENT | P_LARGE))
        return;
    table_pa = table_take(space);
    table = direct(table_pa);
    old = *pde;                 /* one CPU: nobody sets A or D between this and the next line */
    *(volatile u64 *)pde = 0;   /* R6 */
    page_flush(va);
    for (u64 i = 0; i < 512; i++)
        table[i] = (old & ~P_LARGE) + i * PAGE;
    *pde = table_pa | P_PRESENT | P_WRITE | P_USER;
    totals.splits++;
}

static int table_empty(const u64 *table)
{
    for (int i = 0; i < 512; i++)
        if (table[i])
            return 0;
    return 1;
}

/* Free the tables above `va` that have become empty, lowest first. */
void tables_trim(struct space *space, u64 va)
{
    for (int level = 2; level <= paging_levels; level++) {
        u64 *entry = entry_of(space, va, level, 0);
        u64 pa;

        if (!entry || !(*entry & P_PRESENT))
            continue;
        pa = *entry & P_FRAME;
        if (*entry & P_LARGE || !table_empty(direct(pa)))
            return;
        *entry = 0;
        page_flush(va);         /* R3: before the page can become something else */
        space->tables--;
        frame_drop(pa);
    }
}

void space_make(struct space *space, u16 pcid)
{
    u64 *root;

    space->tables = 0;
    space->root = table_take(space);
    space->pcid = pcid;
    space->stale = 0xff;        /* a dead process may have left translations under this PCID (R5) */
    root = direct(space->root);
    if (paging_levels == 5)
        root[511] = kernel_pa(boot_pml4) | P_PRESENT | P_WRITE;
    else
        copy_words(root + 256, boot_pml4 + 256, 256);
}

static void table_destroy(u64 pa, int level, int entries)
{
    u64 *table = direct(pa);

    for (int i = 0; level > 1 && i < entries; i++)
        if (table[i] & P_PRESENT && !(table[i] & P_LARGE))
            table_destroy(table[i] & P_FRAME, level - 1, 512);
    frame_drop(pa);
}

/* Free all tables; the pages they map have been dropped. The space must not be loaded, and its
 * PCID is flushed when it is next given out (space_make). */
void space_destroy(struct space *space)
{
    table_destroy(space->root, paging_levels, paging_levels == 5 ? 511 : 256);
    space->root = 0;
}

void space_load(struct space *space)
{
    u64 value = space->root | (options.pcid ? space->pcid : 0);
    u8 self = 1 << cpu_number();

    if (options.pcid && !(space->stale & self)) {
        value |= CR3_NOFLUSH;   /* R5 */
        totals.cr3_noflush++;
    }
    space->stale &= ~self;
    totals.cr3_loads++;
    this_cpu->loaded = space;
    write_cr3(value);
}

/* Drop everything cached for `space`: now where it is loaded, else at its next load (R5). */
void space_flush(struct space *space)
{
    space->stale = 0xff;
    if (current && space == &current->space)
        space_load(space);
    shootdown(space);
}

/* Run on the kernel's own tables, so that a process's can be taken apart. */
void kernel_space_load(void)
{
    totals.cr3_loads++;
    this_cpu->loaded = 0;
    write_cr3(kernel_root());
}

/* Further CPUs come up through low memory: the identity map is back until they run. */
u64 identity_map(int on)
{
    u64 *top = paging_levels == 5 ? boot_pml5 : boot_pml4;

    boot_pml4[0] = on ? kernel_pa(direct_pdpt) | P_PRESENT | P_WRITE : 0;
    if (paging_levels == 5)
        boot_pml5[0] = on ? kernel_pa(boot_pml4) | P_PRESENT | P_WRITE : 0;
    write_cr4(read_cr4() & ~CR4_PGE);   /* R2, R3: its pages are global */
    write_cr4(read_cr4() | CR4_PGE);
    return kernel_pa(top);
}
