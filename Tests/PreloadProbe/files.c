#include "probe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void check_names(void) {
    struct stat status;
    CHECK(access("/dev/hmm_dmirror0", R_OK | W_OK) == 0);
    CHECK(stat("/dev/hmm_dmirror3", &status) == 0 && S_ISCHR(status.st_mode));
    CHECK(open("/dev/hmm_dmirror4", O_RDWR) == -1 && errno == ENOENT);
    CHECK(open("/dev/hmm_dmirror0x", O_RDWR) == -1 && errno == ENOENT);
    CHECK(open("/dev/hmm_dmirror0", O_RDWR | O_CREAT | O_EXCL, 0600) == -1 && errno == EEXIST);
    // The lowest free number, as for any file; close-on-exec as it was asked for.
    int lowest = dup(0);
    close(lowest);
    int device = open("/dev/hmm_dmirror0", O_RDWR | O_CLOEXEC);
    CHECK(device == lowest && fcntl(device, F_GETFD) == FD_CLOEXEC);
    CHECK(ioctl(device, FIONCLEX) == 0 && fcntl(device, F_GETFD) == 0);
    CHECK(fstat(device, &status) == 0 && S_ISCHR(status.st_mode));
    char byte = 0;
    CHECK(read(device, &byte, 1) == -1 && errno == EINVAL);
    CHECK(write(device, &byte, 1) == -1 && errno == EINVAL);
    CHECK(close(device) == 0 && close(device) == -1 && errno == EBADF);
    CHECK(ioctl(device, DEVICE_READ, &byte) == -1 && errno == EBADF);
    FILE *stream = fopen("/dev/hmm_dmirror1", "r+");
    uint64_t *memory = fresh(1, 3);
    CHECK(stream != NULL && look(fileno(stream), memory) == 0x02);
    CHECK(fclose(stream) == 0);
    CHECK(access("/sys/kernel/debug/gup_test", R_OK) == 0);
}

// A page in the device's memory tells whether the mirror lives: its last close brings all of them home.
void check_copies(void) {
    int watcher = open_device(1), device = open_device(0);
    uint64_t *memory = fresh(1, 5), words[WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, memory, 1, words) == 0 && words[0] == 5);
    CHECK(look(device, memory) == 0x22 && look(watcher, memory) == 0x00);
    int copy = dup(device), high = fcntl(device, F_DUPFD_CLOEXEC, 100);
    CHECK(copy > device && high >= 100);
    CHECK(close(device) == 0 && look(copy, memory) == 0x22);
    CHECK(look(device, memory) == -1 && errno == EBADF);
    // Puts something else in the place of a copy.
    CHECK(dup2(0, copy) == copy && look(copy, memory) == -1 && errno != EINVAL);
    CHECK(look(high, memory) == 0x22);
    CHECK(dup3(high, device, 0) == device && dup2(device, device) == device);
    CHECK(close_range(100, ~0u, 0) == 0 && look(device, memory) == 0x22);
    CHECK(close(device) == 0);
    CHECK(look(watcher, memory) == 0x02 && memory[0] == 5);
    close(watcher);
}

enum { CLOSE_ONE_BY_ONE, CLOSE_RANGE, CLOSE_FROM, CLOSE_BY_COPIES };

// Gives up every descriptor, with memory in a device's, and goes on with new ones.
static void close_everything(void *way) {
    int device = open_device(0);
    uint64_t *memory = fresh(64, 9), *words = fresh(64, 0);
    CHECK(ask(device, DEVICE_MIGRATE, memory, 64, words) == 0 && is_intact(words, 64, 9));
    switch (*(int *)way) {
    case CLOSE_ONE_BY_ONE: for (int number = 3; number < 1100; number++) close(number); break;
    case CLOSE_RANGE: CHECK(close_range(3, ~0u, 0) == 0); break;
    case CLOSE_FROM: closefrom(3); break;
    case CLOSE_BY_COPIES: for (int number = 3; number < 1024; number++) dup2(0, number); closefrom(3); break;
    }
    CHECK(fcntl(device, F_GETFD) == -1 && is_intact(memory, 64, 9));
    device = open_device(0);
    CHECK(device == 3 && ask(device, DEVICE_MIGRATE, memory, 64, words) == 0 && is_intact(words, 64, 9));
    CHECK(look(device, memory) == 0x22 && is_intact(memory, 64, 9));
}

// The driver's descriptors are not the program's to close, in a child and in the process itself.
void check_closing(void) {
    int way = CLOSE_ONE_BY_ONE;
    for (; way <= CLOSE_BY_COPIES; way++) CHECK(in_child(close_everything, &way) == 0);
    int device = open_device(0);
    uint64_t *memory = fresh(64, 11), *words = fresh(64, 0);
    CHECK(ask(device, DEVICE_MIGRATE, memory, 64, words) == 0);
    for (way = CLOSE_ONE_BY_ONE; way <= CLOSE_BY_COPIES; way++) CHECK(in_child(close_everything, &way) == 0);
    CHECK(is_intact(memory, 64, 11));
    for (way = CLOSE_ONE_BY_ONE; way <= CLOSE_BY_COPIES; way++) close_everything(&way);
    CHECK(is_intact(memory, 64, 11));
}

// A descriptor that is closed by a bare system call is no device any more, whatever gets its number.
void check_stale_numbers(void) {
    int device = open_device(0);
    uint64_t *memory = fresh(1, 7);
    CHECK(look(device, memory) == 0x02);
    syscall(SYS_close, device);
    CHECK(look(device, memory) == -1 && errno == EBADF);
    int next = open_device(2);
    syscall(SYS_close, next);
    CHECK(open("/dev/null", O_RDWR) == next);
    CHECK(look(next, memory) == -1 && errno == ENOTTY);
    CHECK(write(next, memory, 1) == 1);
    close(next);
}

struct family {
    int device;
    uint64_t *memory;
};

static void act_as_child(void *context) {
    struct family *family = context;
    uint64_t words[WORDS];
    // The parent's mirror: its memory is not ours to reach.
    CHECK(ask(family->device, DEVICE_READ, family->memory, 1, words) == EFAULT);
    CHECK(look(family->device, family->memory) == -1 && errno == EINVAL);
    CHECK(close(family->device) == 0);
    CHECK(is_intact(family->memory, 8, 9));
    int own = open_device(0);
    uint64_t buffer[8 * WORDS] = {0};
    CHECK(ask(own, DEVICE_READ, family->memory, 8, buffer) == 0 && is_intact(buffer, 8, 9));
    for (int page = 0; page < 8; page++) buffer[page * WORDS] = 1000;
    CHECK(ask(own, DEVICE_WRITE, family->memory, 8, buffer) == 0);
    CHECK(family->memory[0] == 1000 && family->memory[7 * WORDS] == 1000);
    CHECK(ask(own, DEVICE_MIGRATE, family->memory, 8, buffer) == 0 && buffer[WORDS] == 1000);
    CHECK(look(own, family->memory) == 0x22);
    family->memory[0] = 1;
    CHECK(look(own, family->memory) == 0x02);
    close(own);
}

void check_fork(void) {
    struct family family = {open_device(0), fresh(8, 9)};
    uint64_t buffer[8 * WORDS];
    // Half of it is in the device's memory, two pages are its own for atomics.
    CHECK(ask(family.device, DEVICE_MIGRATE, family.memory, 4, buffer) == 0);
    CHECK(ask(family.device, DEVICE_EXCLUSIVE, family.memory + 4 * WORDS, 2, buffer) == 0);
    CHECK(in_child(act_as_child, &family) == 0);
    CHECK(is_intact(family.memory, 8, 9));
    CHECK(ask(family.device, DEVICE_READ, family.memory, 8, buffer) == 0 && is_intact(buffer, 8, 9));
    // Once more, with a child of the child.
    CHECK(in_child(act_as_child, &family) == 0);
    CHECK(ask(family.device, DEVICE_MIGRATE, family.memory, 8, buffer) == 0 && is_intact(buffer, 8, 9));
    close(family.device);
    CHECK(is_intact(family.memory, 8, 9));
}

static void wait_for_end(void *context) {
    char byte;
    int *ends = context;
    close(ends[1]);
    CHECK(read(ends[0], &byte, 1) == 0);
}

// A page in coherent memory that both processes have since a fork is copied by who writes it: the CPU, a pin, a system
// call. The copy is ordinary memory.
void check_coherent_copies(void) {
    int device = open_device(2), pins = open("/sys/kernel/debug/gup_test", O_RDWR), ends[2], data[2];
    uint64_t *memory = fresh(4, 13), words[4 * WORDS];
    CHECK(pins >= 0 && pipe(ends) == 0 && pipe(data) == 0 && write(data[1], memory, PAGE) == PAGE);
    CHECK(ask(device, DEVICE_MIGRATE, memory, 4, words) == 0 && look(device, memory) == 0x42);
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        wait_for_end(ends);
        _exit(0);
    }
    memory[0] = 1;
    CHECK(pin_page(pins, memory + WORDS) == 1);
    CHECK(read(data[0], memory + 2 * WORDS, PAGE) == PAGE && memory[2 * WORDS] == 13);
    for (int page = 0; page < 3; page++) CHECK(look(device, memory + page * WORDS) == 0x02);
    CHECK(look(device, memory + 3 * WORDS) == 0x41);
    close(ends[1]);
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(pins);
    close(device);
}

// A child of vfork has the parent's memory and descriptors of its own.
void check_vfork(void) {
    int device = open_device(0);
    uint64_t *memory = fresh(2, 11), words[WORDS];
    CHECK(ask(device, DEVICE_MIGRATE, memory, 1, words) == 0);
    pid_t child = vfork();
    CHECK(child >= 0);
    if (child == 0) {
        close(device);
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(look(device, memory) == 0x22 && memory[0] == 11);
    close(device);
}
