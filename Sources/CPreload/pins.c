// The control file of the kernel's test of page pins.
//
// Kernel: mm/gup_test.c __gup_test_ioctl (6.12). A pin of a page of the program needs the page in the memory of the
// CPU: one that a device has comes home, and one in coherent memory leaves it when the pin may last. The pins of these
// requests end with the request. The requests that hold pins beyond it (7, 8 and 9) are not there: EINVAL.

#include "internal.h"
#include "driver.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { GET_FAST = 1, PIN_FAST, PIN_LONGTERM, GET, PIN, DUMP };
enum { FOLL_WRITE = 0x01, FOLL_LONGTERM = 0x100 };

// Layout of the kernel's struct gup_test.
struct pin_command {
    uint64_t get_microseconds, put_microseconds, address, size;
    uint32_t pages_per_call, pin_flags, test_flags, dumped_pages[8];
};

static uint64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

// Makes the CPU have the page, as an access would. 0, or an errno.
static int fault_in(uint64_t page, int advice) {
    if (!cpreload_is_active()) return syscall(SYS_madvise, page * PAGE, (long)PAGE, advice) == 0 ? 0 : errno;
    cpreload_inside++;
    int error = hmm_preload_advise(page, 1, advice);
    cpreload_inside--;
    return error;
}

// Pages from the first on that could be had.
static uint64_t pin(uint64_t address, uint64_t count, uint32_t flags) {
    if ((flags & FOLL_LONGTERM) && cpreload_is_active()) {
        cpreload_request_begin();
        cpreload_inside++;
        int error = hmm_preload_leave_coherent(address / PAGE, count);
        cpreload_inside--;
        cpreload_request_end();
        if (error != 0) return 0;
    }
    int advice = flags & FOLL_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    for (uint64_t page = 0; page < count; page++) {
        if (fault_in(address / PAGE + page, advice) != 0) return page;
    }
    return count;
}

int cpreload_pin_ioctl(unsigned long number, void *argument) {
    uint32_t request = _IOC_NR(number);
    if (request < GET_FAST || request > DUMP) return EINVAL;
    if ((uint32_t)number != _IOWR('g', request, struct pin_command)) return EINVAL;
    struct pin_command command;
    int error = cpreload_copy_in(&command, (uint64_t)argument, sizeof command);
    if (error != 0) return error;
    uint32_t flags = command.pin_flags;
    if (request == PIN_LONGTERM) flags |= FOLL_LONGTERM;
    uint64_t began = microseconds();
    // The kernel goes on as long as a call gives all pages that it was asked for.
    uint64_t address = command.address, end = command.address + command.size, count = command.pages_per_call;
    while (address < end && count == command.pages_per_call) {
        if (count == 0) break;
        uint64_t next = address + count * PAGE;
        if (next > end) {
            next = end;
            count = (end - address) / PAGE;
        }
        uint64_t pinned = pin(address & ~(uint64_t)(PAGE - 1), count, flags);
        if (pinned == 0) break;
        count = pinned;
        address = next;
    }
    command.get_microseconds = microseconds() - began;
    command.put_microseconds = 0;
    command.size = address - command.address;
    return cpreload_copy_out((uint64_t)argument, &command, sizeof command);
}
