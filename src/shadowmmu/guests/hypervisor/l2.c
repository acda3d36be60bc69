/* SPDX-License-Identifier: GPL-2.0-or-later
 * The demo's L2: a small kernel that pages, the same source for 64-bit and for 32-bit PAE.  It runs under the demo
 * hypervisor and alone; memory and output must be the same.  Values go to port 0xE1, the end is port 0xF4.
 *
 *   window  VA 2 MiB .. 4 MiB, one page table, filled by the #PF handler      frames: L2-physical 2 MiB .. 4 MiB
 */
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word;

#define WINDOW 0x200000ul
#define P 1
#define W 2
#define A 0x20
#define D 0x40
#define COW 0x200                               /* available to software */
#define NX (1ull << 63)

extern volatile u64 root[], second_root[], pdpt[], second_pdpt[], pd[], second_pd[], pt0[], window[], second_window[];
extern void page_fault(void), unexpected(void);

#ifdef L2_64
struct gate { unsigned short low, selector, type, middle; u32 high, zero; } idt[32];
#define SELECTOR 0x18
#else
struct gate { unsigned short low, selector, type, middle; } idt[32];
#define SELECTOR 0x08
#endif

static u32 next_frame, faults, copies, seen;

static void out(unsigned port, u32 value) { asm volatile("outl %0, %w1" :: "a"(value), "d"(port) : "memory"); }
static void value(u32 v) { seen = seen * 31 + v; out(0xE1, v); }
static void invlpg(word va) { asm volatile("invlpg (%0)" :: "a"(va) : "memory"); }
static void load_cr3(volatile u64 *table) { asm volatile("mov %0, %%cr3" :: "a"((word)table) : "memory"); }
static word cr3(void) { word v; asm volatile("mov %%cr3, %0" : "=a"(v)); return v; }
static volatile u32 *at(unsigned page) { return (volatile u32 *)(WINDOW + page * 4096ul); }
static volatile u64 *current(void) { return cr3() == (word)root ? window : second_window; }

static u32 frame(void)
{
    u32 pa = 0x200000 + next_frame++ * 4096;
    if (pa >= 0x400000)
        out(0xF4, 0xbad1);
    return pa;
}

/* Frames are reached through the last entry of the current window, which is never used otherwise. */
static volatile u32 *borrow(u32 pa)
{
    current()[511] = pa | P | W;
    invlpg((word)at(511));
    return at(511);
}

void handle_fault(word error, word va)
{
    unsigned i = (va - WINDOW) >> 12;
    volatile u64 *table = current();
    faults++;
    if (i >= 511)
        out(0xF4, 0xbad2);
    if (!(error & P)) {
        table[i] = frame() | P | W;             /* not present is never cached: no INVLPG */
    } else if (error & W && table[i] & COW) {
        u32 old = table[i] & 0xFFFFF000, copy = frame(), words[64];
        for (unsigned part = 0; part < 1024; part += 64) {
            volatile u32 *from = borrow(old);
            for (unsigned k = 0; k < 64; k++)
                words[k] = from[part + k];
            volatile u32 *to = borrow(copy);
            for (unsigned k = 0; k < 64; k++)
                to[part + k] = words[k];
        }
        table[i] = copy | P | W;
        invlpg(va);
        copies++;
    } else {
        out(0xF4, 0xbad3);
    }
}

static void gates(void)
{
    for (unsigned i = 0; i < 32; i++) {
        word target = i == 14 ? (word)page_fault : (word)unexpected;
        idt[i].low = target;
        idt[i].selector = SELECTOR;
        idt[i].type = 0x8e00;
        idt[i].middle = target >> 16;
    }
}

static u32 sum(unsigned pages)
{
    u32 s = 0;
    for (unsigned i = 0; i < pages; i++)
        s += at(i)[i];
    return s;
}

int main(void)
{
    gates();
    /* demand paging */
    for (unsigned i = 0; i < 64; i++)
        at(i)[i] = 0x1000 + i * 7;
    value(sum(64));
    value(faults);
    /* copy on write: protect, flush one by one, write half of them */
    for (unsigned i = 0; i < 32; i++) {
        window[i] = (window[i] & ~(u64)W) | COW;
        invlpg((word)at(i));
    }
    for (unsigned i = 0; i < 32; i += 2)
        at(i)[i] += 0x10000;
    value(sum(64));
    value(copies);
    /* exchange pages in pairs; only the flushed address may change before the CR3 load */
    for (unsigned i = 32; i < 64; i += 2) {
        u64 e = window[i];
        window[i] = window[i + 1];
        window[i + 1] = e;
    }
    load_cr3(root);
    for (unsigned i = 32; i < 64; i += 2)
        value(at(i)[i + 1] - at(i + 1)[i]);
    /* a second address space: same code, its own window */
#ifdef L2_64
    second_root[0] = (word)second_pdpt | P | W;
    second_pdpt[0] = (word)second_pd | P | W;
#else
    second_root[0] = (word)second_pd | P;
#endif
    second_pd[0] = pd[0];
    second_pd[1] = (word)second_window | P | W;
    for (unsigned round = 0; round < 8; round++) {
        load_cr3(round & 1 ? root : second_root);
        for (unsigned i = 0; i < 16; i++)
            at(i)[0] += round + i;
        value(at(round)[0]);
    }
    /* accessed and dirty bits */
    load_cr3(root);
    for (unsigned i = 0; i < 64; i++)
        window[i] &= ~(u64)(A | D);
    load_cr3(root);
    for (unsigned i = 0; i < 64; i += 3) {
        if (i & 1)
            at(i)[1] = i;
        else
            seen += at(i)[2];
    }
    u32 accessed = 0, dirty = 0;
    for (unsigned i = 0; i < 64; i++) {
        accessed += window[i] / A & 1;
        dirty += window[i] / D & 1;
    }
    value(accessed);
    value(dirty);
    /* a table is moved: pd[1] points to a copy with every second page missing */
    for (unsigned i = 0; i < 511; i++)
        second_window[i] = i & 1 ? 0 : window[i];
    pd[1] = (word)second_window | P | W;
    load_cr3(root);
    value(sum(0) + at(2)[2] + at(4)[4]);
    pd[1] = (word)window | P | W;
    load_cr3(root);
    value(sum(32));
    value(faults);
    value(seen);
    return 0;
}
