// What the other files stand on: the functions behind us, the process that we are in, and fork.

#include "internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

HIDDEN _Thread_local int cpreload_inside __attribute__((tls_model("initial-exec")));
HIDDEN _Atomic(uint32_t) *_Atomic cpreload_alive;

static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
// A fork is being made, and the gate and the files are locked for it. Guarded by `gate`, held alone.
static bool is_forking;
// First and last byte of this library in memory. Written before `cpreload_alive`.
static uintptr_t own_start, own_end;

void *cpreload_find(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

bool cpreload_is_own(const void *caller) {
    return (uintptr_t)caller >= own_start && (uintptr_t)caller < own_end;
}

void cpreload_complain(const char *text) {
    char line[512];
    int bytes = snprintf(line, sizeof line, "hmm exec: %s\n", text);
    if (bytes > (int)sizeof line - 1) bytes = sizeof line - 1;
    if (bytes > 0) syscall(SYS_write, STDERR_FILENO, line, (size_t)bytes);
}

void cpreload_request_begin(void) {
    pthread_rwlock_rdlock(&gate);
}

void cpreload_request_end(void) {
    pthread_rwlock_unlock(&gate);
}

// MARK: fork

static void before_fork(void) {
    if (!cpreload_is_active() || cpreload_inside) return;
    pthread_rwlock_wrlock(&gate);
    cpreload_lock_files();
    is_forking = true;
    // The handlers of the address space are the driver's.
    cpreload_inside++;
}

static void after_fork_in_parent(void) {
    if (!is_forking) return;
    cpreload_inside--;
    is_forking = false;
    cpreload_unlock_files();
    pthread_rwlock_unlock(&gate);
}

static void after_fork_in_child(void) {
    if (!is_forking) return;
    is_forking = false;
    // The page of this word reads as zero in a new process.
    atomic_store(atomic_load(&cpreload_alive), 1);
    pthread_rwlock_init(&gate, NULL);
    cpreload_disown_files();
    cpreload_inside--;
    cpreload_unlock_files();
}

// MARK: start

static int find_own(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    (void)context;
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        uintptr_t first = info->dlpi_addr + part->p_vaddr;
        if (first < low) low = first;
        if (first + part->p_memsz > high) high = first + part->p_memsz;
    }
    if ((uintptr_t)&find_own < low || (uintptr_t)&find_own >= high) return 0;
    own_start = low;
    own_end = high;
    return 1;
}

void cpreload_starting(void) {
    dl_iterate_phdr(find_own, NULL);
    // Before those of the address space are there, so that it is locked last.
    pthread_atfork(cpreload_lock_heap, cpreload_unlock_heap, cpreload_unlock_heap);
    cpreload_keep_signal();
}

void cpreload_started(void) {
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, PAGE, MADV_WIPEONFORK) != 0) {
        cpreload_complain("no memory that tells a child of fork from its parent");
        return;
    }
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    // What the allocator maps, moves and unmaps, it does behind our back. Memory that it keeps is not a matter of ours.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
    _Atomic(uint32_t) *alive = page;
    atomic_store(alive, 1);
    atomic_store(&cpreload_alive, alive);
}
