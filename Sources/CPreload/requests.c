// The ioctls of the test driver: their arguments, and the data that they copy.
//
// Kernel: lib/test_hmm.c dmirror_fops_unlocked_ioctl, struct dmirror_bounce (6.12). As there, the program's data go
// through a buffer of our own: the program's memory is never touched while the driver holds a lock, because a touch can
// need the driver.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Layout of the kernel's struct hmm_dmirror_cmd.
struct command {
    uint64_t address, buffer, page_count, pages, faults;
};

// MARK: copies

static int copy(void *ours, uint64_t theirs, uint64_t bytes, long call) {
    uint64_t done = 0;
    while (done < bytes) {
        // One call takes less than 2 GiB.
        uint64_t some = bytes - done < 1 << 30 ? bytes - done : 1 << 30;
        struct iovec here = {(char *)ours + done, some}, there = {(void *)(theirs + done), some};
        long copied = syscall(call, (long)getpid(), &here, 1L, &there, 1L, 0L);
        if (copied > 0) done += (uint64_t)copied;
        else if (copied == 0 || errno == EFAULT) return EFAULT;
        else if (errno != EINTR) return errno;
    }
    return 0;
}

// Where the system call may not be used, a bad address is a signal.
static bool is_forbidden(int error) {
    return error == EPERM || error == ENOSYS;
}

// Where the kernel's own faults are not answered, it does not reach what a device has: that has to come home first.
static bool fetch(uint64_t address, uint64_t bytes, int advice) {
    if (!cpreload_is_active() || bytes == 0 || address > UINT64_MAX - bytes) return false;
    uint64_t first = address / PAGE, end = (address + bytes - 1) / PAGE + 1;
    cpreload_inside++;
    int error = hmm_preload_advise(first, end - first, advice);
    cpreload_inside--;
    return error == 0;
}

int cpreload_copy_in(void *to, uint64_t from, uint64_t bytes) {
    int error = copy(to, from, bytes, SYS_process_vm_readv);
    if (error == EFAULT && fetch(from, bytes, MADV_POPULATE_READ)) error = copy(to, from, bytes, SYS_process_vm_readv);
    if (!is_forbidden(error)) return error;
    memcpy(to, (const void *)from, bytes);
    return 0;
}

int cpreload_copy_out(uint64_t to, const void *from, uint64_t bytes) {
    void *ours = (void *)from;
    int error = copy(ours, to, bytes, SYS_process_vm_writev);
    if (error == EFAULT && fetch(to, bytes, MADV_POPULATE_WRITE)) error = copy(ours, to, bytes, SYS_process_vm_writev);
    if (!is_forbidden(error)) return error;
    memcpy((void *)to, from, bytes);
    return 0;
}

// MARK: requests

static bool has_data(uint32_t request) {
    return request <= CPRELOAD_MIGRATE || request == CPRELOAD_EXCLUSIVE;
}

// Calls the driver. The memory of devices is reached by faults that are signals on this thread, which it must not have
// blocked.
static int call(void *mirror, uint32_t request, struct command *command, void *bounce) {
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &signals, &before);
    cpreload_request_begin();
    cpreload_inside++;
    int error = hmm_preload_request(
        mirror, request, command->address / PAGE, command->page_count, bounce, &command->pages, &command->faults);
    cpreload_inside--;
    cpreload_request_end();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static int serve(void *mirror, uint32_t request, struct command *command) {
    uint64_t bytes = request == CPRELOAD_SNAPSHOT ? command->page_count
        : has_data(request) ? command->page_count * PAGE : 0;
    if (bytes == 0) return call(mirror, request, command, NULL);
    void *bounce = cpreload_allocate(bytes);
    if (bounce == NULL) return ENOMEM;
    int error = 0;
    if (request == CPRELOAD_WRITE) error = cpreload_copy_in(bounce, command->buffer, bytes);
    if (error == 0) error = call(mirror, request, command, bounce);
    if (error == 0 && request != CPRELOAD_WRITE) error = cpreload_copy_out(command->buffer, bounce, bytes);
    free(bounce);
    return error;
}

int cpreload_ioctl(struct cpreload_file *file, unsigned long number, void *argument) {
    if (file->kind == KIND_GUP) return cpreload_pin_ioctl(number, argument);
    struct command command;
    int error = cpreload_copy_in(&command, (uint64_t)argument, sizeof command);
    if (error != 0) return error;
    if (command.address % PAGE != 0) return EINVAL;
    if (command.address >= command.address + command.page_count * PAGE) return EINVAL;
    uint32_t request = _IOC_NR(number);
    if (request >= CPRELOAD_REQUESTS || (uint32_t)number != _IOWR('H', request, struct command)) return EINVAL;
    // A mirror of the parent's address space, which this process cannot reach: answered as if that had ended.
    if (file->mirror == NULL) return request == CPRELOAD_READ || request == CPRELOAD_WRITE ? EFAULT : EINVAL;
    command.page_count = command.page_count & (UINT64_MAX / PAGE);
    command.pages = 0;
    command.faults = 0;
    error = serve(file->mirror, request, &command);
    if (error != 0) return error;
    return cpreload_copy_out((uint64_t)argument, &command, sizeof command);
}
