// The plain C beside `hmm bench --live`: memory that was moved away and comes home by page faults, as short as it can
// be written. It has no page states, serves one region at a time, and trusts its caller.
#define _GNU_SOURCE
#include "include/CBench.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096ul
#define ALIGNMENT (2ul << 20)

// Since Linux 6.8, for headers that are older.
struct move_argument {
    uint64_t dst, src, len, mode;
    int64_t move;
};
#define MOVE_IOCTL _IOWR(0xAA, 0x05, struct move_argument)
#define FEATURE_MOVE (1ull << 16)

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int open_userfaultfd(void) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd >= 0 || errno != EPERM) return fd;
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
        close(device);
    }
    // What is left to users faults on user accesses only.
    return fd >= 0 ? fd : (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
}

/// Moves pages by one ioctl, or as many as it takes. 0, or a negative errno.
static int64_t move_pages(int fd, char *to, char *from, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        struct move_argument a = { .dst = (uintptr_t)to + done, .src = (uintptr_t)from + done, .len = bytes - done };
        int status = ioctl(fd, MOVE_IOCTL, &a);
        if (status && (errno != EAGAIN || a.move <= 0)) return -errno;
        done += (size_t)a.move;
    }
    return 0;
}

// MARK: Regions

/// The region whose faults the signal handler answers. Only one at a time has faults.
static struct cbench_live *current;
static struct sigaction previous;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    struct cbench_live *live = current;
    uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)live->home;
    if (offset >= live->pages * PAGE_BYTES) {
        // Somebody else's.
        if (previous.sa_flags & SA_SIGINFO) previous.sa_sigaction(number, info, context);
        else signal(number, SIG_DFL);
        return;
    }
    int error = errno;
    size_t bytes = live->around * PAGE_BYTES;
    offset &= ~(bytes - 1);
    struct move_argument a = {
        .dst = (uintptr_t)live->home + offset, .src = (uintptr_t)live->away + offset, .len = bytes,
    };
    if (ioctl(live->fd, MOVE_IOCTL, &a)) live->error = errno;
    errno = error;
}

static void *answer_faults(void *argument) {
    struct cbench_live *live = argument;
    for (;;) {
        struct uffd_msg message;
        if (read(live->fd, &message, sizeof message) != sizeof message) return NULL;
        size_t bytes = live->around * PAGE_BYTES;
        uintptr_t offset = (message.arg.pagefault.address - (uintptr_t)live->home) & ~(bytes - 1);
        struct move_argument a = {
            .dst = (uintptr_t)live->home + offset, .src = (uintptr_t)live->away + offset, .len = bytes,
        };
        if (ioctl(live->fd, MOVE_IOCTL, &a)) live->error = errno;
    }
}

static char *map_aligned(size_t bytes, bool huge, struct cbench_mapping *whole) {
    size_t length = bytes + ALIGNMENT;
    void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    *whole = (struct cbench_mapping){ p, length };
    char *start = (char *)(((uintptr_t)p + ALIGNMENT - 1) & ~(ALIGNMENT - 1));
    madvise(start, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return start;
}

static int64_t register_range(int fd, void *start, size_t bytes) {
    struct uffdio_register r = {
        .range = { (uintptr_t)start, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    return ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

static int64_t start(struct cbench_live *live, bool huge, bool handler_thread) {
    size_t bytes = live->pages * PAGE_BYTES;
    live->fd = open_userfaultfd();
    if (live->fd < 0) return -errno;
    struct uffdio_api api = { .api = UFFD_API, .features = FEATURE_MOVE | (handler_thread ? 0 : UFFD_FEATURE_SIGBUS) };
    if (ioctl(live->fd, UFFDIO_API, &api)) return -errno;
    live->home = map_aligned(bytes, huge, &live->home_whole);
    live->away = map_aligned(bytes, huge, &live->away_whole);
    if (!live->home || !live->away) return -ENOMEM;
    for (size_t i = 0; i < live->pages; i++) *(volatile uint64_t *)((char *)live->home + i * PAGE_BYTES) = i + 1;
    int64_t status = register_range(live->fd, live->home, bytes);
    if (!status) status = register_range(live->fd, live->away, bytes);
    if (status) return status;
    if (handler_thread) {
        pthread_t thread;
        int error = pthread_create(&thread, NULL, answer_faults, live);
        if (error) return -error;
        pthread_setname_np(thread, "c-faults");
        live->thread = (uint64_t)thread;
        live->has_thread = true;
    }
    return 0;
}

int64_t cbench_live_make(struct cbench_live *live, size_t pages, bool huge, bool handler_thread) {
    *live = (struct cbench_live){ .fd = -1, .pages = pages, .around = 1 };
    int64_t status = start(live, huge, handler_thread);
    if (status) cbench_live_free(live);
    return status;
}

void cbench_live_free(struct cbench_live *live) {
    if (live->has_thread) {
        pthread_cancel((pthread_t)live->thread);
        pthread_join((pthread_t)live->thread, NULL);
        live->has_thread = false;
    }
    if (live->fd >= 0) close(live->fd);
    if (live->home_whole.base) munmap(live->home_whole.base, live->home_whole.bytes);
    if (live->away_whole.base) munmap(live->away_whole.base, live->away_whole.bytes);
    live->fd = -1;
    live->home_whole.base = live->away_whole.base = NULL;
}

// MARK: Measurements

static int64_t sum_of_touches(const struct cbench_live *live) {
    uint64_t sum = 0;
    for (size_t i = 0; i < live->pages; i++) sum += *(volatile uint64_t *)((char *)live->home + i * PAGE_BYTES);
    return (int64_t)sum;
}

int64_t cbench_live_faults(struct cbench_live *live, size_t around) {
    size_t bytes = live->pages * PAGE_BYTES;
    live->around = around;
    live->error = 0;
    int64_t status = move_pages(live->fd, live->away, live->home, bytes);
    if (status) return status;
    if (!live->has_thread) {
        current = live;
        struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER };
        if (sigaction(SIGBUS, &action, &previous)) return -errno;
    }
    int64_t begin = now();
    int64_t sum = sum_of_touches(live);
    int64_t taken = now() - begin;
    if (!live->has_thread) sigaction(SIGBUS, &previous, NULL);
    if (live->error) return -live->error;
    return sum == (int64_t)(live->pages * (live->pages + 1) / 2) ? taken : -EILSEQ;
}

int64_t cbench_live_move_both_ways(struct cbench_live *live) {
    size_t bytes = live->pages * PAGE_BYTES;
    int64_t begin = now();
    int64_t status = move_pages(live->fd, live->away, live->home, bytes);
    if (!status) status = move_pages(live->fd, live->home, live->away, bytes);
    int64_t taken = now() - begin;
    if (status) return status;
    return sum_of_touches(live) == (int64_t)(live->pages * (live->pages + 1) / 2) ? taken : -EILSEQ;
}
