// Which processor threads run on, where that decides what is measured: two threads that wake each other take a few
// microseconds on one processor, and ten times that on two.
#define _GNU_SOURCE
#include "include/CBench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/// Of the threads that are placed, before they were.
static cpu_set_t allowed;

/// The set of the `index`th processor that is allowed, or of the last one.
static cpu_set_t only_processor(int index) {
    cpu_set_t set;
    int last = 0;
    for (int i = 0; i < CPU_SETSIZE && index >= 0; i++) {
        if (!CPU_ISSET(i, &allowed)) continue;
        last = i;
        index--;
    }
    CPU_ZERO(&set);
    CPU_SET(last, &set);
    return set;
}

static bool answers_faults(const char *thread) {
    char path[64], name[32];
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", thread);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, name, sizeof name - 1);
    if (file >= 0) close(file);
    if (length <= 0) return false;
    name[length] = 0;
    return strstr(name, "-faults") != NULL;
}

static int64_t place(const cpu_set_t *here, const cpu_set_t *answering) {
    if (sched_setaffinity(0, sizeof *here, here)) return -errno;
    DIR *threads = opendir("/proc/self/task");
    if (!threads) return -errno;
    int64_t status = 0;
    for (struct dirent *entry; (entry = readdir(threads));) {
        // One that has ended meanwhile runs nowhere.
        if (answers_faults(entry->d_name) && sched_setaffinity(atoi(entry->d_name), sizeof *answering, answering)
            && errno != ESRCH) status = -errno;
    }
    closedir(threads);
    return status;
}

int64_t cbench_place_apart(void) {
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return -errno;
    cpu_set_t first = only_processor(0), second = only_processor(1);
    return place(&first, &second);
}

int64_t cbench_place_anywhere(void) { return place(&allowed, &allowed); }
