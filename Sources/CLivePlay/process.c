// Processes and files of scenarios.
#define _GNU_SOURCE
#include "CLivePlay.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

pid_t clive_play_fork(void) { return fork(); }

int clive_play_reap(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return -errno;
    }
    return status;
}

int clive_play_watch(pid_t process) {
    int descriptor = (int)syscall(SYS_pidfd_open, process, 0);
    return descriptor < 0 ? -errno : descriptor;
}

int clive_play_file(size_t bytes) {
    int descriptor = memfd_create("hmm-scenario", MFD_CLOEXEC);
    if (descriptor < 0) return -errno;
    if (ftruncate(descriptor, (off_t)bytes)) {
        int error = errno;
        close(descriptor);
        return -error;
    }
    return descriptor;
}
