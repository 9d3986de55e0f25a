// The functions of the C library that make, copy and give up descriptors.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// MARK: open

// The mode of a file that a call may make; the caller passes it then only.
#define MODE(flags, last) \
    ({ \
        mode_t mode = 0; \
        if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
            va_list arguments; \
            va_start(arguments, last); \
            mode = va_arg(arguments, mode_t); \
            va_end(arguments); \
        } \
        mode; \
    })

static int kind_of(const char *path) {
    return cpreload_inside ? KIND_NONE : cpreload_kind(path);
}

EXPORTED int open(const char *path, int flags, ...) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(open)(path, flags, MODE(flags, flags));
}

EXPORTED int open64(const char *path, int flags, ...) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(open64)(path, flags, MODE(flags, flags));
}

EXPORTED int openat(int directory, const char *path, int flags, ...) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(openat)(directory, path, flags, MODE(flags, flags));
}

EXPORTED int openat64(int directory, const char *path, int flags, ...) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(openat64)(directory, path, flags, MODE(flags, flags));
}

// What programs that are built with fortified sources call.
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int directory, const char *path, int flags);
int __openat64_2(int directory, const char *path, int flags);

EXPORTED int __open_2(const char *path, int flags) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(__open_2)(path, flags);
}

EXPORTED int __open64_2(const char *path, int flags) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(__open64_2)(path, flags);
}

EXPORTED int __openat_2(int directory, const char *path, int flags) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(__openat_2)(directory, path, flags);
}

EXPORTED int __openat64_2(int directory, const char *path, int flags) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? cpreload_open(kind, flags) : NEXT(__openat64_2)(directory, path, flags);
}

static FILE *open_stream(int kind, const char *mode) {
    int flags = strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
    if (strchr(mode, 'e')) flags |= O_CLOEXEC;
    int descriptor = cpreload_open(kind, flags);
    if (descriptor < 0) return NULL;
    FILE *stream = fdopen(descriptor, mode);
    if (stream == NULL) close(descriptor);
    return stream;
}

EXPORTED FILE *fopen(const char *path, const char *mode) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? open_stream(kind, mode) : NEXT(fopen)(path, mode);
}

EXPORTED FILE *fopen64(const char *path, const char *mode) {
    int kind = kind_of(path);
    return kind != KIND_NONE ? open_stream(kind, mode) : NEXT(fopen64)(path, mode);
}

// MARK: close

// The driver's own descriptors are none of the program, which may close whatever it finds: with them it would lose the
// memory that a device has.
static int first_kept(unsigned number) {
    return number > INT_MAX ? -1 : hmm_preload_file_from((int)number);
}

static bool is_kept(int descriptor, const void *caller) {
    return cpreload_is_programs(caller) && descriptor >= 0 && first_kept((unsigned)descriptor) == descriptor;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

static int close_around(unsigned first, unsigned last, int flags) {
    while (first <= last) {
        int kept = first_kept(first);
        if (kept < 0 || (unsigned)kept > last) return NEXT(close_range)(first, last, flags);
        if ((unsigned)kept > first) {
            int result = NEXT(close_range)(first, (unsigned)kept - 1, flags);
            if (result != 0) return result;
        }
        first = (unsigned)kept + 1;
    }
    return 0;
}

EXPORTED int close(int descriptor) {
    if (is_kept(descriptor, CALLER())) return refuse(EBADF);
    if (cpreload_has_files()) cpreload_forget(descriptor);
    return NEXT(close)(descriptor);
}

EXPORTED int fclose(FILE *stream) {
    if (cpreload_has_files() && stream != NULL) cpreload_forget(fileno(stream));
    return NEXT(fclose)(stream);
}

EXPORTED int close_range(unsigned first, unsigned last, int flags) {
    bool is_around = cpreload_is_programs(CALLER()) && first <= last;
    int result = is_around ? close_around(first, last, flags) : NEXT(close_range)(first, last, flags);
    if (result != 0 || !cpreload_has_files() || (flags & CLOSE_RANGE_CLOEXEC)) return result;
    // Those that are still open after all are found by nobody: the numbers of the table end long before `last` can.
    for (unsigned number = first; number <= last && number < 1u << 20; number++) cpreload_forget((int)number);
    return result;
}

EXPORTED void closefrom(int first) {
    bool is_around = cpreload_is_programs(CALLER());
    if (!is_around || close_around(first < 0 ? 0 : (unsigned)first, ~0u, 0) != 0) NEXT(closefrom)(first);
    if (!cpreload_has_files()) return;
    for (int number = first < 0 ? 0 : first; number < 1 << 20; number++) cpreload_forget(number);
}

// MARK: copies

EXPORTED int dup(int descriptor) {
    int copy = NEXT(dup)(descriptor);
    if (cpreload_has_files()) cpreload_duplicated(descriptor, copy);
    return copy;
}

EXPORTED int dup2(int descriptor, int number) {
    if (is_kept(number, CALLER())) return refuse(EBUSY);
    int copy = NEXT(dup2)(descriptor, number);
    if (cpreload_has_files()) cpreload_duplicated(descriptor, copy);
    return copy;
}

EXPORTED int dup3(int descriptor, int number, int flags) {
    if (is_kept(number, CALLER())) return refuse(EBUSY);
    int copy = NEXT(dup3)(descriptor, number, flags);
    if (cpreload_has_files()) cpreload_duplicated(descriptor, copy);
    return copy;
}

static int controlled(int descriptor, int command, int result) {
    if (cpreload_has_files() && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) {
        cpreload_duplicated(descriptor, result);
    }
    return result;
}

// The argument is a number or a pointer, or is not there; as a pointer it is passed on in any case.
#define ARGUMENT(last) \
    ({ \
        va_list arguments; \
        va_start(arguments, last); \
        void *argument = va_arg(arguments, void *); \
        va_end(arguments); \
        argument; \
    })

EXPORTED int fcntl(int descriptor, int command, ...) {
    return controlled(descriptor, command, NEXT(fcntl)(descriptor, command, ARGUMENT(command)));
}

EXPORTED int fcntl64(int descriptor, int command, ...) {
    return controlled(descriptor, command, NEXT(fcntl64)(descriptor, command, ARGUMENT(command)));
}

// MARK: requests

EXPORTED int ioctl(int descriptor, unsigned long request, ...) {
    void *argument = ARGUMENT(request);
    struct cpreload_file *file = cpreload_has_files() ? cpreload_get(descriptor) : NULL;
    if (file == NULL) return NEXT(ioctl)(descriptor, request, argument);
    // These the kernel answers before it asks a driver.
    int error = ENOTTY;
    bool is_general = request == FIOCLEX || request == FIONCLEX || request == FIONBIO || request == FIOASYNC;
    if (!is_general) error = cpreload_ioctl(file, request, argument);
    cpreload_put(file);
    if (is_general) return NEXT(ioctl)(descriptor, request, argument);
    if (error == 0) return 0;
    errno = error;
    return -1;
}
