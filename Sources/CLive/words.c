// The words of pages, in segments that are made once and stay.
#define _GNU_SOURCE
#include "internal.h"
#include <sys/mman.h>
#include <time.h>

struct segment *clive_segments[SEGMENT_SLOTS];
/// By segment number; written once each, by clive_make_segments.
static void *bases[CLIVE_SEGMENTS];
static uint32_t segment_count;

uint64_t *clive_word(uint64_t page) { return word_of(page); }

bool clive_are_home(const uint64_t *words, size_t count) {
    uint64_t any = 0;
    for (size_t i = 0; i < count; i++) any |= __atomic_load_n(&words[i], __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return (any & (CLIVE_STATE | CLIVE_COHERENT)) == CLIVE_HOME;
}

bool clive_change(uint64_t page, uint64_t expected, uint64_t value) {
    uint64_t *word = word_of(page);
    return word && exchange_word(page, word, expected, value);
}

int32_t clive_segment(uint64_t page) {
    struct segment *s = segment_of(page);
    return s ? s->number : -1;
}

void *const *clive_segment_bases(void) { return bases; }

uint64_t clive_owner(uint32_t frame) { return owner_of(frame); }

void *own_memory(size_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    // Without rights it is joined with nothing, and with the advice, which others do not have, it never will be.
    void *p = mmap(NULL, bytes, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (madvise(p, bytes, MADV_DONTDUMP) == 0 && mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0) return p;
    munmap(p, bytes);
    return NULL;
}

static int make_segment(uint64_t index) {
    uint32_t number = __atomic_fetch_add(&segment_count, 1, __ATOMIC_RELAXED);
    if (number >= CLIVE_SEGMENTS) {
        __atomic_fetch_sub(&segment_count, 1, __ATOMIC_RELAXED);
        return -ENOSPC;
    }
    struct segment *s = own_memory(sizeof *s);
    if (!s) return -ENOMEM;
    s->number = (int32_t)number;
    __atomic_store_n(&bases[number], (void *)(index * CLIVE_PAGES_OF_SEGMENT * PAGE_BYTES), __ATOMIC_RELEASE);
    struct segment *none = NULL;
    if (!__atomic_compare_exchange_n(&clive_segments[index], &none, s, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        // Somebody else was first. The number is lost; its base stays right.
        munmap(s, sizeof *s);
    }
    return 0;
}

int clive_make_segments(uint64_t page, uint64_t count) {
    if (count == 0) return 0;
    uint64_t first = page / CLIVE_PAGES_OF_SEGMENT, last = (page + count - 1) / CLIVE_PAGES_OF_SEGMENT;
    if (last >= SEGMENT_SLOTS || last < first) return -EINVAL;
    for (uint64_t index = first; index <= last; index++) {
        if (__atomic_load_n(&clive_segments[index], __ATOMIC_ACQUIRE)) continue;
        int error = make_segment(index);
        if (error) return error;
    }
    return 0;
}

void sleep_ns(uint64_t nanoseconds) {
    struct timespec t = { (time_t)(nanoseconds / 1000000000ull), (long)(nanoseconds % 1000000000ull) };
    kernel_call(SYS_nanosleep, (long)&t, 0, 0, 0, 0, 0);
}

void wait_turn(unsigned turn) {
    if (turn < 32) kernel_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0); else sleep_ns(turn < 256 ? 20000 : 200000);
}

uint64_t own_word(uint64_t page, uint64_t *word) {
    for (unsigned turn = 0;;) {
        uint64_t w = clive_load(word);
        if (clive_state_of(w) == CLIVE_BUSY) wait_turn(turn++);
        else if (exchange_word(page, word, w, with_state(w, CLIVE_BUSY))) return w;
    }
}

#pragma clang attribute pop
