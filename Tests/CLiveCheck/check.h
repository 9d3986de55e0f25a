#ifndef SWIFT_HMM_CLIVE_CHECK_INTERNAL_H
#define SWIFT_HMM_CLIVE_CHECK_INTERNAL_H
#include "include/CLiveCheck.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096ul
#define ARENA_FRAMES (1ul << 16)
#define HUGE_PAGES 512ul

/// Answers the line if the claim does not hold.
#define EXPECT(claim)                                                     \
    do {                                                                  \
        if (!(claim)) {                                                   \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #claim);   \
            return __LINE__;                                              \
        }                                                                 \
    } while (0)

/// Runs a part, and ends with its answer if that is not 0.
#define RUN(part)               \
    do {                        \
        int line = (part);      \
        if (line) return line;  \
    } while (0)

/// Private anonymous memory, aligned to a huge page.
static inline char *map_pages(size_t pages) {
    size_t bytes = (pages + HUGE_PAGES) * PAGE_BYTES;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    uintptr_t mask = HUGE_PAGES * PAGE_BYTES - 1;
    return (char *)(((uintptr_t)p + mask) & ~mask);
}
static inline uint64_t page_of(const void *address) { return (uint64_t)(uintptr_t)address / PAGE_BYTES; }
static inline volatile char *byte_at(char *base, size_t page) { return (volatile char *)base + page * PAGE_BYTES; }
#endif
