// Nodes of memory: where a page lies, and moving it to another node. Its address stays, so nobody has to be told.
#include "internal.h"
#include <string.h>

enum {
    /// Pages of a call.
    MOST_PAGES = 512,
    MOVE_OWN = 2, MOVE_ALL = 4,
};

struct placing {
    uint64_t addresses[MOST_PAGES];
    int targets[MOST_PAGES], status[MOST_PAGES];
    uint8_t result[MOST_PAGES];
};

/// Puts the node of each page, or a negative errno, into `status`.
static long look(struct placing *p, size_t first, size_t n) {
    return kernel_call(SYS_move_pages, 0, (long)n, (long)&p->addresses[first], 0, (long)&p->status[first], 0);
}

static long move(struct placing *p, size_t first, size_t n) {
    // What a page is shared with since a fork goes along, where that is permitted: it is one page of the device.
    for (int flags = MOVE_ALL;; flags = MOVE_OWN) {
        for (size_t i = first; i < first + n; i++) p->status[i] = -EBUSY;
        long result = kernel_call(SYS_move_pages, 0, (long)n, (long)&p->addresses[first], (long)&p->targets[first],
                                  (long)&p->status[first], flags);
        if (result != -EPERM || flags == MOVE_OWN) return result;
    }
}

/// Reads from `status` what became of each page. False: some are elsewhere.
static bool judge(struct placing *p, size_t first, size_t n) {
    bool is_done = true;
    for (size_t i = first; i < first + n; i++) {
        int status = p->status[i];
        if (status < 0) p->result[i] = (uint8_t)-status;
        else if (status == p->targets[i]) p->result[i] = 0;
        else is_done = false;
    }
    return is_done;
}

/// The kernel ends at the first page that it fails with, and answers only how many are left: the halves are tried
/// again. 0, or a negative errno, with which no further page can be moved.
static long place(struct placing *p, size_t first, size_t n) {
    long left = move(p, first, n);
    for (size_t i = first; i < first + n; i++) p->result[i] = p->status[i] == -EACCES ? EACCES : EBUSY;
    // A huge page that moved whole is noted as busy for all but its first page.
    long looked = look(p, first, n);
    if (looked < 0) return looked;
    if (judge(p, first, n) || left == 0) return 0;
    if (left < 0 || n == 1) return left < 0 ? left : 0;
    long error = place(p, first, n / 2);
    return error ? error : place(p, first + n / 2, n - n / 2);
}

int clive_move_to_node(const uint64_t *pages, size_t count, int node, uint8_t *result) {
    struct placing p;
    int placed = 0;
    long error = 0;
    for (size_t done = 0; done < count; done += MOST_PAGES) {
        size_t n = count - done < MOST_PAGES ? count - done : MOST_PAGES;
        for (size_t i = 0; i < n; i++) {
            p.addresses[i] = pages[done + i] * PAGE_BYTES;
            p.targets[i] = node;
            p.result[i] = EBUSY;
        }
        if (!error) error = look(&p, 0, n);
        if (!error && !judge(&p, 0, n)) error = place(&p, 0, n);
        for (size_t i = 0; i < n; i++) {
            if (error && p.result[i] == EBUSY) p.result[i] = (uint8_t)-error;
            placed += p.result[i] == 0;
        }
        memcpy(&result[done], p.result, n);
    }
    return error && error != -ENOMEM ? (int)error : placed;
}

int clive_nodes(const uint64_t *pages, size_t count, int *nodes) {
    struct placing p;
    for (size_t done = 0; done < count; done += MOST_PAGES) {
        size_t n = count - done < MOST_PAGES ? count - done : MOST_PAGES;
        for (size_t i = 0; i < n; i++) p.addresses[i] = pages[done + i] * PAGE_BYTES;
        long error = look(&p, 0, n);
        if (error) return (int)error;
        memcpy(&nodes[done], p.status, n * sizeof *nodes);
    }
    return 0;
}

int clive_this_node(void) {
    unsigned node = 0;
    long error = kernel_call(SYS_getcpu, 0, (long)&node, 0, 0, 0, 0);
    return error ? (int)error : (int)node;
}

#pragma clang attribute pop
