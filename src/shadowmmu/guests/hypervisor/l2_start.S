/* SPDX-License-Identifier: GPL-2.0-or-later
 * Start of the demo's L2: 32-bit, paging off -> PAE paging, or 64-bit mode when built for it.  Tables are in l2.c's hands
 * from then on.  GDT: 08 code32, 10 data, 18 code64, as the entry state of recorded guests expects at 0x1000.
 */
        .section .tables, "a"
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
        .org 0x100
idtr:   .word IDT_LIMIT
        .long idt, 0

        .section .start, "ax"
        .code32
        .globl start
start:  mov $0x7000, %esp
        call first_tables               /* 32-bit code in both builds: fills the tables below */
        mov $0x20, %eax
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        rdmsr
        or $EFER_BITS, %eax
        wrmsr
        mov $root, %eax
        mov %eax, %cr3
        mov $0x80010011, %eax
        mov %eax, %cr0
#ifdef L2_64
        ljmp $0x18, $1f
        .code64
1:      lidt idtr
        mov $0x7000, %rsp
        call main
#else
        lidt idtr
        call main
#endif
        mov $0xf4, %edx
        out %eax, %dx
1:      hlt
        jmp 1b

/* Identity map of the first 2 MiB, plus an empty page table for the window at 2 MiB: root -> [pdpt ->] pd -> pt0, window */
        .code32
first_tables:
        mov $pt0, %edi
        mov $3, %eax
        mov $512, %ecx
1:      mov %eax, (%edi)
        add $0x1000, %eax
        add $8, %edi
        loop 1b
        movl $pt0 + 3, pd
        movl $window + 3, pd + 8
#ifdef L2_64
        movl $pdpt + 3, root
        movl $pd + 3, pdpt
#else
        movl $pd + 1, root
#endif
        ret

/* #PF: error code and CR2 to C; other vectors end the run with their number. */
#ifdef L2_64
        .code64
        .globl page_fault
page_fault:
        push %rax; push %rcx; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %r11
        mov 72(%rsp), %rdi
        mov %cr2, %rsi
        call handle_fault
        pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax
        add $8, %rsp
        iretq
#else
        .globl page_fault
page_fault:
        pusha
        mov %cr2, %eax
        push %eax
        mov 36(%esp), %eax
        push %eax
        call handle_fault
        add $8, %esp
        popa
        add $4, %esp
        iret
#endif
        .globl unexpected
unexpected:
        mov $0xbad, %eax
        mov $0xf4, %edx
        out %eax, %dx
1:      hlt
        jmp 1b

        .section .pages, "aw"
        .globl root, second_root, pdpt, second_pdpt, pd, second_pd, pt0, window, second_window
root:           .fill 4096
second_root:    .fill 4096
pdpt:           .fill 4096
second_pdpt:    .fill 4096
pd:             .fill 4096
second_pd:      .fill 4096
pt0:            .fill 4096
window:         .fill 4096
second_window:  .fill 4096
        .section .note.GNU-stack, "", @progbits
