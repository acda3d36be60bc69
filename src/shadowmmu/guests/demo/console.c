/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * console.c - the log: COM1, polled, and a small printf.
 */
#include "kernel.h"

#define COM1 0x3f8

void console_start(void)
{
    outb(COM1 + 1, 0x00);       /* no interrupts */
    outb(COM1 + 3, 0x80);       /* DLAB */
    outb(COM1 + 0, 1);          /* 115200 baud */
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03);       /* 8N1 */
    outb(COM1 + 2, 0xc7);       /* FIFOs on and empty */
    outb(COM1 + 4, 0x03);       /* DTR, RTS */
}

void put_char(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        ;
    outb(COM1, c);
}

static void put_number(u64 value, u32 base, int width, char pad)
{
    char digits[24];
    int n = 0;

    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (; width > n; width--)
        put_char(pad);
    while (n)
        put_char(digits[--n]);
}

/* %s, %u and %x take a width; every number is a u64. */
void print(const char *format, ...)
{
    __builtin_va_list arguments;

    __builtin_va_start(arguments, format);
    for (; *format; format++) {
        int width = 0;
        char pad = ' ';

        if (*format != '%') {
            put_char(*format);
            continue;
        }
        if (*++format == '0')
            pad = '0';
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (*format - '0');
        if (*format == 's') {
            const char *s = __builtin_va_arg(arguments, const char *);

            for (; *s; s++, width--)
                put_char(*s);
            for (; width > 0; width--)
                put_char(' ');
        } else {
            put_number(__builtin_va_arg(arguments, u64), *format == 'x' ? 16 : 10, width, pad);
        }
    }
    __builtin_va_end(arguments);
}

void leave_machine(u32 code)
{
    outl(0xf4, code);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void panic(const char *why)
{
    print("DEMO PANIC %s\n", why);
    leave_machine(1);
}
