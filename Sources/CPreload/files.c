// Which descriptors are ours. A device's descriptor is a real one, of a memory file that nobody reads, so that numbers,
// close-on-exec and whatever else the system does with descriptors are right.
//
// Lock order: `files_lock` is a leaf; mirrors are closed without it.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DESCRIPTORS = 1 << 20, FILES = 1024 };

HIDDEN _Atomic(uint32_t) cpreload_open_files;

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
// By descriptor: the index of the file and one, or 0. Pages that nobody wrote take no memory. Written with `files_lock`
// held; read without to pass by what is not ours, also in signal handlers.
static _Atomic(uint16_t) file_of[DESCRIPTORS];
// Guarded by `files_lock`, as is the next.
static struct cpreload_file files[FILES];
// The process that the table is about: a child of vfork shares it, and its descriptors are its own.
static pid_t files_owner;

void cpreload_lock_files(void) {
    pthread_mutex_lock(&files_lock);
}

void cpreload_unlock_files(void) {
    pthread_mutex_unlock(&files_lock);
}

static bool is_ours(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS
        && atomic_load_explicit(&file_of[descriptor], memory_order_relaxed) != 0;
}

static bool is_owner(void) {
    return files_owner == (pid_t)syscall(SYS_getpid);
}

// MARK: names

int cpreload_kind(const char *path) {
    static const char prefix[] = "/dev/hmm_dmirror";
    if (path == NULL || path[0] != '/') return KIND_NONE;
    if (strcmp(path, "/sys/kernel/debug/gup_test") == 0) return KIND_GUP;
    if (strncmp(path, prefix, sizeof prefix - 1) != 0) return KIND_NONE;
    const char *number = path + sizeof prefix - 1;
    return number[0] >= '0' && number[0] < '0' + CPRELOAD_DEVICES && number[1] == 0 ? number[0] - '0' : KIND_NONE;
}

// MARK: references

// Takes the file out of the table if nobody has it any more, and answers its mirror, to be closed. `files_lock` held.
static void *dropped(struct cpreload_file *file) {
    if (--file->references != 0) return NULL;
    atomic_fetch_sub(&cpreload_open_files, 1);
    return file->mirror;
}

static void close_mirror(void *mirror) {
    if (mirror == NULL) return;
    int saved = errno;
    cpreload_request_begin();
    cpreload_inside++;
    hmm_preload_close(mirror);
    cpreload_inside--;
    cpreload_request_end();
    errno = saved;
}

// `files_lock` held.
static struct cpreload_file *file_at(int descriptor) {
    if (!is_ours(descriptor)) return NULL;
    return &files[file_of[descriptor] - 1];
}

// `files_lock` held. Answers a mirror to be closed.
static void *forget_locked(int descriptor) {
    struct cpreload_file *file = file_at(descriptor);
    if (file == NULL) return NULL;
    file_of[descriptor] = 0;
    return dropped(file);
}

void cpreload_forget(int descriptor) {
    if (!is_ours(descriptor) || cpreload_inside || !is_owner()) return;
    cpreload_lock_files();
    void *mirror = forget_locked(descriptor);
    cpreload_unlock_files();
    close_mirror(mirror);
}

void cpreload_duplicated(int descriptor, int copy) {
    if (descriptor == copy || copy < 0 || (!is_ours(descriptor) && !is_ours(copy))) return;
    if (cpreload_inside || !is_owner()) return;
    cpreload_lock_files();
    void *mirror = forget_locked(copy);
    struct cpreload_file *file = file_at(descriptor);
    if (file != NULL && copy < DESCRIPTORS) {
        file->references++;
        file_of[copy] = file_of[descriptor];
    }
    cpreload_unlock_files();
    close_mirror(mirror);
}

struct cpreload_file *cpreload_get(int descriptor) {
    if (!is_ours(descriptor) || cpreload_inside || !is_owner()) return NULL;
    int saved = errno;
    void *mirror = NULL;
    cpreload_lock_files();
    struct cpreload_file *file = file_at(descriptor);
    if (file != NULL) {
        // A descriptor that was closed without us names something else now, or nothing.
        struct stat status;
        if (syscall(SYS_newfstatat, descriptor, "", &status, AT_EMPTY_PATH) == 0 && status.st_dev == file->device
            && status.st_ino == file->inode) {
            file->references++;
        } else {
            mirror = forget_locked(descriptor);
            file = NULL;
        }
    }
    cpreload_unlock_files();
    close_mirror(mirror);
    errno = saved;
    return file;
}

void cpreload_put(struct cpreload_file *file) {
    cpreload_lock_files();
    void *mirror = dropped(file);
    cpreload_unlock_files();
    close_mirror(mirror);
}

void cpreload_disown_files(void) {
    files_owner = (pid_t)syscall(SYS_getpid);
    for (int index = 0; index < FILES; index++) {
        if (files[index].references == 0 || files[index].mirror == NULL) continue;
        hmm_preload_disown(files[index].mirror);
        files[index].mirror = NULL;
    }
}

// MARK: open

// A child that was made without fork's handlers has its parent's tables and nothing behind them.
static int refusal(void) {
    if (!cpreload_was_started() || cpreload_is_active()) return 0;
    cpreload_complain("a device cannot be opened in a process that was made by a bare clone of one that uses devices");
    return ENODEV;
}

static int memory_file(int kind, int flags, struct stat *status) {
    char name[] = "hmm_dmirror0";
    if (kind == KIND_GUP) strcpy(name, "gup_test");
    else name[sizeof name - 2] += (char)kind;
    int descriptor = (int)syscall(SYS_memfd_create, name, (flags & O_CLOEXEC ? MFD_CLOEXEC : 0) | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -1;
    int error = 0;
    if (descriptor >= DESCRIPTORS) error = EMFILE;
    else if (syscall(SYS_fcntl, descriptor, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0
             || syscall(SYS_newfstatat, descriptor, "", status, AT_EMPTY_PATH) != 0) error = errno;
    if (error == 0) return descriptor;
    syscall(SYS_close, descriptor);
    errno = error;
    return -1;
}

// Enters an open file. Answers ENFILE when there are too many.
static int enter(const struct cpreload_file *file, int descriptor) {
    int error = ENFILE;
    cpreload_lock_files();
    files_owner = (pid_t)syscall(SYS_getpid);
    void *mirror = forget_locked(descriptor);
    for (int index = 0; index < FILES && error != 0; index++) {
        if (files[index].references != 0) continue;
        files[index] = *file;
        file_of[descriptor] = (uint16_t)(index + 1);
        atomic_fetch_add(&cpreload_open_files, 1);
        error = 0;
    }
    cpreload_unlock_files();
    close_mirror(mirror);
    return error;
}

int cpreload_open(int kind, int flags) {
    int error = refusal();
    if (error == 0 && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) error = EEXIST;
    if (error == 0 && (flags & O_DIRECTORY)) error = ENOTDIR;
    if (error != 0) {
        errno = error;
        return -1;
    }
    // First, so that it gets the number that it would have: the driver opens files of its own.
    struct stat status;
    int descriptor = memory_file(kind, flags, &status);
    if (descriptor < 0) return -1;
    struct cpreload_file file = {
        .kind = kind, .flags = flags, .references = 1, .device = status.st_dev, .inode = status.st_ino
    };
    if (kind != KIND_GUP) {
        cpreload_request_begin();
        cpreload_inside++;
        error = hmm_preload_open((uint32_t)kind, &file.mirror);
        cpreload_inside--;
        cpreload_request_end();
    }
    if (error == 0) {
        error = enter(&file, descriptor);
        if (error != 0) close_mirror(file.mirror);
    }
    if (error == 0) return descriptor;
    syscall(SYS_close, descriptor);
    errno = error;
    return -1;
}
