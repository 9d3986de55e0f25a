// The descriptors that live memory stands on. The kernel takes a userfaultfd for gone with its last descriptor, and
// with it whatever is away: a CPU would read zeros there. Programs do close descriptors that they did not open.
#define _GNU_SOURCE
#include "internal.h"
#include <fcntl.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
enum { CLOSE_OWN_TABLE = 1 << 1 };

enum {
    /// Under the 1024 that a process may have unless it asks for more.
    FIRST_FILE = 960,
    FILES = 4,
};

int keep_high(int file) {
    long copy = kernel_call(SYS_fcntl, file, F_DUPFD_CLOEXEC, FIRST_FILE, 0, 0, 0);
    if (copy < 0) return file;
    kernel_call(SYS_close, file, 0, 0, 0, 0, 0);
    return (int)copy;
}

/// The lowest first; one may be there twice.
static void list_files(int files[FILES]) {
    const int unsorted[FILES] = { live.uffd[0], live.uffd[1], live.pagemap, live.maps };
    for (int i = 0; i < FILES; i++) {
        int at = i;
        for (; at > 0 && files[at - 1] > unsorted[i]; at--) files[at] = files[at - 1];
        files[at] = unsorted[i];
    }
}

int clive_file_from(int number) {
    int files[FILES];
    list_files(files);
    for (int i = 0; i < FILES; i++) if (files[i] >= 0 && files[i] >= number) return files[i];
    return -1;
}

void have_own_files(void) {
    int files[FILES];
    list_files(files);
    // The table is copied up to the last of ours. A kernel without the call lets the program close them.
    if (kernel_call(SYS_close_range, files[FILES - 1] + 1, ~0u, CLOSE_OWN_TABLE, 0, 0, 0)) return;
    int first = 0;
    for (int i = 0; i < FILES; i++) {
        if (files[i] > first) kernel_call(SYS_close_range, first, files[i] - 1, 0, 0, 0, 0);
        first = files[i] + 1;
    }
}

#pragma clang attribute pop
