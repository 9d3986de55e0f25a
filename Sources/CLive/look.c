// What the page tables say, and the calls that fill or read them.
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

int open_proc_files(void) {
    int *files[] = { &live.pagemap, &live.maps };
    const char *names[] = { "/proc/self/pagemap", "/proc/self/maps" };
    for (int i = 0; i < 2; i++) {
        long file = kernel_call(SYS_openat, AT_FDCWD, (long)names[i], O_RDONLY | O_CLOEXEC, 0, 0, 0);
        if (file < 0) return (int)file;
        *files[i] = (int)file;
    }
    return 0;
}

bool read_pagemap(uint64_t page, size_t n, uint64_t *entries) {
    long bytes = kernel_call(SYS_pread64, live.pagemap, (long)entries, (long)(n * 8), (long)(page * 8), 0, 0);
    return bytes == (long)(n * 8);
}

static uint8_t meaning_of_scan(uint64_t categories) {
    uint8_t said = 0;
    if (categories & SCAN_PRESENT) said |= CLIVE_PRESENT;
    if (categories & SCAN_ZERO) said |= CLIVE_ZERO;
    if (categories & SCAN_HUGE) said |= CLIVE_HUGE;
    if (categories & SCAN_FILE) said |= CLIVE_FILE;
    if (categories & SCAN_SWAPPED) said |= CLIVE_SWAPPED;
    if (!(categories & SCAN_WRITTEN)) said |= CLIVE_WP;
    return said;
}

/// 0, or a negative errno: -ENOTTY where the kernel has no PAGEMAP_SCAN.
static int scan(uint64_t page, size_t n, uint8_t *out) {
    struct kernel_scan_region regions[64];
    uint64_t start = page * PAGE_BYTES, end = (page + n) * PAGE_BYTES;
    memset(out, 0, n);
    while (start < end) {
        struct kernel_scan scan = {
            .bytes = sizeof scan, .start = start, .end = end,
            .regions = (uint64_t)(uintptr_t)regions, .region_count = 64,
            .any_of = SCAN_PRESENT | SCAN_SWAPPED,
            .wanted = SCAN_PRESENT | SCAN_SWAPPED | SCAN_ZERO | SCAN_HUGE | SCAN_FILE | SCAN_WRITTEN,
        };
        long found = kernel_ioctl(live.pagemap, PAGEMAP_SCAN_CALL, &scan);
        if (found == -EINTR) continue;
        if (found < 0) return (int)found;
        for (long i = 0; i < found; i++) {
            uint64_t first = regions[i].start / PAGE_BYTES - page;
            memset(&out[first], meaning_of_scan(regions[i].categories),
                   (regions[i].end - regions[i].start) / PAGE_BYTES);
        }
        if (scan.walk_end <= start) return -EIO;
        start = scan.walk_end;
    }
    return 0;
}

int clive_look(uint64_t page, size_t count, uint8_t *out) {
    int error = count ? scan(page, count, out) : 0;
    bool scanned = error == 0;
    if (error && error != -ENOTTY && error != -EINVAL) return error;
    for (size_t done = 0; done < count;) {
        uint64_t entries[128];
        size_t n = count - done < 128 ? count - done : 128;
        if (!read_pagemap(page + done, n, entries)) return -EIO;
        for (size_t i = 0; i < n; i++) {
            uint64_t entry = entries[i];
            uint8_t said = scanned ? out[done + i] : 0;
            if (!scanned) {
                if (entry & PAGEMAP_PRESENT) said |= CLIVE_PRESENT;
                if (entry & PAGEMAP_SWAPPED) said |= CLIVE_SWAPPED;
                if (entry & PAGEMAP_FILE) said |= CLIVE_FILE;
                if (entry & PAGEMAP_PROTECTED && said) said |= CLIVE_WP;
            }
            if (entry & PAGEMAP_EXCLUSIVE) said |= CLIVE_EXCLUSIVELY_MAPPED;
            out[done + i] = said;
        }
        done += n;
    }
    return 0;
}

int clive_populate(uint64_t page, size_t count, bool write) {
    for (unsigned turn = 0;; turn++) {
        long result = kernel_advise(page, count, write ? ADVISE_POPULATE_WRITE : ADVISE_POPULATE_READ);
        if ((result != -EAGAIN && result != -EINTR) || turn == 1000) return (int)result;
        wait_turn(turn);
    }
}

int clive_zero(uint64_t page, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int uffd = uffd_of(page + i);
        bool was_present;
        if (uffd < 0) return -ENXIO;
        long result = fill_with_zeros(uffd, page + i, false, &was_present);
        if (result) return (int)result;
    }
    return 0;
}
