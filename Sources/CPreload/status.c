// What programs ask about files before they open them: the devices are character devices that everybody may use.

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// The first major number for local use (Documentation/admin-guide/devices.txt); the test driver's own is dynamic.
enum { MAJOR = 240 };

static void fill(int kind, struct stat *status) {
    memset(status, 0, sizeof *status);
    status->st_nlink = 1;
    status->st_blksize = PAGE;
    status->st_ino = (ino_t)(0x686d6d0 + kind);
    status->st_mode = kind == KIND_GUP ? S_IFREG | 0600 : S_IFCHR | 0600;
    status->st_uid = geteuid();
    status->st_gid = getegid();
    if (kind != KIND_GUP) status->st_rdev = makedev(MAJOR, (unsigned)kind);
}

static void fill_extended(int kind, struct statx *status) {
    struct stat plain;
    fill(kind, &plain);
    memset(status, 0, sizeof *status);
    status->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID | STATX_INO;
    status->stx_nlink = 1;
    status->stx_blksize = PAGE;
    status->stx_ino = plain.st_ino;
    status->stx_mode = (uint16_t)plain.st_mode;
    status->stx_uid = plain.st_uid;
    status->stx_gid = plain.st_gid;
    status->stx_rdev_major = kind == KIND_GUP ? 0 : MAJOR;
    status->stx_rdev_minor = kind == KIND_GUP ? 0 : (uint32_t)kind;
}

static int kind_of(const char *path) {
    return cpreload_inside ? KIND_NONE : cpreload_kind(path);
}

static int kind_of_descriptor(int descriptor) {
    struct cpreload_file *file = cpreload_has_files() ? cpreload_get(descriptor) : NULL;
    if (file == NULL) return KIND_NONE;
    int kind = file->kind;
    cpreload_put(file);
    return kind;
}

// With 64-bit files `struct stat64` is `struct stat`.
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "two layouts of the status of a file");

#define BY_PATH(name, type) \
    EXPORTED int name(const char *path, struct type *status) { \
        int kind = kind_of(path); \
        if (kind == KIND_NONE) return NEXT(name)(path, status); \
        fill(kind, (struct stat *)status); \
        return 0; \
    }
BY_PATH(stat, stat)
BY_PATH(stat64, stat64)
BY_PATH(lstat, stat)
BY_PATH(lstat64, stat64)

#define BY_DESCRIPTOR(name, type) \
    EXPORTED int name(int descriptor, struct type *status) { \
        int kind = kind_of_descriptor(descriptor); \
        if (kind == KIND_NONE) return NEXT(name)(descriptor, status); \
        fill(kind, (struct stat *)status); \
        return 0; \
    }
BY_DESCRIPTOR(fstat, stat)
BY_DESCRIPTOR(fstat64, stat64)

static int kind_at(int directory, const char *path, int flags) {
    if (path != NULL && path[0] == 0 && (flags & AT_EMPTY_PATH)) return kind_of_descriptor(directory);
    return kind_of(path);
}

#define AT(name, type) \
    EXPORTED int name(int directory, const char *path, struct type *status, int flags) { \
        int kind = kind_at(directory, path, flags); \
        if (kind == KIND_NONE) return NEXT(name)(directory, path, status, flags); \
        fill(kind, (struct stat *)status); \
        return 0; \
    }
AT(fstatat, stat)
AT(fstatat64, stat64)

EXPORTED int statx(int directory, const char *path, int flags, unsigned mask, struct statx *status) {
    int kind = kind_at(directory, path, flags);
    if (kind == KIND_NONE) return NEXT(statx)(directory, path, flags, mask, status);
    fill_extended(kind, status);
    return 0;
}

static int allowed(int mode) {
    if (!(mode & X_OK)) return 0;
    errno = EACCES;
    return -1;
}

EXPORTED int access(const char *path, int mode) {
    return kind_of(path) != KIND_NONE ? allowed(mode) : NEXT(access)(path, mode);
}

EXPORTED int eaccess(const char *path, int mode) {
    return kind_of(path) != KIND_NONE ? allowed(mode) : NEXT(eaccess)(path, mode);
}

EXPORTED int euidaccess(const char *path, int mode) {
    return kind_of(path) != KIND_NONE ? allowed(mode) : NEXT(euidaccess)(path, mode);
}

EXPORTED int faccessat(int directory, const char *path, int mode, int flags) {
    return kind_of(path) != KIND_NONE ? allowed(mode) : NEXT(faccessat)(directory, path, mode, flags);
}
