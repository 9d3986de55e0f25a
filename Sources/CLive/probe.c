// What this kernel lets this process do, found by trying it on memory of its own.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int open_uffd(struct clive_features *way) {
    struct clive_features unused;
    if (!way) way = &unused;
    way->via_device = way->kernel_faults = false;
    if (left_out() & WITHOUT_KERNEL_FAULTS)
        return (int)kernel_call(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_FAULTS_ONLY, 0, 0, 0, 0, 0);
    long plain = kernel_call(SYS_userfaultfd, O_CLOEXEC, 0, 0, 0, 0, 0);
    if (plain >= 0) {
        way->kernel_faults = true;
        return (int)plain;
    }
    long device = kernel_call(SYS_openat, AT_FDCWD, (long)"/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0, 0, 0);
    if (device >= 0) {
        long opened = kernel_call(SYS_ioctl, device, UFFD_DEVICE_NEW, O_CLOEXEC, 0, 0, 0);
        kernel_call(SYS_close, device, 0, 0, 0, 0, 0);
        if (opened >= 0) {
            way->via_device = way->kernel_faults = true;
            return (int)opened;
        }
    }
    long user_only = kernel_call(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_FAULTS_ONLY, 0, 0, 0, 0, 0);
    return (int)(user_only >= 0 ? user_only : plain);
}

static int enable(int uffd, uint64_t features, struct clive_features *out) {
    struct kernel_uffd_api api = { .api = 0xAA, .features = features };
    long result = kernel_ioctl(uffd, UFFD_API, &api);
    if (result == 0) out->uffd_features = api.features;
    return (int)result;
}

static uint64_t pagemap_entry(const void *page) {
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) return 0;
    if (pread(pagemap, &entry, 8, (off_t)((uint64_t)(uintptr_t)page / PAGE_BYTES * 8)) != 8) entry = 0;
    close(pagemap);
    return entry;
}

/// What can be done to private anonymous memory that is registered.
static uint64_t ioctls_of(int uffd, void *page, uint64_t mode) {
    struct kernel_uffd_register range = { { (uint64_t)(uintptr_t)page, PAGE_BYTES }, mode, 0 };
    return kernel_ioctl(uffd, UFFD_REGISTER, &range) == 0 ? range.ioctls : 0;
}

static bool can(uint64_t ioctls, unsigned number) { return ioctls >> number & 1; }

/// Copies a page to where it may only be read, and asks whether it is protected there.
static bool protects_copies(int uffd, uint8_t *from, uint8_t *to) {
    madvise(to, PAGE_BYTES, MADV_DONTNEED);
    if (mprotect(to, PAGE_BYTES, PROT_READ) || !ioctls_of(uffd, to, UFFD_MISSING | UFFD_WP)) return false;
    struct kernel_uffd_transfer copy = {
        .to = (uint64_t)(uintptr_t)to, .from = (uint64_t)(uintptr_t)from, .bytes = PAGE_BYTES,
        .mode = UFFD_ASLEEP | UFFD_COPY_PROTECTED,
    };
    return kernel_ioctl(uffd, UFFD_COPY, &copy) == 0 && pagemap_entry(to) & PAGEMAP_PROTECTED;
}

static void probe_uffd(struct clive_features *out, uint8_t *page) {
    int uffd = open_uffd(out);
    if (uffd < 0) {
        out->open_error = -uffd;
        return;
    }
    int error = enable(uffd, 0, out);
    close(uffd);
    if (error) {
        out->open_error = -error;
        return;
    }
    // A file answers once what it can do, then does only what it was asked for.
    struct clive_features ignored;
    uint64_t features = out->uffd_features;
    uffd = open_uffd(NULL);
    if (uffd < 0) return;
    enable(uffd, features & (FEATURE_WP | FEATURE_MOVE), &ignored);
    out->uffd_ioctls = ioctls_of(uffd, page, UFFD_MISSING | UFFD_WP);
    out->write_protect = features & FEATURE_WP && can(out->uffd_ioctls, 6);
    out->protects_copies = out->write_protect && protects_copies(uffd, page, page + PAGE_BYTES);
    if (!out->uffd_ioctls) out->uffd_ioctls = ioctls_of(uffd, page, UFFD_MISSING);
    out->copy = can(out->uffd_ioctls, 3);
    out->zeropage = can(out->uffd_ioctls, 4);
    out->move = features & FEATURE_MOVE && can(out->uffd_ioctls, 5);
    out->sigbus = features & FEATURE_SIGBUS;
    out->wp_unpopulated = features & FEATURE_WP_UNPOPULATED;
    out->wp_async = features & FEATURE_WP_ASYNC;
    out->poison = features & FEATURE_POISON;
    out->minor_shmem = features & FEATURE_MINOR_SHMEM;
    out->thread_id = features & FEATURE_THREAD_ID;
    out->exact_address = features & FEATURE_EXACT_ADDRESS;
    close(uffd);
}

static void probe_proc(struct clive_features *out, void *page) {
    uint64_t start = (uint64_t)(uintptr_t)page;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap >= 0) {
        struct kernel_scan_region region;
        struct kernel_scan scan = {
            .bytes = sizeof scan, .start = start, .end = start + PAGE_BYTES, .regions = (uint64_t)(uintptr_t)&region,
            .region_count = 1, .any_of = SCAN_PRESENT, .wanted = SCAN_PRESENT,
        };
        out->pagemap_scan = kernel_ioctl(pagemap, PAGEMAP_SCAN_CALL, &scan) == 1;
        close(pagemap);
    }
    uint64_t entry = pagemap_entry(page);
    out->pfn_visible = entry & PAGEMAP_PRESENT && entry & PAGEMAP_FRAME;
    int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (maps >= 0) {
        struct kernel_map_query query = { .bytes = sizeof query, .address = start };
        out->procmap_query = kernel_ioctl(maps, PROCMAP_QUERY_CALL, &query) == 0;
        close(maps);
    }
}

static void leave_out(struct clive_features *out, unsigned bits) {
    if (bits & WITHOUT_SIGBUS) out->sigbus = false;
    if (bits & WITHOUT_MOVE) out->move = false;
    if (bits & WITHOUT_PROTECTION)
        out->write_protect = out->wp_unpopulated = out->wp_async = out->protects_copies = false;
    if (bits & WITHOUT_SCAN) out->pagemap_scan = false;
    if (bits & WITHOUT_MAP_QUERY) out->procmap_query = false;
}

void clive_probe(struct clive_features *out) {
    memset(out, 0, sizeof *out);
    size_t bytes = 2 * PAGE_BYTES;
    uint8_t *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        out->open_error = ENOMEM;
        return;
    }
    *(volatile uint8_t *)pages = 1;
    probe_proc(out, pages);
    out->populate = kernel_advise((uint64_t)(uintptr_t)pages / PAGE_BYTES + 1, 1, ADVISE_POPULATE_READ) == 0;
    probe_uffd(out, pages);
    leave_out(out, left_out());
    munmap(pages, bytes);
}

#pragma clang attribute pop
