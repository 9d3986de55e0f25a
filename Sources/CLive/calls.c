#define _GNU_SOURCE
// System calls without the C library, which may have others of our own in its place.
#include "include/CLive.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static intptr_t answer(long status) { return status == -1 ? -errno : status; }

intptr_t clive_sys_munmap(uintptr_t address, size_t bytes) { return answer(syscall(SYS_munmap, address, bytes)); }

intptr_t clive_sys_mprotect(uintptr_t address, size_t bytes, int protection) {
    return answer(syscall(SYS_mprotect, address, bytes, protection));
}

intptr_t clive_sys_madvise(uintptr_t address, size_t bytes, int advice) {
    return answer(syscall(SYS_madvise, address, bytes, advice));
}

intptr_t clive_sys_mremap(uintptr_t address, size_t bytes, size_t new_bytes, int flags, uintptr_t target) {
    return answer(syscall(SYS_mremap, address, bytes, new_bytes, flags, target));
}

int clive_call_fork(void) { return fork(); }

void clive_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    pthread_atfork(prepare, parent, child);
}

void clive_block_signals(void) {
    sigset_t all;
    sigfillset(&all);
    // Those of the thread's own mistakes, and of faults.
    for (int i = 0; i < 5; i++) sigdelset(&all, (int[]){ SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGABRT }[i]);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}
