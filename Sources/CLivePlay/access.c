// Accesses that may fault: the signal handler goes back to where the access began.
#define _GNU_SOURCE
#include "CLivePlay.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#define WORDS 512

// Where the thread's access began; NULL while it makes none. Touched by the thread alone.
static _Thread_local sigjmp_buf *volatile access_begin;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    sigjmp_buf *begin = access_begin;
    if (begin) siglongjmp(*begin, signal_number);
    // Nobody expects it: the access is made again and ends the process with this signal.
    signal(signal_number, SIG_DFL);
}

int clive_play_take_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, NULL) || sigaction(SIGBUS, &action, NULL)) return -errno;
    return 0;
}

int clive_play_read(const void *page, uint64_t *words) {
    sigjmp_buf begin;
    int signal_number = sigsetjmp(begin, 1);
    if (signal_number == 0) {
        access_begin = &begin;
        const volatile uint64_t *source = page;
        for (int word = 0; word < WORDS; word++) words[word] = source[word];
    }
    access_begin = NULL;
    return signal_number;
}

int clive_play_write(void *page, uint64_t first) {
    sigjmp_buf begin;
    int signal_number = sigsetjmp(begin, 1);
    if (signal_number == 0) {
        access_begin = &begin;
        volatile uint64_t *target = page;
        for (int word = 0; word < WORDS; word++) target[word] = first | (uint64_t)word;
    }
    access_begin = NULL;
    return signal_number;
}
