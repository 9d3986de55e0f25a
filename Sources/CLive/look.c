// What the page tables say, and the calls that fill or read them.
#include "internal.h"
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>

/// After a process gave its rights up (setuid), its files in /proc are root's until the next exec, for as long as it is
/// not "dumpable". A child of it needs them.
static long open_own(const char *name) {
    long file = kernel_call(SYS_openat, AT_FDCWD, (long)name, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (file != -EACCES) return file;
    long before = kernel_call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0);
    if (kernel_call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0, 0) != 0) return file;
    file = kernel_call(SYS_openat, AT_FDCWD, (long)name, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    // 2 is the system's to set; 0 lets nobody see more than that.
    kernel_call(SYS_prctl, PR_SET_DUMPABLE, before == 1, 0, 0, 0, 0);
    return file;
}

int open_proc_files(void) {
    int *files[] = { &live.pagemap, &live.maps };
    const char *names[] = { "/proc/self/pagemap", "/proc/self/maps" };
    for (int i = 0; i < 2; i++) {
        long file = open_own(names[i]);
        if (file < 0) return (int)file;
        *files[i] = keep_high((int)file);
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
    if (categories & SCAN_SWAPPED) said |= CLIVE_SWAPPED;
    if (categories & (SCAN_PRESENT | SCAN_SWAPPED) && !(categories & SCAN_WRITTEN)) said |= CLIVE_WP;
    return said;
}

/// Adds what the kernel says of the pages that are in any of the categories `any`; of the categories `wanted`. 0, or a
/// negative errno: -ENOTTY where it has no PAGEMAP_SCAN.
static int scan(uint64_t page, size_t n, uint64_t any, uint64_t wanted, uint8_t *out) {
    struct kernel_scan_region regions[64];
    uint64_t start = page * PAGE_BYTES, end = (page + n) * PAGE_BYTES;
    if (left_out() & WITHOUT_SCAN) return -ENOTTY;
    while (start < end) {
        struct kernel_scan scan = {
            .bytes = sizeof scan, .start = start, .end = end, .regions = (uint64_t)(uintptr_t)regions,
            .region_count = 64, .any_of = any, .wanted = wanted,
        };
        long found = kernel_ioctl(live.pagemap, PAGEMAP_SCAN_CALL, &scan);
        if (found == -EINTR) continue;
        if (found < 0) return (int)found;
        for (long i = 0; i < found; i++) {
            uint64_t last = regions[i].end / PAGE_BYTES - page;
            uint8_t said = meaning_of_scan(regions[i].categories);
            for (uint64_t at = regions[i].start / PAGE_BYTES - page; at < last; at++) out[at] |= said;
        }
        if (scan.walk_end <= start) return -EIO;
        start = scan.walk_end;
    }
    return 0;
}

static bool has_no_scan(int error) { return error == -ENOTTY || error == -EINVAL; }

bool is_huge(uint64_t page) {
    uint8_t said = 0;
    return scan(page, 1, SCAN_HUGE, SCAN_HUGE, &said) == 0 && said & CLIVE_HUGE;
}

bool find_huge(uint64_t page, size_t blocks, bool *are) {
    uint8_t said[MOST_BLOCKS * BLOCK_PAGES] = { 0 };
    if (scan(page, blocks * BLOCK_PAGES, SCAN_HUGE, SCAN_HUGE, said)) return false;
    for (size_t i = 0; i < blocks; i++) are[i] = said[i * BLOCK_PAGES] & CLIVE_HUGE;
    return true;
}

/// Without PAGEMAP_SCAN: asked for its node, the page of zeros is none that has one.
static void find_zeros(uint64_t page, size_t n, uint8_t *out) {
    enum { MOST = 64 };
    uint64_t pages[MOST];
    size_t index[MOST], found = 0;
    int nodes[MOST];
    for (size_t i = 0; i <= n; i++) {
        if (found == MOST || (i == n && found)) {
            bool is_known = clive_nodes(pages, found, nodes) == 0;
            for (size_t k = 0; is_known && k < found; k++)
                if (nodes[k] == -EFAULT) out[index[k]] |= CLIVE_ZERO;
            found = 0;
        }
        if (i == n || (out[i] & (CLIVE_PRESENT | CLIVE_FILE | CLIVE_EXCLUSIVELY_MAPPED)) != CLIVE_PRESENT) continue;
        index[found] = i;
        pages[found++] = page + i;
    }
}

int clive_look(uint64_t page, size_t count, uint8_t *out) {
    for (size_t done = 0; done < count;) {
        uint64_t entries[128];
        size_t n = count - done < 128 ? count - done : 128;
        if (!read_pagemap(page + done, n, entries)) return -EIO;
        for (size_t i = 0; i < n; i++) {
            uint64_t entry = entries[i];
            uint8_t said = 0;
            if (entry & PAGEMAP_PRESENT) said |= CLIVE_PRESENT;
            if (entry & PAGEMAP_SWAPPED) said |= CLIVE_SWAPPED;
            if (entry & PAGEMAP_FILE) said |= CLIVE_FILE;
            if (entry & PAGEMAP_PROTECTED && said) said |= CLIVE_WP;
            if (entry & PAGEMAP_EXCLUSIVE) said |= CLIVE_EXCLUSIVELY_MAPPED;
            out[done + i] = said;
        }
        done += n;
    }
    if (count == 0) return 0;
    // These two are not in the file. Asked for alone they cost a tenth of it.
    int error = scan(page, count, SCAN_ZERO | SCAN_HUGE, SCAN_ZERO | SCAN_HUGE, out);
    if (!has_no_scan(error)) return error;
    find_zeros(page, count, out);
    return 0;
}

int clive_look_quickly(uint64_t page, size_t count, uint8_t *out) {
    memset(out, 0, count);
    if (count == 0) return 0;
    int error = scan(page, count, SCAN_PRESENT | SCAN_SWAPPED,
                     SCAN_PRESENT | SCAN_SWAPPED | SCAN_ZERO | SCAN_HUGE | SCAN_WRITTEN, out);
    return has_no_scan(error) ? clive_look(page, count, out) : error;
}

int clive_populate(uint64_t page, size_t count, bool write) {
    for (unsigned turn = 0;; turn++) {
        long result = kernel_advise(page, count, write ? ADVISE_POPULATE_WRITE : ADVISE_POPULATE_READ);
        if ((result != -EAGAIN && result != -EINTR) || turn == 1000) return (int)result;
        wait_turn(turn);
    }
}

#pragma clang attribute pop
