/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * user_entry.S - the user program's first instructions, its system calls and its probes.
 */
        .text
        .globl  user_start
user_start:                             /* must be first: the kernel enters at the text's start */
        call    user_main
        ud2

        .globl  call_int80, call_syscall
call_int80:                             /* (number, a, b, c) */
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        movq    %rcx, %rdx
        int     $0x80
        ret
call_syscall:
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    %rdx, %rsi
        movq    %rcx, %rdx
        syscall                         /* clobbers RCX and R11, as a call may */
        ret

/* Probes answer 0, or the kernel resumes at probe_failed with RAX = vector << 8 | error code.
 * R8 holds the stack pointer, which a failing call has moved. */
        .globl  probe_read, probe_write, probe_call, probe_halt, probe_failed
probe_read:
        movq    %rsp, %r8
        movq    (%rdi), %rax
        xorl    %eax, %eax
        ret
probe_write:
        movq    %rsp, %r8
        movq    %rsi, (%rdi)
        xorl    %eax, %eax
        ret
probe_call:
        movq    %rsp, %r8
        call    *%rdi
        xorl    %eax, %eax
        ret
probe_halt:
        movq    %rsp, %r8
        hlt
        ret
probe_failed:
        movq    %r8, %rsp
        ret

        .section .note.GNU-stack, "", @progbits
