// System calls that get memory of the program, where the faults that the kernel takes in them are not answered: what a
// device has of the memory comes home before the call, and once more if a device took it meanwhile. Elsewhere, and
// before the first device is opened, they go straight on. Memory that no device ever had to do with costs a look at a
// byte a page.
//
// What the C library does by itself (a stream's own buffer, the answer of stat) passes by here.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

// The kernel does not reach what a device has. Set once.
static _Atomic(bool) is_fetching;

void cpreload_fetch_for_calls(void) {
    atomic_store(&is_fetching, true);
}

enum direction { FROM_MEMORY, TO_MEMORY };

static bool fetches(void) {
    return __builtin_expect(atomic_load_explicit(&is_fetching, memory_order_relaxed), 0) && cpreload_inside == 0
        && cpreload_is_active();
}

// Makes the memory what the kernel can use. A bad address is the call's to answer. Keeps errno.
static void bring(const void *bytes, size_t count, enum direction direction) {
    uintptr_t first = (uintptr_t)bytes / PAGE, last = ((uintptr_t)bytes + count - 1) / PAGE;
    if (count == 0 || last < first) return;
    int saved = errno;
    cpreload_inside++;
    hmm_preload_bring(first, last - first + 1, direction == TO_MEMORY);
    cpreload_inside--;
    errno = saved;
}

static void bring_each(const struct iovec *parts, int count, enum direction direction) {
    for (int i = 0; i < count; i++) bring(parts[i].iov_base, parts[i].iov_len, direction);
}

static void bring_message(const struct msghdr *message, enum direction direction) {
    bring(message->msg_iov, message->msg_iovlen * sizeof *message->msg_iov, FROM_MEMORY);
    bring_each(message->msg_iov, (int)message->msg_iovlen, direction);
    bring(message->msg_control, message->msg_controllen, direction);
    bring(message->msg_name, message->msg_namelen, direction);
}

// A device that takes the memory again and again would make the call wait for it; no longer than this.
enum { MOST_ATTEMPTS = 8 };
#define WITH(fetching, call) \
    ({ \
        ssize_t result; \
        bool fetched = fetches(); \
        for (int attempt = 0;; attempt++) { \
            if (fetched) fetching; \
            result = (call); \
            if (result != -1 || !fetched || errno != EFAULT || attempt == MOST_ATTEMPTS) break; \
        } \
        result; \
    })

// The test driver can be neither read nor written.
static bool is_unreadable(int descriptor) {
    if (!cpreload_has_files()) return false;
    struct cpreload_file *file = cpreload_get(descriptor);
    if (file == NULL) return false;
    cpreload_put(file);
    errno = EINVAL;
    return true;
}

// MARK: files

EXPORTED ssize_t read(int descriptor, void *bytes, size_t count) {
    if (is_unreadable(descriptor)) return -1;
    return WITH(bring(bytes, count, TO_MEMORY), NEXT(read)(descriptor, bytes, count));
}

EXPORTED ssize_t write(int descriptor, const void *bytes, size_t count) {
    if (is_unreadable(descriptor)) return -1;
    return WITH(bring(bytes, count, FROM_MEMORY), NEXT(write)(descriptor, bytes, count));
}

#define AT_OFFSET(name, type, offset_type, direction) \
    EXPORTED ssize_t name(int descriptor, type bytes, size_t count, offset_type offset) { \
        return WITH(bring(bytes, count, direction), NEXT(name)(descriptor, bytes, count, offset)); \
    }
AT_OFFSET(pread, void *, off_t, TO_MEMORY)
AT_OFFSET(pread64, void *, off64_t, TO_MEMORY)
AT_OFFSET(pwrite, const void *, off_t, FROM_MEMORY)
AT_OFFSET(pwrite64, const void *, off64_t, FROM_MEMORY)

#define IN_PARTS(name, direction) \
    EXPORTED ssize_t name(int descriptor, const struct iovec *parts, int count) { \
        return WITH(bring_each(parts, count, direction), NEXT(name)(descriptor, parts, count)); \
    }
IN_PARTS(readv, TO_MEMORY)
IN_PARTS(writev, FROM_MEMORY)

#define IN_PARTS_AT_OFFSET(name, offset_type, direction) \
    EXPORTED ssize_t name(int descriptor, const struct iovec *parts, int count, offset_type offset) { \
        return WITH(bring_each(parts, count, direction), NEXT(name)(descriptor, parts, count, offset)); \
    }
IN_PARTS_AT_OFFSET(preadv, off_t, TO_MEMORY)
IN_PARTS_AT_OFFSET(preadv64, off64_t, TO_MEMORY)
IN_PARTS_AT_OFFSET(pwritev, off_t, FROM_MEMORY)
IN_PARTS_AT_OFFSET(pwritev64, off64_t, FROM_MEMORY)

// What a stream reads or writes without its own buffer in between.
EXPORTED size_t fread(void *bytes, size_t size, size_t count, FILE *stream) {
    if (fetches()) bring(bytes, size * count, TO_MEMORY);
    return NEXT(fread)(bytes, size, count, stream);
}

EXPORTED size_t fwrite(const void *bytes, size_t size, size_t count, FILE *stream) {
    if (fetches()) bring(bytes, size * count, FROM_MEMORY);
    return NEXT(fwrite)(bytes, size, count, stream);
}

EXPORTED ssize_t getrandom(void *bytes, size_t count, unsigned flags) {
    return WITH(bring(bytes, count, TO_MEMORY), NEXT(getrandom)(bytes, count, flags));
}

// MARK: sockets

EXPORTED ssize_t recv(int socket, void *bytes, size_t count, int flags) {
    return WITH(bring(bytes, count, TO_MEMORY), NEXT(recv)(socket, bytes, count, flags));
}

EXPORTED ssize_t send(int socket, const void *bytes, size_t count, int flags) {
    return WITH(bring(bytes, count, FROM_MEMORY), NEXT(send)(socket, bytes, count, flags));
}

EXPORTED ssize_t recvfrom(
    int socket, void *bytes, size_t count, int flags, struct sockaddr *address, socklen_t *length) {
    return WITH(bring(bytes, count, TO_MEMORY), NEXT(recvfrom)(socket, bytes, count, flags, address, length));
}

EXPORTED ssize_t sendto(
    int socket, const void *bytes, size_t count, int flags, const struct sockaddr *address, socklen_t length) {
    return WITH(bring(bytes, count, FROM_MEMORY), NEXT(sendto)(socket, bytes, count, flags, address, length));
}

EXPORTED ssize_t recvmsg(int socket, struct msghdr *message, int flags) {
    return WITH(bring_message(message, TO_MEMORY), NEXT(recvmsg)(socket, message, flags));
}

EXPORTED ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    return WITH(bring_message(message, FROM_MEMORY), NEXT(sendmsg)(socket, message, flags));
}

// MARK: what programs that are built with fortified sources call

_Noreturn void __chk_fail(void);
ssize_t __read_chk(int descriptor, void *bytes, size_t count, size_t room);
ssize_t __pread_chk(int descriptor, void *bytes, size_t count, off_t offset, size_t room);
ssize_t __pread64_chk(int descriptor, void *bytes, size_t count, off64_t offset, size_t room);
ssize_t __recv_chk(int socket, void *bytes, size_t count, size_t room, int flags);

EXPORTED ssize_t __read_chk(int descriptor, void *bytes, size_t count, size_t room) {
    if (count > room) __chk_fail();
    return read(descriptor, bytes, count);
}

EXPORTED ssize_t __pread_chk(int descriptor, void *bytes, size_t count, off_t offset, size_t room) {
    if (count > room) __chk_fail();
    return pread(descriptor, bytes, count, offset);
}

EXPORTED ssize_t __pread64_chk(int descriptor, void *bytes, size_t count, off64_t offset, size_t room) {
    if (count > room) __chk_fail();
    return pread64(descriptor, bytes, count, offset);
}

EXPORTED ssize_t __recv_chk(int socket, void *bytes, size_t count, size_t room, int flags) {
    if (count > room) __chk_fail();
    return recv(socket, bytes, count, flags);
}
