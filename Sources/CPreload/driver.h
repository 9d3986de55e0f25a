// What Sources/HMMPreload provides. Every function is called with `cpreload_inside` raised; errors are errno numbers.
#ifndef SWIFT_HMM_CPRELOAD_DRIVER_H
#define SWIFT_HMM_CPRELOAD_DRIVER_H

#include <stddef.h>
#include <stdint.h>

// Opens a mirror of this process on device 0…3; starts the address space and the devices when it is the first.
int hmm_preload_open(uint32_t device, void **mirror);
// The last reference to the mirror is gone: no request is under way, and none will come.
void hmm_preload_close(void *mirror);
// In a child after fork: the mirror is that of the parent.
void hmm_preload_disown(void *mirror);
// One request. `bounce` has the pages' bytes (a byte a page for a snapshot), in or out.
int hmm_preload_request(void *mirror, uint32_t request, uint64_t page, uint64_t count, void *bounce,
                        uint64_t *pages, uint64_t *faults);
// Moves pages in coherent memory of any device to ordinary memory, as a long-term pin does.
int hmm_preload_leave_coherent(uint64_t page, uint64_t count);

// Changes of the memory of this process: each does the system call, and everything that belongs to it.
int hmm_preload_unmap(uint64_t page, uint64_t count);
int hmm_preload_protect(uint64_t page, uint64_t count, int protection);
int hmm_preload_advise(uint64_t page, uint64_t count, int advice);
int hmm_preload_remap(uint64_t page, uint64_t count, uint64_t new_count, int flags, uint64_t to, uint64_t *moved);
// Whatever is mapped there is replaced by what `call` maps; it answers whether it did.
void hmm_preload_map_over(uint64_t page, uint64_t count, int (*call)(void *), void *context);
// What devices have of the memory comes home, and may be written if so wanted.
void hmm_preload_bring(uint64_t page, uint64_t count, int write);
// New memory was mapped where none was: whatever is remembered of the addresses is forgotten.
void hmm_preload_mapped(uint64_t page, uint64_t count);

// The driver's lowest descriptor from the number on, or -1. Called from anywhere: it only looks.
int hmm_preload_file_from(int number);

#endif
