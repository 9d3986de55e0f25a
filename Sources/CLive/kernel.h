#ifndef SWIFT_HMM_CLIVE_KERNEL_H
#define SWIFT_HMM_CLIVE_KERNEL_H
// Calls of the kernel without the C library: no errno, so no thread-local storage, which could lie in a page that is
// away; no binding of symbols at the first call. Numbers and layouts are written out, since headers of the system may
// be older than the kernel.
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long kernel_call(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long kernel_call(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#include <errno.h>
#include <unistd.h>
static inline long kernel_call(long number, long a, long b, long c, long d, long e, long f) {
    int kept = errno;
    long result = syscall(number, a, b, c, d, e, f);
    if (result == -1) result = -errno;
    errno = kept;
    return result;
}
#endif

#define PAGE_BYTES 4096ul

/// 0 or more, or an errno as a negative number.
static inline long kernel_ioctl(int file, uint64_t request, void *argument) {
    return kernel_call(SYS_ioctl, file, (long)request, (long)argument, 0, 0, 0);
}
static inline long kernel_advise(uint64_t page, uint64_t count, int advice) {
    return kernel_call(SYS_madvise, (long)(page * PAGE_BYTES), (long)(count * PAGE_BYTES), advice, 0, 0, 0);
}

// Direction, size, type, number: as <asm-generic/ioctl.h> puts them together.
#define KERNEL_IOCTL(direction, type, number, size) \
    ((uint64_t)(direction) << 30 | (uint64_t)(size) << 16 | (uint64_t)(type) << 8 | (number))
enum { IOCTL_NONE = 0, IOCTL_READ = 2, IOCTL_BOTH = 3 };

// userfaultfd: type 0xAA.
struct kernel_uffd_api {
    uint64_t api, features, ioctls;
};
struct kernel_uffd_range {
    uint64_t start, bytes;
};
struct kernel_uffd_register {
    struct kernel_uffd_range range;
    uint64_t mode, ioctls;
};
struct kernel_uffd_protect {
    struct kernel_uffd_range range;
    uint64_t mode;
};
struct kernel_uffd_zero {
    struct kernel_uffd_range range;
    uint64_t mode;
    int64_t done;
};
/// Of UFFDIO_COPY and UFFDIO_MOVE alike.
struct kernel_uffd_transfer {
    uint64_t to, from, bytes, mode;
    int64_t done;
};
struct kernel_uffd_message {
    uint8_t event, reserved[7];
    uint64_t flags, address, thread;
};
#define UFFD_DEVICE_NEW KERNEL_IOCTL(IOCTL_NONE, 0xAA, 0x00, 0)
#define UFFD_API KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x3F, sizeof(struct kernel_uffd_api))
#define UFFD_REGISTER KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x00, sizeof(struct kernel_uffd_register))
#define UFFD_UNREGISTER KERNEL_IOCTL(IOCTL_READ, 0xAA, 0x01, sizeof(struct kernel_uffd_range))
#define UFFD_WAKE KERNEL_IOCTL(IOCTL_READ, 0xAA, 0x02, sizeof(struct kernel_uffd_range))
#define UFFD_COPY KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x03, sizeof(struct kernel_uffd_transfer))
#define UFFD_ZEROPAGE KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x04, sizeof(struct kernel_uffd_zero))
#define UFFD_MOVE KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x05, sizeof(struct kernel_uffd_transfer))
#define UFFD_WRITEPROTECT KERNEL_IOCTL(IOCTL_BOTH, 0xAA, 0x06, sizeof(struct kernel_uffd_protect))
enum {
    UFFD_MISSING = 1, UFFD_WP = 2,                    // modes of registering
    UFFD_MESSAGE_FAULT = 0x12,
    UFFD_FAULT_WRITE = 1, UFFD_FAULT_WP = 2,
    UFFD_ASLEEP = 1, UFFD_COPY_PROTECTED = 2, UFFD_MOVE_HOLES = 2, UFFD_PROTECT = 1, UFFD_PROTECT_ASLEEP = 2,
    UFFD_USER_FAULTS_ONLY = 1,
};
enum {
    FEATURE_WP = 1 << 0, FEATURE_SIGBUS = 1 << 7, FEATURE_THREAD_ID = 1 << 8, FEATURE_MINOR_SHMEM = 1 << 10,
    FEATURE_EXACT_ADDRESS = 1 << 11, FEATURE_WP_SHMEM = 1 << 12, FEATURE_WP_UNPOPULATED = 1 << 13,
    FEATURE_POISON = 1 << 14, FEATURE_WP_ASYNC = 1 << 15, FEATURE_MOVE = 1 << 16,
};

// /proc/self/pagemap: 8 bytes a page, and the ioctl.
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE (1ull << 61)
#define PAGEMAP_PROTECTED (1ull << 57)
#define PAGEMAP_EXCLUSIVE (1ull << 56)
#define PAGEMAP_FRAME ((1ull << 55) - 1)
struct kernel_scan {
    uint64_t bytes, flags, start, end, walk_end, regions, region_count, most_pages;
    uint64_t inverted, all_of, any_of, wanted;
};
struct kernel_scan_region {
    uint64_t start, end, categories;
};
#define PAGEMAP_SCAN_CALL KERNEL_IOCTL(IOCTL_BOTH, 'f', 16, sizeof(struct kernel_scan))
enum {
    SCAN_WRITTEN = 1 << 1, SCAN_FILE = 1 << 2, SCAN_PRESENT = 1 << 3, SCAN_SWAPPED = 1 << 4, SCAN_ZERO = 1 << 5,
    SCAN_HUGE = 1 << 6,
};

// /proc/self/maps: the ioctl.
struct kernel_map_query {
    uint64_t bytes, flags, address;
    uint64_t start, end, rights, page_bytes, offset, inode;
    uint32_t device_major, device_minor, name_bytes, build_id_bytes;
    uint64_t name, build_id;
};
#define PROCMAP_QUERY_CALL KERNEL_IOCTL(IOCTL_BOTH, 'f', 17, sizeof(struct kernel_map_query))
enum {
    MAP_QUERY_READ = 1, MAP_QUERY_WRITE = 2, MAP_QUERY_EXEC = 4, MAP_QUERY_SHARED = 8, MAP_QUERY_OR_NEXT = 16,
};

// mremap.
enum { REMAP_MAY_MOVE = 1, REMAP_FIXED = 2, REMAP_KEEP_OLD = 4 };

// Advice: what headers of 2021 may not have.
enum {
    ADVISE_DONTNEED = 4, ADVISE_POPULATE_READ = 22, ADVISE_POPULATE_WRITE = 23, ADVISE_DONTNEED_LOCKED = 24,
};
#endif
