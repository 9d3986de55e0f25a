// What a scenario on real memory needs of the system and Swift has no words for: accesses that may fault, processes.
#ifndef CLIVEPLAY_H
#define CLIVEPLAY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Takes SIGSEGV and SIGBUS. Called once a process, before anybody else takes them who passes on what is not his own.
// Returns 0 or -errno.
int clive_play_take_signals(void);

// The thread reads or writes the 512 words of a page. Returns 0, or the signal that the access got; then nothing after
// the word that faulted was accessed. A write stores `first | w` into word w.
int clive_play_read(const void *page, uint64_t *words);
int clive_play_write(void *page, uint64_t first);

// fork, which Swift does not offer. Only the calling thread goes on in the child.
pid_t clive_play_fork(void);

// Waits for the end of a child. Returns its wait status, or -errno.
int clive_play_reap(pid_t child);

// A descriptor that is readable once the process has ended, or -errno.
int clive_play_watch(pid_t process);

// An unlinked file in memory, as long as told, or -errno.
int clive_play_file(size_t bytes);

#endif
