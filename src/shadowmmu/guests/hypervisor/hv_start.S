/* SPDX-License-Identifier: GPL-2.0-or-later
 * Start of the demo hypervisor: 64-bit, identity paging of 16 MiB; the VMRUN stub; the images of its guests.
 */
        .section .tables, "a"
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff

        .section .start, "ax"
        .code64
        .globl start
start:  mov $0x7000, %rsp
        call main
        mov $0xf4, %edx
        out %eax, %dx
1:      hlt
        jmp 1b

/* run(vmcb physical address, struct registers *): rAX, rSP, RIP and RFLAGS are in the VMCB */
        .text
        .globl run
run:    push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        push %rsi
        mov %rdi, %rax
        mov 0(%rsi), %rbx
        mov 8(%rsi), %rcx
        mov 16(%rsi), %rdx
        mov 32(%rsi), %rdi
        mov 40(%rsi), %rbp
        mov 48(%rsi), %r8
        mov 56(%rsi), %r9
        mov 64(%rsi), %r10
        mov 72(%rsi), %r11
        mov 80(%rsi), %r12
        mov 88(%rsi), %r13
        mov 96(%rsi), %r14
        mov 104(%rsi), %r15
        mov 24(%rsi), %rsi
        vmrun %rax
        push %rsi
        mov 8(%rsp), %rsi
        mov %rbx, 0(%rsi)
        mov %rcx, 8(%rsi)
        mov %rdx, 16(%rsi)
        mov %rdi, 32(%rsi)
        mov %rbp, 40(%rsi)
        mov %r8, 48(%rsi)
        mov %r9, 56(%rsi)
        mov %r10, 64(%rsi)
        mov %r11, 72(%rsi)
        mov %r12, 80(%rsi)
        mov %r13, 88(%rsi)
        mov %r14, 96(%rsi)
        mov %r15, 104(%rsi)
        pop 24(%rsi)
        pop %rsi
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

        .section .images, "a"
        .globl image_64, image_64_end, image_pae, image_pae_end
        .balign 4096
image_64:       .incbin "l2_64.bin"
image_64_end:
        .balign 4096
image_pae:      .incbin "l2_pae.bin"
image_pae_end:

        .section .pages, "aw"
        .globl vmcb, host_save, io_map, msr_map
vmcb:           .fill 4096
host_save:      .fill 4096
io_map:         .fill 12288
msr_map:        .fill 8192
        .globl l1_root
l1_root:        .quad l1_pdpt + 3
                .org l1_root + 4096
l1_pdpt:        .quad l1_pd + 3
                .org l1_pdpt + 4096
l1_pd:          .set i, 0
                .rept 8
                .quad i * 0x200000 + 0x83
                .set i, i + 1
                .endr
                .org l1_pd + 4096
        .section .note.GNU-stack, "", @progbits
