/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * frames.c - physical page frames, counted by users.
 *
 *   0      1 MiB    2 MiB                10 MiB                       end (at most 64 MiB)
 *   | low  | kernel | 4 blocks of 2 MiB  | single frames, a stack     |
 *
 * The stack is last in, first out on purpose: a frame is reused at once, in its old role or
 * another, so a translation or table that was not invalidated shows.
 */
#include "kernel.h"

#define BLOCKS          4
#define BLOCKS_START    (2UL << 20)
#define SINGLES_START   (BLOCKS_START + BLOCKS * LARGE_PAGE)
#define MEMORY_MAX      (64UL << 20)

static u16 users[MEMORY_MAX / PAGE];
static u16 stack[MEMORY_MAX / PAGE];
static u32 stack_height, taken;
static u16 block_users[BLOCKS];         /* live 4 KiB frames of a block; 0: free */

void frames_start(u64 memory_end)
{
    u64 pa = memory_end < MEMORY_MAX ? memory_end & ~(PAGE - 1) : MEMORY_MAX;

    while (pa > SINGLES_START) {
        pa -= PAGE;
        stack[stack_height++] = pa / PAGE;
    }
}

/* A frame with one user and undefined contents. */
u64 frame_take(void)
{
    u64 frame;

    if (!stack_height)
        panic("out of memory");
    frame = stack[--stack_height];
    users[frame] = 1;
    taken++;
    return frame * PAGE;
}

/* 512 aligned frames with one user each, or 0. */
u64 large_frame_take(void)
{
    for (int block = 0; block < BLOCKS; block++) {
        u64 pa = BLOCKS_START + block * LARGE_PAGE;

        if (block_users[block])
            continue;
        block_users[block] = 512;
        for (int i = 0; i < 512; i++)
            users[pa / PAGE + i] = 1;
        taken += 512;
        return pa;
    }
    return 0;
}

/* Frames of the kernel image (below 2 MiB) are never freed: they always have a user more. */
static int counted(u64 pa)
{
    return pa >= BLOCKS_START;
}

void frame_share(u64 pa)
{
    if (counted(pa))
        users[pa / PAGE]++;
}

void frame_drop(u64 pa)
{
    if (!counted(pa))
        return;
    if (!users[pa / PAGE])
        panic("frame dropped twice");
    if (--users[pa / PAGE])
        return;
    taken--;
    if (pa < SINGLES_START)
        block_users[(pa - BLOCKS_START) / LARGE_PAGE]--;
    else
        stack[stack_height++] = pa / PAGE;
}

u32 frame_users(u64 pa)
{
    return counted(pa) ? users[pa / PAGE] : 2;
}

u32 frames_in_use(void)
{
    return taken;
}
