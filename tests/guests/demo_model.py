# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demo guest's workers compute, from their descriptions, with no memory management at all.

Memory is a dict here and every page the kernel must provide as zero simply is zero; error codes are
those of the SDM (vol. 3, 4.7): bit 0 present, 1 write, 2 user, 4 fetch. Values 0xe00 | code stand for
#PF, 0xd00 for #GP(0). Nothing in this file was copied from a run.
"""

import copy

M = 2**64 - 1
BASIS = 0xCBF29CE484222325
SALT = (3, 1, 4, 1, 5, 9, 2, 6)
P, W, U, I = 1, 2, 4, 16


def mixed(h, v):
    return (h ^ v) * 0x100000001B3 & M


class Worker:
    def __init__(self, number, rounds, la57):
        self.number, self.rounds, self.la57 = number, rounds, la57
        self.state = (number * 0x9E3779B97F4A7C15 + SALT[number % 8]) & M
        self.hash = mixed(BASIS, number)

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & M
        return self.state >> 33

    def mix(self, v):
        self.hash = mixed(self.hash, v & M)

    def run(self):
        (self.heap, self.fork_tree, self.reuse, self.shared,
         self.large, self.protection, self.working_set, self.stack)[self.number % 8]()  # fmt: skip
        return self.hash

    def heap(self):
        pages = [[0] * 512 for _ in range(24)]
        for _ in range(self.rounds):
            for _ in range(64):
                page, word = self.next() % 24, self.next() % 512
                pages[page][word] = (pages[page][word] + self.next()) & M
                self.mix(pages[page][word])
            pages[12:] = [[0] * 512 for _ in range(12)]
            for page in pages:
                self.mix(sum(page))

    def _tree(self, cells, depth, path):
        total = path
        for i in range(8):
            at = (path * 37 + i * 129) % 1024
            cells[at] = (cells[at] * 3 + path + i) & M
            total = mixed(total, cells[at])
        if depth:
            for c in (1, 2):
                total = mixed(total, self._tree(copy.copy(cells), depth - 1, path * 2 + c))
            total += sum(cell * (i + 1) for i, cell in enumerate(cells))
        return total & M

    def fork_tree(self):
        cells = [0] * 1024
        for r in range(self.rounds):
            self.mix(self._tree(cells, 3, self.number + r))

    def reuse(self):
        for _ in range(self.rounds):
            pages, first, total = 1 + self.next() % 6, None, 0
            for _ in range(pages):
                self.mix(0)
                for _ in range(8):
                    value = self.next()
                    first = value if first is None else first
                    total += value
            self.mix(total)
            self.mix(first)
            self.mix(0xE00 | U)

    def shared(self):
        journal, child = [0] * 512, 0
        for r in range(self.rounds):
            value = (self.next() * 7 + r) & M
            journal[r % 512], child = value, mixed(child, value)
            self.mix(value)
        self.mix(child)
        for value in journal:
            self.mix(value)

    def large(self):
        for r in range(self.rounds):
            words = {}
            for _ in range(32):
                at = self.next() % 2**19
                words[at] = words.get(at, 0) ^ self.next()
                self.mix(words[at])
            page = self.next() % 512
            words[page * 512] = r
            self.mix(0xE00 | P | W | U)
            self.mix(r)
            self.mix(0xE00 | U)
            self.mix(0)
            words[page * 512] = r + 1
            self.mix(r + 1)
            self.mix(sum(words.get(p * 512, 0) for p in range(0, 1024, 16) if p != page + 1))

    def protection(self):
        for _ in range(self.rounds):
            for v in (
                0xE00 | P | W | U,  # write to program text
                0xE00 | P | U | I,  # execute data
                0,  # execute it after mprotect
                0xE00 | P | W | U,  # but no write any more
                0xE00 | P | U | I,  # data again
                0,
                0xE00 | P | U,  # kernel: read, write, execute
                0xE00 | P | W | U,
                0xE00 | P | U | I,
                0xE00 | U,  # nothing there: read, write, execute
                0xE00 | W | U,
                0xE00 | U | I,
                0xD00,  # HLT in ring 3
                0xE00 | U if self.la57 else 0xD00,  # bit 47 set: canonical only with 57 bits
            ):
                self.mix(v)

    def working_set(self):
        words = list(range(16))
        self.mix(16)
        for r in range(self.rounds):
            for _ in range(6):
                self.mix(words[self.next() % 16])
            written = set()
            for _ in range(5):
                page = self.next() % 16
                words[page] += r
                written.add(page)
            self.mix(len(written))
        self.mix(1)

    def _recurse(self, depth):
        local, total = [self.next() for _ in range(16)], depth
        if depth:
            total = mixed(total, self._recurse(depth - 1))
        for value in local:
            total = mixed(total, value)
        return total

    def stack(self):
        for r in range(self.rounds):
            self.mix(self._recurse(10 + r % 8))


def checksum(processes=8, rounds=4, la57=False):
    """The checksum the kernel must print after DEMO OK."""
    total = BASIS
    for number in range(processes):
        total = mixed(total, Worker(number, rounds, la57).run())
    return total
