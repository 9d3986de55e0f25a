#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 1024, FIRST_FRAME = 512 };

static char *arena;
static uint32_t frames[PAGES];
static uint8_t result[PAGES];
static struct clive_return returns[PAGES];

static int settle(size_t n) {
    EXPECT(clive_drain(returns, PAGES) == n);
    for (size_t i = 0; i < n; i++) EXPECT(clive_settle(returns[i].page, returns[i].frame));
    return 0;
}

static char *make(size_t pages) {
    char *home = map_pages(pages);
    madvise(home, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < pages; i++) *byte_at(home, i) = (char)(i + 1);
    return home;
}

/// A run that crosses mappings of other rights, or locked ones, arrives all the same.
static int check_rights(void) {
    char *home = make(16);
    uint64_t page = page_of(home);
    EXPECT(clive_register(page, 16, CLIVE_ON_THREAD) == 0);
    EXPECT(mprotect(home + 4 * PAGE_BYTES, 4 * PAGE_BYTES, PROT_READ) == 0);
    EXPECT(mlock(home + 10 * PAGE_BYTES, 2 * PAGE_BYTES) == 0);
    EXPECT(clive_take(page, frames, 16, 0, result) == 16);
    for (int i = 0; i < 16; i++) EXPECT(*byte_at(arena, FIRST_FRAME + i) == i + 1);
    clive_set_fault_around(16);
    for (int i = 0; i < 16; i++) EXPECT(*byte_at(home, i) == i + 1);
    clive_set_fault_around(1);
    RUN(settle(16));
    return 0;
}

/// io_uring_register(fd, IORING_REGISTER_BUFFERS): pins the page. The descriptor, or -1 where that cannot be had.
static int pin(void *address) {
    uint32_t parameters[30] = { 0 };
    long ring = syscall(SYS_io_uring_setup, 4, parameters);
    if (ring < 0) return -1;
    struct iovec buffer = { address, PAGE_BYTES };
    if (syscall(SYS_io_uring_register, ring, 0, &buffer, 1) == 0) return (int)ring;
    close((int)ring);
    return -1;
}

static bool has_written;
static void *write_as_device(void *slot) {
    *(volatile char *)slot = 77;
    __atomic_store_n(&has_written, true, __ATOMIC_SEQ_CST);
    return NULL;
}

/// A pinned page stays where it is: devices read a copy, and write when it is free again.
static int check_pinned(void) {
    char *home = make(8);
    uint64_t page = page_of(home);
    EXPECT(clive_register(page, 8, CLIVE_ON_THREAD) == 0);
    int ring = pin(home + 2 * PAGE_BYTES);
    if (ring < 0) return 0;
    EXPECT(clive_take(page, frames, 8, 0, result) == 7 && result[2] == EBUSY && *clive_word(page + 2) == 0);
    EXPECT(clive_bring(page, 8, result, NULL) == 7);
    close(ring);
    EXPECT(clive_take(page + 4, &frames[4], 1, 0, result) == 1);
    *byte_at(home, 4) = 9;
    ring = pin(home + 4 * PAGE_BYTES);
    EXPECT(*byte_at(arena, FIRST_FRAME + 4) == 9 && clive_state_of(*clive_word(page + 4)) == CLIVE_RETURNED);
    *byte_at(home, 4) = 10;
    EXPECT(*byte_at(arena, FIRST_FRAME + 4) == 10);
    pthread_t device;
    EXPECT(pthread_create(&device, NULL, write_as_device, (void *)byte_at(arena, FIRST_FRAME + 4)) == 0);
    usleep(20000);
    EXPECT(!__atomic_load_n(&has_written, __ATOMIC_SEQ_CST) && *byte_at(home, 4) == 10);
    close(ring);
    pthread_join(device, NULL);
    EXPECT(*byte_at(home, 4) == 77);
    while (clive_drain(returns, PAGES)) {}
    EXPECT(clive_bring(page + 4, 1, result, NULL) == 1);
    return 0;
}

/// The same of memory that is locked, or may be executed: its pages are copied, which no pin may miss.
static int check_pinned_elsewhere(bool is_locked) {
    char *home = make(8);
    uint64_t page = page_of(home);
    EXPECT((is_locked ? mlock(home, 8 * PAGE_BYTES) : mprotect(home, 8 * PAGE_BYTES, 7)) == 0);
    EXPECT(clive_register(page, 8, CLIVE_ON_THREAD) == 0);
    int ring = pin(home + 2 * PAGE_BYTES);
    if (ring < 0) return 0;
    EXPECT(clive_take(page, frames, 8, 0, result) == 7 && result[2] == EBUSY && *clive_word(page + 2) == 0);
    for (int i = 0; i < 8; i++) EXPECT(i == 2 || *byte_at(arena, FIRST_FRAME + i) == i + 1);
    EXPECT(clive_bring(page, 8, result, NULL) == 7);
    close(ring);
    for (int i = 0; i < 100 && clive_take(page + 2, &frames[2], 1, 0, result) == 0; i++) usleep(1000);
    EXPECT(*byte_at(arena, FIRST_FRAME + 2) == 3 && *byte_at(home, 2) == 3);
    while (clive_drain(returns, PAGES)) {}
    return 0;
}

/// What is shared with a child since a fork goes to the device as a copy of this process's own.
static int check_shared_with_child(void) {
    char *home = make(8);
    uint64_t page = page_of(home);
    EXPECT(clive_register(page, 8, CLIVE_ON_THREAD) == 0);
    int ends[2];
    EXPECT(pipe(ends) == 0);
    clive_before_fork();
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(ends[1]);
        bool is_told = read(ends[0], &byte, 1) == 0;
        _exit(is_told && *byte_at(home, 3) == 4 ? 0 : 1);
    }
    clive_after_fork_in_parent();
    EXPECT(clive_take(page, frames, 8, 0, result) == 8);
    for (int i = 0; i < 8; i++) EXPECT((*byte_at(arena, FIRST_FRAME + i))++ == i + 1);
    close(ends[0]);
    close(ends[1]);
    int status = -1;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    EXPECT(clive_bring(page, 8, result, NULL) == 8 && *byte_at(home, 3) == 5);
    return 0;
}

/// Memory that was unmapped and mapped anew without a word to us is registered again before a page of it is taken, and
/// what a mapping grew by has its faults answered.
static int check_mapped_anew(void) {
    size_t bytes = 32 * PAGE_BYTES;
    char *home = make(32);
    uint64_t page = page_of(home);
    munmap(home + 8 * PAGE_BYTES, bytes - 8 * PAGE_BYTES);
    EXPECT(clive_register(page, 8, CLIVE_HANDLER_THREAD) == 0);
    if (mremap(home, 8 * PAGE_BYTES, bytes, 0) == home) {
        EXPECT(*byte_at(home, 20) == 0);
        *byte_at(home, 21) = 3;
    }
    munmap(home, bytes);
    char *again = mmap(home, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    EXPECT(again == home);
    memset(home, 9, bytes);
    EXPECT(clive_take(page, frames, 8, 0, result) == 8);
    EXPECT(*byte_at(home, 0) == 9 && *byte_at(home, 7) == 9);
    RUN(settle(2));
    EXPECT(clive_bring(page, 8, result, NULL) == 6);
    return 0;
}

/// More stack than one frame of the caller has.
static __attribute__((noinline, optnone)) int use_stack(int depth) {
    volatile char room[PAGE_BYTES];
    room[0] = 1;
    return depth ? use_stack(depth - 1) + room[0] : 0;
}

static int check_stack(void) {
    EXPECT(use_stack(100) == 100);
    int here = 0;
    struct clive_vma vma;
    EXPECT(clive_vma_ending_after(page_of(&here), &vma) == 0);
    uint64_t count = vma.end_page - vma.start_page;
    if (count > PAGES - 1) count = PAGES - 1;
    uint64_t first = vma.end_page - count;
    EXPECT(clive_register(first, count, CLIVE_HANDLER_THREAD) == 0);
    int taken = clive_take(first, frames, count, 0, result);
    EXPECT(taken > 0 && (uint64_t)taken < count && result[page_of(&here) - first] == EBUSY);
    EXPECT(use_stack(200) == 200);
    EXPECT(clive_bring(first, count, result, NULL) > 0);
    while (clive_drain(returns, PAGES)) {}
    EXPECT(clive_unregister(first, count) == 0);
    return 0;
}

/// A huge page that goes whole stays huge, there and back, also into slots that smaller pages were in.
static int check_huge(void) {
    char *home = map_pages(HUGE_PAGES);
    uint64_t page = page_of(home);
    if (madvise(home, HUGE_PAGES * PAGE_BYTES, MADV_HUGEPAGE)) return 0;
    memset(home, 5, HUGE_PAGES * PAGE_BYTES);
    uint8_t seen;
    EXPECT(clive_look(page, 1, &seen) == 0);
    if (!(seen & CLIVE_HUGE)) return 0;
    EXPECT(clive_register(page, HUGE_PAGES, CLIVE_ON_THREAD) == 0);
    for (int round = 0; round < 2; round++) {
        EXPECT(clive_take(page, frames, HUGE_PAGES, 0, result) == (int)HUGE_PAGES);
        EXPECT(*byte_at(arena, FIRST_FRAME + 99) == 5);
        clive_set_fault_around(16);
        EXPECT(*byte_at(home, 300) == 5);
        clive_set_fault_around(1);
        RUN(settle(HUGE_PAGES));
        EXPECT(clive_look(page, 1, &seen) == 0 && seen & CLIVE_HUGE);
    }
    return 0;
}

int clive_check_pages(const struct clive_options *options) {
    arena = map_pages(ARENA_FRAMES);
    EXPECT(clive_start(arena, ARENA_FRAMES, options) == 0);
    for (uint32_t i = 0; i < PAGES; i++) frames[i] = FIRST_FRAME + i;
    struct clive_features features;
    clive_probe(&features);
    bool moves = features.move && !options->copy_only && !(options->without_features & 1 << 16);
    if (moves) RUN(check_huge());
    RUN(check_rights());
    // A page that cannot be protected is not copied for a device that reads: it would wait here.
    if (moves && features.write_protect && !(options->without_features & 1)) RUN(check_pinned());
    if (moves) RUN(check_pinned_elsewhere(true));
    if (moves) RUN(check_pinned_elsewhere(false));
    RUN(check_shared_with_child());
    RUN(check_mapped_anew());
    RUN(check_stack());
    return 0;
}
