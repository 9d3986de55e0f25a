// The beginning, and what fork does to it.
#define _GNU_SOURCE
#include "internal.h"
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

struct live live = { .uffd = { -1, -1 }, .pagemap = -1, .maps = -1, .fault_around = 1 };

void clive_set_fault_around(uint32_t pages) {
    uint32_t rounded = 1;
    while (rounded < 512 && rounded * 2 <= pages) rounded *= 2;
    __atomic_store_n(&live.fault_around, rounded, __ATOMIC_RELAXED);
}

/// The variables of this code are touched by the answer to a fault, as `own_memory` is: no mapping beside them may be
/// joined with theirs, and be registered with them.
static int keep_apart(struct dl_phdr_info *image, size_t size, void *argument) {
    (void)size;
    (void)argument;
    for (int i = 0; i < image->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &image->dlpi_phdr[i];
        uintptr_t first = image->dlpi_addr + part->p_vaddr, end = first + part->p_memsz, here = (uintptr_t)&live;
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_W) || here < first || here >= end) continue;
        first &= ~(uintptr_t)(PAGE_BYTES - 1);
        end = (end + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
        madvise((void *)first, end - first, MADV_DONTDUMP);
        return 1;
    }
    return 0;
}

static int start(void *arena, uint64_t arena_frames, const struct clive_options *options) {
    struct clive_features features;
    clive_probe(&features);
    if (features.open_error) return -features.open_error;
    uint64_t without = options->without_features;
    if (!features.sigbus) without |= FEATURE_SIGBUS;
    if (!features.move) without |= FEATURE_MOVE;
    if (!features.write_protect) without |= FEATURE_WP;
    live.features = features.uffd_features & ~without;
    live.sigbus = features.sigbus && !(without & FEATURE_SIGBUS);
    live.can_move = features.move && !options->copy_only && !(without & FEATURE_MOVE);
    live.can_protect = features.write_protect && !(without & FEATURE_WP);
    live.protects_copies = features.protects_copies;
    live.can_zero = features.zeropage;
    clive_set_fault_around(options->fault_around_pages);
    live.arena_page = (uint64_t)(uintptr_t)arena / PAGE_BYTES;
    live.arena_frames = arena_frames;
    dl_iterate_phdr(keep_apart, NULL);
    live.owners = own_memory(arena_frames * 8);
    live.table_uses = own_memory(arena_frames / BLOCK_PAGES + 2);
    if (!live.owners || !live.table_uses) return -ENOMEM;
    int error = open_proc_files();
    if (!error) error = open_copies();
    if (!error) error = open_uffds();
    if (!error) error = clive_keep_handler();
    if (!error) error = start_fault_thread();
    if (!error) error = register_everything();
    return error;
}

int clive_start(void *arena, uint64_t arena_frames, const struct clive_options *options) {
    if (live.started) return -EALREADY;
    // Words, slots and the model count in these.
    if (sysconf(_SC_PAGESIZE) != (long)PAGE_BYTES) return -EOPNOTSUPP;
    int error = start(arena, arena_frames, options);
    live.started = error == 0;
    return error;
}

void clive_before_fork(void) {
    close_gate();
    live.passed = live.refusals = 0;
    // None is held from here on that was not before; that they are let go may be seen by the child in part.
    live.held_at_fork = __atomic_load_n(&live.held, __ATOMIC_SEQ_CST);
    __atomic_store_n(&live.forking, 1, __ATOMIC_SEQ_CST);
}

int clive_after_fork_in_parent(void) {
    __atomic_store_n(&live.forking, 0, __ATOMIC_SEQ_CST);
    wait_for_answers();
    int error = live.started ? protect_everything() : 0;
    open_gate();
    return error;
}

int clive_after_fork_in_child(void) {
    int error = 0;
    // Threads of the parent that stood at the gate are not here, and the one that keeps it has another number.
    __atomic_store_n(&live.answering, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&live.waking, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&live.held, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&live.forking, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&live.gate, this_thread(), __ATOMIC_SEQ_CST);
    open_blocks();
    if (live.started) {
        // These belong to the memory of the parent.
        close(live.pagemap);
        close(live.maps);
        close(live.uffd[CLIVE_ON_THREAD]);
        if (live.uffd[CLIVE_HANDLER_THREAD] != live.uffd[CLIVE_ON_THREAD]) close(live.uffd[CLIVE_HANDLER_THREAD]);
        error = open_proc_files();
        if (!error) error = open_uffds();
        // Who answers is there before anything can fault.
        if (!error) error = start_fault_thread();
        if (!error) error = register_everything();
        if (!error && (live.passed || live.held_at_fork)) mend_halfway();
        if (!error) error = protect_everything();
    }
    open_gate();
    return error;
}

void clive_read_counts(struct clive_counts *out) {
    const uint64_t *from = (const uint64_t *)&live.counts;
    uint64_t *to = (uint64_t *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++) to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

#pragma clang attribute pop
