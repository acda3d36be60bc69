/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * boot.S - from multiboot's 32-bit protected mode to 64-bit C code.
 *
 * The tables built here stay for ever as the kernel half of every process:
 *
 *   (PML5[0] and [511], with la57 ->) boot_pml4
 *      [0]   -> direct_pdpt   identity map, removed again in kmain()
 *      [256] -> direct_pdpt   direct map of the first 1 GiB, 2 MiB global pages
 *      [511] -> image_pdpt[510] -> image_pd[0]: the image, one 2 MiB page until
 *               paging.c replaces it by a table of 4 KiB pages
 */
#define KERNEL_BASE 0xffffffff80000000
#define PA(symbol) ((symbol) - KERNEL_BASE)

        .section .boot, "awx"
        .code32
        .align  4
multiboot_header:                       /* flags: 0 page-align modules, 1 give memory sizes */
        .long   0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003)

        .globl  start32
start32:
        cli
        cld
        movl    $PA(boot_stack_top), %esp
        movl    %ebx, PA(multiboot_info)

        /* Long mode (edx[29]) and NX (edx[20]) are required; stop with code 0xee without them. */
        movl    $0x80000001, %eax
        cpuid
        andl    $0x20100000, %edx
        cmpl    $0x20100000, %edx
        jne     unsupported

        movl    $PA(direct_pdpt) + 7, PA(boot_pml4)
        movl    $PA(direct_pdpt) + 3, PA(boot_pml4) + 256 * 8
        movl    $PA(image_pdpt) + 3, PA(boot_pml4) + 511 * 8
        movl    $PA(direct_pd) + 3, PA(direct_pdpt)
        movl    $PA(image_pd) + 3, PA(image_pdpt) + 510 * 8
        movl    $0x1e3, PA(image_pd)            /* P RW A D PS G: the image needs bytes 1-2 MiB only */
        movl    $PA(direct_pd), %edi
        movl    $0x1e3, %eax
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        cmpl    $PA(direct_pd) + 4096, %edi
        jne     1b

        movl    $0x20, %esi                     /* CR4.PAE */
        movl    $PA(boot_pml4), %ebp
        call    wants_la57
        jnz     2f
        orl     $0x1000, %esi                   /* CR4.LA57 */
        movl    $5, PA(paging_levels)
        movl    $PA(boot_pml4) + 3, PA(boot_pml5)
        movl    $PA(boot_pml4) + 3, PA(boot_pml5) + 511 * 8
        movl    $PA(boot_pml5), %ebp
2:      movl    %esi, %cr4
        movl    %ebp, %cr3
        movl    $0xc0000080, %ecx               /* EFER: SCE, LME, NXE */
        rdmsr
        orl     $0x901, %eax
        wrmsr
        movl    $0x80010033, %eax               /* CR0: PG WP NE ET MP PE */
        movl    %eax, %cr0
        lgdt    PA(gdt_pointer32)
        ljmp    $0x08, $start64

unsupported:
        movl    $0xee, %eax
        movw    $0xf4, %dx
        outl    %eax, %dx
3:      hlt
        jmp     3b

/* ZF=1 when the command line has the word "la57" and the CPU has 5-level paging (CPUID.7.0:ECX[16]). */
wants_la57:
        movl    PA(multiboot_info), %eax
        testl   $4, (%eax)
        jz      9f
        movl    16(%eax), %edi
4:      cmpb    $0, (%edi)
        je      9f
        cmpb    $' ', (%edi)
        jne     5f
        cmpl    $0x3735616c, 1(%edi)            /* "la57" */
        jne     5f
        movb    5(%edi), %al
        testb   $0xdf, %al                      /* NUL or blank ends the word */
        jz      6f
5:      incl    %edi
        jmp     4b
6:      xorl    %eax, %eax
        cpuid
        cmpl    $7, %eax
        jb      9f
        movl    $7, %eax
        xorl    %ecx, %ecx
        cpuid
        notl    %ecx
        testl   $0x10000, %ecx
        ret
9:      orl     $1, %eax
        ret

        .code64
start64:
        movabsq $start_high, %rax
        jmp     *%rax

        .text
start_high:
        lgdt    gdt_pointer64(%rip)
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        leaq    boot_stack_top(%rip), %rsp
        xorl    %ebp, %ebp
        call    kmain
1:      hlt
        jmp     1b

/* A further CPU after INIT and start-up: real mode, CS:IP = 0x0800:0. smp.c copies this to 0x8000 and fills in
 * the words at its end. Paging and long mode are switched on at once. */
        .data
        .globl  ap_trampoline, ap_trampoline_end
        .code16
ap_trampoline:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   ap_gdt_pointer - ap_trampoline
        movl    ap_cr4 - ap_trampoline, %eax
        movl    %eax, %cr4
        movl    ap_cr3 - ap_trampoline, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x901, %eax
        wrmsr
        movl    $0x80010033, %eax
        movl    %eax, %cr0
        ljmpl   $0x08, $(0x8000 + ap_start64 - ap_trampoline)
        .align  8
ap_gdt_pointer: .word gdt_end - gdt - 1
        .long   PA(gdt)
        .align  8
        .globl  ap_cr3, ap_cr4, ap_stack
ap_cr3: .long   0
ap_cr4: .long   0
ap_stack: .quad 0
        .code64
ap_start64:
        lgdt    gdt_pointer64
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movq    ap_stack - ap_trampoline + 0x8000, %rsp
        xorl    %ebp, %ebp
        movq    $ap_main, %rax
        jmp     *%rax
ap_trampoline_end:

        .data
        .align  16
        .globl  gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff              /* 08 kernel code, 64-bit, accessed */
        .quad   0x00cf93000000ffff              /* 10 kernel data */
        .quad   0x00cffb000000ffff              /* 18 user code, 32-bit: SYSRET's base, never loaded */
        .quad   0x00cff3000000ffff              /* 20 user data */
        .quad   0x00affb000000ffff              /* 28 user code, 64-bit */
        .fill   2 * 4, 8, 0                     /* 30 40 50 60 TSS of each CPU, filled by trap.c */
gdt_end:
gdt_pointer32:
        .word   gdt_end - gdt - 1
        .long   PA(gdt)
gdt_pointer64:
        .word   gdt_end - gdt - 1
        .quad   gdt

        .globl  multiboot_info, paging_levels
        .align  4
multiboot_info: .long 0
paging_levels:  .long 4

        .bss
        .align  4096
        .globl  boot_pml4, boot_pml5, direct_pdpt, image_pd
boot_pml5:      .skip 4096
boot_pml4:      .skip 4096
direct_pdpt:    .skip 4096
direct_pd:      .skip 4096
image_pdpt:     .skip 4096
image_pd:       .skip 4096
boot_stack:     .skip 8192
boot_stack_top:

        .section .note.GNU-stack, "", @progbits
