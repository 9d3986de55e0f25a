#define _GNU_SOURCE
#include "include/CBench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE_BYTES 4096ul
#define ALIGNMENT (2ul << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

// The interface of /proc/PID/pagemap since Linux 6.7, for headers that are older.
struct scan_argument {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct scan_region {
    uint64_t start, end, categories;
};
#define SCAN_IOCTL _IOWR('f', 16, struct scan_argument)
#define SCAN_IS_PRESENT (1u << 3)
// Everything that the kernel can say of a page: may be tracked, written, of a file, present, swapped, zero page, huge,
// soft-dirty.
#define SCAN_EVERYTHING 0xffu

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/// Fresh memory of 4 KiB pages, aligned as the model's ranges are. The whole mapping is answered in `whole`.
static void *reserve(size_t bytes, struct cbench_mapping *whole) {
    size_t length = bytes + ALIGNMENT;
    void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    *whole = (struct cbench_mapping){ p, length };
    uintptr_t start = ((uintptr_t)p + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    madvise((void *)start, bytes, MADV_NOHUGEPAGE);
    return (void *)start;
}

static void release(struct cbench_mapping whole) { munmap(whole.base, whole.bytes); }

int64_t cbench_region_make(struct cbench_region *region, size_t pages, bool huge) {
    char *p = reserve(pages * PAGE_BYTES, &region->whole);
    if (!p) return -errno;
    if (huge) madvise(p, pages * PAGE_BYTES, MADV_HUGEPAGE);
    for (size_t i = 0; i < pages; i++) *(volatile uint64_t *)(p + i * PAGE_BYTES) = i;
    region->base = p;
    region->pages = pages;
    return 0;
}

void cbench_region_free(struct cbench_region *region) {
    release(region->whole);
    region->base = NULL;
}

int64_t cbench_pagemap_scan(const struct cbench_region *region, uint64_t *found) {
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct scan_region runs[512];
    uint64_t start = (uint64_t)(uintptr_t)region->base, end = start + region->pages * PAGE_BYTES, pages = 0;
    int64_t begin = now();
    while (start < end) {
        struct scan_argument a = {
            .size = sizeof a, .start = start, .end = end, .vec = (uint64_t)(uintptr_t)runs, .vec_len = 512,
            .category_mask = SCAN_IS_PRESENT, .return_mask = SCAN_EVERYTHING,
        };
        int count = ioctl(fd, SCAN_IOCTL, &a);
        if (count < 0) {
            int error = errno;
            close(fd);
            return -error;
        }
        for (int i = 0; i < count; i++) pages += (runs[i].end - runs[i].start) / PAGE_BYTES;
        start = a.walk_end;
    }
    int64_t taken = now() - begin;
    close(fd);
    *found = pages;
    return taken;
}

int64_t cbench_populate(size_t pages) {
    struct cbench_mapping whole;
    void *p = reserve(pages * PAGE_BYTES, &whole);
    if (!p) return -errno;
    int64_t begin = now();
    int status = madvise(p, pages * PAGE_BYTES, MADV_POPULATE_WRITE);
    int64_t taken = status ? -errno : now() - begin;
    uint64_t sum = 0;
    for (size_t i = 0; i < pages; i++) sum |= *(volatile uint64_t *)((char *)p + i * PAGE_BYTES);
    release(whole);
    return sum ? -EILSEQ : taken;
}

int64_t cbench_protect(const struct cbench_region *region) {
    size_t bytes = region->pages * PAGE_BYTES;
    int64_t begin = now();
    int status = mprotect(region->base, bytes, PROT_READ);
    int64_t taken = status ? -errno : now() - begin;
    if (mprotect(region->base, bytes, PROT_READ | PROT_WRITE)) return -errno;
    // Page by page, so that every entry is writable again for the next sample.
    for (size_t i = 0; i < region->pages; i++) *((volatile uint64_t *)((char *)region->base + i * PAGE_BYTES) + 1) += 1;
    return taken;
}

int64_t cbench_revoke_each(const struct cbench_region *region) {
    int64_t begin = now();
    for (size_t i = 0; i < region->pages; i++) {
        char *page = (char *)region->base + i * PAGE_BYTES;
        if (mprotect(page, PAGE_BYTES, PROT_NONE)) return -errno;
        if (mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE)) return -errno;
        *((volatile uint64_t *)page + 1) += 1;
    }
    return now() - begin;
}

int64_t cbench_copy_both_ways(const struct cbench_region *from, const struct cbench_region *to) {
    size_t bytes = from->pages * PAGE_BYTES;
    uint64_t before = 0, after = 0;
    for (size_t i = 0; i < from->pages; i++) before += *(volatile uint64_t *)((char *)from->base + i * PAGE_BYTES);
    int64_t begin = now();
    memcpy(to->base, from->base, bytes);
    __asm__ volatile("" ::: "memory");
    memcpy(from->base, to->base, bytes);
    __asm__ volatile("" ::: "memory");
    int64_t taken = now() - begin;
    for (size_t i = 0; i < from->pages; i++) after += *(volatile uint64_t *)((char *)from->base + i * PAGE_BYTES);
    return before == after ? taken : -EILSEQ;
}

int64_t cbench_fork(const struct cbench_region *region) {
    if (!region->base) return -EINVAL;
    int64_t begin = now();
    pid_t child = fork();
    if (child == 0) _exit(0);
    int64_t taken = child < 0 ? -errno : now() - begin;
    if (child > 0) {
        int status;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    }
    return taken;
}

int64_t cbench_touch(size_t pages) {
    struct cbench_mapping whole;
    char *p = reserve(pages * PAGE_BYTES, &whole);
    if (!p) return -errno;
    int64_t begin = now();
    for (size_t i = 0; i < pages; i++) *(volatile uint64_t *)(p + i * PAGE_BYTES) = i + 1;
    int64_t taken = now() - begin;
    uint64_t sum = 0;
    for (size_t i = 0; i < pages; i++) sum += *(volatile uint64_t *)(p + i * PAGE_BYTES);
    release(whole);
    return sum == (uint64_t)pages * (pages + 1) / 2 ? taken : -EILSEQ;
}

// Two contexts of the C library that hand over to each other.
static ucontext_t contexts[2];
static uint64_t handed_over;

static void hand_over(void) {
    for (;;) {
        handed_over++;
        swapcontext(&contexts[1], &contexts[0]);
    }
}

int64_t cbench_swapcontext(size_t count) {
    static char stack[64 << 10];
    handed_over = 0;
    if (getcontext(&contexts[1]) != 0) return -errno;
    contexts[1].uc_stack.ss_sp = stack;
    contexts[1].uc_stack.ss_size = sizeof stack;
    makecontext(&contexts[1], hand_over, 0);
    int64_t start = now();
    for (size_t i = 0; i < count / 2; i++) swapcontext(&contexts[0], &contexts[1]);
    int64_t taken = now() - start;
    return handed_over == count / 2 ? taken : -EILSEQ;
}
