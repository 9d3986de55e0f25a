#define _GNU_SOURCE
#include "CLinuxSync.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

__attribute__((aligned(64))) struct hmm_bucket hmm_buckets[HMM_BUCKETS];
uint32_t hmm_scheduler_count;
_Thread_local struct hmm_thread hmm_thread_own HMM_INITIAL_EXEC;
_Thread_local struct hmm_thread *hmm_thread_virtual HMM_INITIAL_EXEC;

uint32_t hmm_thread_make_number(void) {
    static uint32_t last;
    return hmm_thread_own.number = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

void hmm_bucket_lock_slow(struct hmm_bucket *b) {
    // The holder runs a few instructions, unless its virtual CPU was taken away: then give it ours.
    for (unsigned turn = 0;; turn++) {
        if (__atomic_load_n(&b->lock, __ATOMIC_RELAXED) == 0
            && __atomic_exchange_n(&b->lock, 1, __ATOMIC_ACQUIRE) == 0) return;
        if (turn % 64 == 63) sched_yield(); else hmm_cpu_pause();
    }
}

void hmm_buckets_forget(void) { memset(hmm_buckets, 0, sizeof hmm_buckets); }

void hmm_waiter_sleep(struct hmm_waiter *w) {
    while (__atomic_load_n(&w->woken, __ATOMIC_ACQUIRE) == 0)
        syscall(SYS_futex, &w->woken, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

void hmm_waiter_wake(struct hmm_waiter *w) {
    // After the store the sleeper may be gone and its memory with it; the kernel only takes the address as a name.
    uint32_t *word = &w->woken;
    __atomic_store_n(word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

uint64_t hmm_clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void hmm_clock_sleep(uint64_t nanoseconds) {
    struct timespec t = { (time_t)(nanoseconds / 1000000000ull), (long)(nanoseconds % 1000000000ull) };
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) {}
}

void hmm_thread_yield(void) { sched_yield(); }

int hmm_thread_start(uint64_t *handle, const char *name, size_t stack_bytes, void *(*body)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    pthread_attr_setstacksize(&attributes, stack_bytes);
    error = pthread_create(&thread, &attributes, body, argument);
    pthread_attr_destroy(&attributes);
    if (error) return error;
    char shortened[16] = { 0 };  // the kernel keeps 15 characters
    for (int i = 0; i < 15 && name[i]; i++) shortened[i] = name[i];
    pthread_setname_np(thread, shortened);
    *handle = (uint64_t)thread;
    return 0;
}

void hmm_thread_join(uint64_t handle) { pthread_join((pthread_t)handle, NULL); }
void hmm_thread_detach(uint64_t handle) { pthread_detach((pthread_t)handle); }
