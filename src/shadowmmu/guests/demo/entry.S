/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * entry.S - every way into the kernel, and the way out.
 *
 * All entries build the same struct frame (kernel.h) on the process's kernel stack and call
 * trap(frame), which answers the frame to leave through: the scheduler's whole mechanism.
 *
 * The kernel lock is held from trap() until RSP points to the frame to leave through: another CPU may
 * run the process whose stack this was from then on.
 */
#define MAX_CPUS 4
#define TSS_SIZE 104
#define VECTOR_SYSCALL 0x100            /* not a hardware vector: "came by SYSCALL" */

        .text
        .globl  trap_stubs, stub_int80
        .align  16
trap_stubs:                             /* 48 stubs of 16 bytes: exceptions 0-31, PIC 32-47 */
        .set    vector, 0
        .rept   48
        .align  16
        .if     (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
        .else
        pushq   $0                      /* no error code from the CPU */
        .endif
        pushq   $vector
        jmp     trap_common
        .set    vector, vector + 1
        .endr

        .align  16
stub_int80:
        pushq   $0
        pushq   $0x80
        jmp     trap_common

/* SYSCALL leaves RSP as the user's: park it, take this process's kernel stack. IF is clear
 * (SFMASK), so one static word for each CPU is enough, and an entry for each CPU knows which. */
        .globl  entry_syscall
        .align  64
entry_syscall:                          /* MAX_CPUS entries of 64 bytes */
        .set    cpu, 0
        .rept   MAX_CPUS
        .align  64
        movq    %rsp, user_rsp + 8 * cpu(%rip)
        movq    tss + TSS_SIZE * cpu + 4(%rip), %rsp    /* TSS.RSP0 */
        pushq   $0x23                   /* ss */
        pushq   user_rsp + 8 * cpu(%rip)
        pushq   %r11                    /* rflags */
        pushq   $0x2b                   /* cs */
        pushq   %rcx                    /* rip */
        pushq   $0
        pushq   $VECTOR_SYSCALL
        jmp     trap_common
        .set    cpu, cpu + 1
        .endr

/* The shootdown interrupt works without the lock, which its sender holds. */
        .globl  stub_shootdown
        .align  16
stub_shootdown:
        pushq   %rax
        pushq   %rcx
        pushq   %rdx
        pushq   %rsi
        pushq   %rdi
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        cld
        call    shootdown_interrupt
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rdi
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rax
        iretq

        .align  16
trap_common:
        pushq   %rax
        pushq   %rbx
        pushq   %rcx
        pushq   %rdx
        pushq   %rsi
        pushq   %rdi
        pushq   %rbp
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        cld
        movq    %rsp, %rdi
        call    trap
        movq    %rax, %rdi

/* leave(frame): also how the first process starts. */
        .globl  leave
leave:
        movq    %rdi, %rsp
        cmpl    $0, keep_lock(%rip)     /* an exception of the kernel's own: the lock stays */
        jne     2f
        movl    $0, kernel_lock_owner(%rip)
2:      popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rbp
        popq    %rdi
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rbx
        popq    %rax
        cmpq    $VECTOR_SYSCALL, (%rsp)
        je      1f
        addq    $16, %rsp
        iretq
1:      movq    16(%rsp), %rcx          /* rip: a user address below 2^47, so SYSRET cannot #GP in ring 0 */
        movq    32(%rsp), %r11          /* rflags */
        movq    40(%rsp), %rsp
        sysretq

        .bss
        .align  8
user_rsp: .skip 8 * MAX_CPUS

        .section .note.GNU-stack, "", @progbits
