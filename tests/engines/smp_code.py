# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code of the guests in test_smp and test_nmi.  RBP holds the local APIC's address; words that they share:

    0x7000  the other CPU runs     0x7008  IPIs taken     0x7010  NMIs taken     0x7018  NMIs while one was handled
    0x7100  last value read        0x7108  reads so far   0x7200  shootdown acknowledged
    0x7120, 0x7128  loops of CPU 0 and CPU 1
"""

from .test_hardware_harness import code

TRAMPOLINE = code("""
    fa                               | cli
    31 c0                            | xor ax,ax
    8e d8                            | mov ds,ax
    66 0f 01 16 00 9f                | lgdtd ds:0x9f00
    66 b8 20 06 00 00                | mov eax,0x620
    0f 22 e0                         | mov cr4,eax
    66 b8 00 00 01 00                | mov eax,0x10000
    0f 22 d8                         | mov cr3,eax
    66 b9 80 00 00 c0                | mov ecx,0xc0000080
    0f 32                            | rdmsr
    66 0d 01 09 00 00                | or eax,0x901
    0f 30                            | wrmsr
    66 b8 33 00 01 80                | mov eax,0x80010033
    0f 22 c0                         | mov cr0,eax
    66 ea 00 a0 00 00 18 00          | jmp 0x18:0xa000
""")
START_OTHER = code("""
    bd 00 00 e0 fe                   | mov ebp,0xfee00000
    c7 85 f0 00 00 00 ff 01 00 00    | mov DWORD PTR [rbp+0xf0],0x1ff
    c7 85 00 03 00 00 00 45 0c 00    | mov DWORD PTR [rbp+0x300],0xc4500
    c7 85 00 03 00 00 09 46 0c 00    | mov DWORD PTR [rbp+0x300],0xc4609
    f3 90                            | pause
    83 3c 25 00 70 00 00 00          | cmp DWORD PTR ds:0x7000,0x0
    74 f4                            | je 0x8023
""")
OTHER_BEGINS = code("""
    66 b8 10 00                      | mov ax,0x10
    8e d0                            | mov ss,eax
    bc 00 60 00 00                   | mov esp,0x6000
    0f 01 1c 25 10 9f 00 00          | lidt ds:0x9f10
    bd 00 00 e0 fe                   | mov ebp,0xfee00000
    c7 85 f0 00 00 00 ff 01 00 00    | mov DWORD PTR [rbp+0xf0],0x1ff
    c7 04 25 00 70 00 00 01 00 00 00 | mov DWORD PTR ds:0x7000,0x1
""")
SLEEP = code("""
    fb                               | sti
    f4                               | hlt
    eb fc                            | jmp 0xa030
""")
HANDLER_IPI = code("""
    ff 04 25 08 70 00 00             | inc DWORD PTR ds:0x7008
    c7 85 b0 00 00 00 00 00 00 00    | mov DWORD PTR [rbp+0xb0],0x0
    48 cf                            | iretq
""")
HANDLER_NMI = code("""
    ff 04 25 10 70 00 00             | inc DWORD PTR ds:0x7010
    48 cf                            | iretq
""")
SEND = code("""
    c7 85 10 03 00 00 00 00 00 01    | mov DWORD PTR [rbp+0x310],0x1000000
    c7 85 00 03 00 00 40 40 00 00    | mov DWORD PTR [rbp+0x300],0x4040
    f3 90                            | pause
    83 3c 25 08 70 00 00 01          | cmp DWORD PTR ds:0x7008,0x1
    75 f4                            | jne 0x8114
    c7 85 00 03 00 00 00 44 00 00    | mov DWORD PTR [rbp+0x300],0x4400
    f3 90                            | pause
    83 3c 25 10 70 00 00 01          | cmp DWORD PTR ds:0x7010,0x1
    75 f4                            | jne 0x812a
    c7 85 00 03 00 00 40 40 0c 00    | mov DWORD PTR [rbp+0x300],0xc4040
    f3 90                            | pause
    83 3c 25 08 70 00 00 02          | cmp DWORD PTR ds:0x7008,0x2
    75 f4                            | jne 0x8140
    8b 45 20                         | mov eax,DWORD PTR [rbp+0x20]
    c1 e8 18                         | shr eax,0x18
    03 04 25 08 70 00 00             | add eax,DWORD PTR ds:0x7008
    03 04 25 10 70 00 00             | add eax,DWORD PTR ds:0x7010
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
READ_LOOP = code("""
    fb                               | sti
    48 8b 04 25 00 00 20 00          | mov rax,QWORD PTR ds:0x200000
    48 89 04 25 00 71 00 00          | mov QWORD PTR ds:0x7100,rax
    ff 04 25 08 71 00 00             | inc DWORD PTR ds:0x7108
    eb e7                            | jmp 0xa031
""")
HANDLER_SHOOTDOWN = code("""
    0f 01 3c 25 00 00 20 00          | invlpg BYTE PTR ds:0x200000
    c7 04 25 00 72 00 00 01 00 00 00 | mov DWORD PTR ds:0x7200,0x1
    c7 85 b0 00 00 00 00 00 00 00    | mov DWORD PTR [rbp+0xb0],0x0
    48 cf                            | iretq
""")
WAIT_TWO_READS = code("""
    8b 0c 25 08 71 00 00             | mov ecx,DWORD PTR ds:0x7108
    83 c1 02                         | add ecx,0x2
    f3 90                            | pause
    39 0c 25 08 71 00 00             | cmp DWORD PTR ds:0x7108,ecx
    72 f5                            | jb 0x810a
""")
CHANGE_PTE = code("""
    48 c7 04 25 00 40 01 00 07 10 20 00| mov QWORD PTR ds:0x14000,0x201007
""")
SEND_SHOOTDOWN = code("""
    c7 85 10 03 00 00 00 00 00 01    | mov DWORD PTR [rbp+0x310],0x1000000
    c7 85 00 03 00 00 40 40 00 00    | mov DWORD PTR [rbp+0x300],0x4040
    f3 90                            | pause
    83 3c 25 00 72 00 00 01          | cmp DWORD PTR ds:0x7200,0x1
    75 f4                            | jne 0x8314
""")
LOCAL_FLUSH = code("""
    0f 01 3c 25 00 00 20 00          | invlpg BYTE PTR ds:0x200000
""")
REPORT = code("""
    8b 04 25 00 71 00 00             | mov eax,DWORD PTR ds:0x7100
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
CALL_LOOP = code("""
    b8 00 b4 00 00                   | mov eax,0xb400
    ff d0                            | call rax
    89 04 25 00 71 00 00             | mov DWORD PTR ds:0x7100,eax
    ff 04 25 08 71 00 00             | inc DWORD PTR ds:0x7108
    eb e9                            | jmp 0xa030
""")
PATCHED = code("""
    b8 07 00 00 00                   | mov eax,0x7
    c3                               | ret
    b8 08 00 00 00                   | mov eax,0x8
    c3                               | ret
""")
PATCH = code("""
    c6 43 01 09                      | mov BYTE PTR [rbx+0x1],0x9
""")
PATCH_AGAIN = code("""
    c6 43 01 0a                      | mov BYTE PTR [rbx+0x1],0xa
""")
COUNT_LOOP = code("""
    48 ff 04 25 20 71 00 00          | inc QWORD PTR ds:0x7120
    eb f6                            | jmp 0x8200
""")
COUNT_LOOP_OTHER = code("""
    48 ff 04 25 28 71 00 00          | inc QWORD PTR ds:0x7128
    eb f6                            | jmp 0xa030
""")
SELF_NMI = code("""
    bd 00 00 e0 fe                   | mov ebp,0xfee00000
    c7 85 00 03 00 00 00 44 04 00    | mov DWORD PTR [rbp+0x300],0x44400
    eb 00                            | jmp 0x8011
    8b 04 25 10 70 00 00             | mov eax,DWORD PTR ds:0x7010
    c1 e0 08                         | shl eax,0x8
    0b 04 25 18 70 00 00             | or eax,DWORD PTR ds:0x7018
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
HANDLER_SELF_NMI = code("""
    ff 04 25 10 70 00 00             | inc DWORD PTR ds:0x7010
    83 3c 25 10 70 00 00 01          | cmp DWORD PTR ds:0x7010,0x1
    75 24                            | jne 0xb235
    c7 85 00 03 00 00 00 44 04 00    | mov DWORD PTR [rbp+0x300],0x44400
    c7 85 00 03 00 00 00 44 04 00    | mov DWORD PTR [rbp+0x300],0x44400
    eb 00                            | jmp 0xb227
    8b 04 25 10 70 00 00             | mov eax,DWORD PTR ds:0x7010
    89 04 25 18 70 00 00             | mov DWORD PTR ds:0x7018,eax
    48 cf                            | iretq
""")
LTR = code("""
    b8 20 00 00 00                   | mov eax,0x20
    0f 00 d8                         | ltr ax
    b8 01 00 00 00                   | mov eax,0x1
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
LLDT = code("""
    b8 20 00 00 00                   | mov eax,0x20
    0f 00 d0                         | lldt ax
    b8 01 00 00 00                   | mov eax,0x1
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
HANDLER_GP = code("""
    58                               | pop rax
    ba f4 00 00 00                   | mov edx,0xf4
    ef                               | out dx,eax
""")
