#ifndef SWIFT_HMM_CLINUX_SYNC_H
#define SWIFT_HMM_CLINUX_SYNC_H
// What Sources/HMM/Sync needs and Swift cannot say: thread-local storage without lazy initialisation, futexes, POSIX
// threads, the clock, and the context switch of the schedulers. Mechanics only; every decision is made in Swift.
#include <stddef.h>
#include <stdint.h>

#define HMM_LOCK_CLASSES 24
#define HMM_INITIAL_EXEC __attribute__((tls_model("initial-exec")))

/// A thread that sleeps on a key. A thread sleeps in one place at a time, so the node lives in its record.
struct hmm_waiter {
    struct hmm_waiter *_Nullable next;
    /// The address slept on.
    uintptr_t key;
    /// Place in the queue; a waiter that goes back to sleep keeps it.
    uint64_t ticket;
    /// What the waiter wants, in the words of the lock that put it here.
    uint32_t tag;
    /// 0 asleep, 1 woken. The futex word.
    uint32_t woken;
    /// The number of the virtual thread in its scheduler.
    intptr_t thread;
};

/// A suspended flow of control: its stack pointer, and the stack it owns if it has one of its own.
struct hmm_context {
    void *_Nullable sp;
    void *_Nullable stack;
    size_t stack_bytes;
    /// A sanitizer's view of the flow; unused otherwise.
    void *_Nullable fiber;
};

/// What a thread, real or virtual, carries with it: the locks it holds, its place in a queue, its random state.
struct hmm_thread {
    /// The scheduler that runs this thread; null for a thread of the system.
    void *_Nullable scheduler;
    /// Where the thread goes on when it is switched to.
    struct hmm_context context;
    /// What a thread of a scheduler runs, called with `argument`; answers who goes on after it, or null for the thread
    /// of the system.
    struct hmm_thread *_Nullable (*_Nullable entry)(void *_Nullable argument);
    void *_Nullable argument;
    struct hmm_waiter waiter;
    uint64_t random;
    /// The number of a thread of the system, counted from 1 in the order in which they asked; 0 before that.
    uint32_t number;
    /// Bit c is set while held_count[c] is not 0.
    uint32_t held_mask;
    uint32_t held_total;
    uint32_t held_count[HMM_LOCK_CLASSES];
    /// Exclusive-or of the addresses of the held locks of a class: the address itself while one is held.
    uintptr_t held_objects[HMM_LOCK_CLASSES];
};

/// One chain of the parking lot, alone on its cache line.
struct hmm_bucket {
    uint32_t lock;
    /// Waiters in the chain or about to be; read without the lock by wakers.
    uint32_t count;
    uint64_t next_ticket;
    struct hmm_waiter *_Nullable head;
    /// Up to the size of a cache line.
    uint64_t padding[5];
};

#define HMM_BUCKETS 256
extern struct hmm_bucket hmm_buckets[HMM_BUCKETS];

/// The number of schedulers that are running, on any thread.
extern uint32_t hmm_scheduler_count;
extern _Thread_local struct hmm_thread hmm_thread_own HMM_INITIAL_EXEC;
extern _Thread_local struct hmm_thread *_Nullable hmm_thread_virtual HMM_INITIAL_EXEC;

static inline uint32_t hmm_schedulers_running(void) { return __atomic_load_n(&hmm_scheduler_count, __ATOMIC_RELAXED); }
static inline void hmm_scheduler_count_add(int32_t n) {
    __atomic_fetch_add(&hmm_scheduler_count, (uint32_t)n, __ATOMIC_SEQ_CST);
}

/// The record of the running thread: the virtual one's if a scheduler runs it.
static inline struct hmm_thread *_Nonnull hmm_thread_current(void) {
    struct hmm_thread *t = hmm_thread_virtual;
    return __builtin_expect(t != NULL, 0) ? t : &hmm_thread_own;
}
/// The record of the running virtual thread, or null on a plain thread of the system.
static inline struct hmm_thread *_Nullable hmm_thread_current_virtual(void) { return hmm_thread_virtual; }
/// The record of the thread of the system, whoever runs on it.
static inline struct hmm_thread *_Nonnull hmm_thread_home(void) { return &hmm_thread_own; }

uint32_t hmm_thread_make_number(void);
/// A small number that threads that run at the same time seldom share: threads of the system are numbered as they
/// come, virtual threads, of which only one runs, all have 0.
static inline uint32_t hmm_thread_number(void) {
    if (__builtin_expect(hmm_thread_virtual != NULL, 0)) return 0;
    uint32_t number = hmm_thread_own.number;
    return __builtin_expect(number != 0, 1) ? number : hmm_thread_make_number();
}

static inline struct hmm_waiter *_Nonnull hmm_thread_waiter(struct hmm_thread *_Nonnull t) { return &t->waiter; }

static inline void hmm_held_add(struct hmm_thread *_Nonnull t, uint32_t c, uintptr_t object) {
    t->held_mask |= 1u << c;
    t->held_total += 1;
    t->held_count[c] += 1;
    t->held_objects[c] ^= object;
}
/// False if no lock of the class is held.
static inline _Bool hmm_held_remove(struct hmm_thread *_Nonnull t, uint32_t c, uintptr_t object) {
    if (t->held_count[c] == 0) return 0;
    t->held_total -= 1;
    t->held_objects[c] ^= object;
    if (--t->held_count[c] == 0) { t->held_mask &= ~(1u << c); t->held_objects[c] = 0; }
    return 1;
}
/// Forgets held locks and the place in a queue: the thread starts anew.
static inline void hmm_thread_reset(struct hmm_thread *_Nonnull t) {
    intptr_t number = t->waiter.thread;
    t->waiter = (struct hmm_waiter){ .thread = number };
    t->held_mask = t->held_total = 0;
    for (int c = 0; c < HMM_LOCK_CLASSES; c++) { t->held_count[c] = 0; t->held_objects[c] = 0; }
}
static inline uint32_t hmm_held_count(const struct hmm_thread *_Nonnull t, uint32_t c) { return t->held_count[c]; }
static inline uintptr_t hmm_held_objects(const struct hmm_thread *_Nonnull t, uint32_t c) { return t->held_objects[c]; }

static inline void hmm_cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static inline struct hmm_bucket *_Nonnull hmm_bucket_of(uintptr_t key) {
    return &hmm_buckets[((uint64_t)key * 0x9E3779B97F4A7C15ull) >> 56];
}
void hmm_bucket_lock_slow(struct hmm_bucket *_Nonnull b);
/// Takes every sleeper out of every chain: for the child of a fork, in which they do not exist.
void hmm_buckets_forget(void);
/// The raw lock of a bucket: held for a few instructions, never while anything waits.
static inline void hmm_bucket_lock(struct hmm_bucket *_Nonnull b) {
    if (__atomic_exchange_n(&b->lock, 1, __ATOMIC_ACQUIRE) != 0) hmm_bucket_lock_slow(b);
}
static inline void hmm_bucket_unlock(struct hmm_bucket *_Nonnull b) { __atomic_store_n(&b->lock, 0, __ATOMIC_RELEASE); }
/// Announces a waiter before it looks at its condition; pairs with the fence in hmm_bucket_is_empty.
static inline void hmm_bucket_enter(struct hmm_bucket *_Nonnull b) {
    __atomic_fetch_add(&b->count, 1, __ATOMIC_SEQ_CST);
}
static inline void hmm_bucket_leave(struct hmm_bucket *_Nonnull b) {
    __atomic_fetch_sub(&b->count, 1, __ATOMIC_RELAXED);
}
/// Whether nobody sleeps in the bucket. The caller has already made the waiters' condition false.
static inline _Bool hmm_bucket_is_empty(struct hmm_bucket *_Nonnull b) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&b->count, __ATOMIC_RELAXED) == 0;
}

// The chain of a bucket is edited here, not in Swift, where writing one field would count as an access to the whole
// structure and thus to the lock word that others try at the same time.

static inline struct hmm_waiter *_Nullable hmm_bucket_first(const struct hmm_bucket *_Nonnull b) { return b->head; }
/// The place behind everybody who has ever slept here.
static inline uint64_t hmm_bucket_next_ticket(struct hmm_bucket *_Nonnull b) { return ++b->next_ticket; }
/// Puts `w` into the chain in the order of tickets: almost always at the end.
static inline void hmm_bucket_insert(struct hmm_bucket *_Nonnull b, struct hmm_waiter *_Nonnull w, uintptr_t key,
                                     uint32_t tag, uint64_t ticket) {
    struct hmm_waiter **link = &b->head;
    while (*link && (*link)->ticket < ticket) link = &(*link)->next;
    w->key = key;
    w->tag = tag;
    w->ticket = ticket;
    __atomic_store_n(&w->woken, 0, __ATOMIC_RELAXED);
    w->next = *link;
    *link = w;
}
/// Takes `w`, which stands behind `previous` or at the head, out of the chain and puts it at the end of another one.
static inline void hmm_bucket_take(struct hmm_bucket *_Nonnull b, struct hmm_waiter *_Nullable previous,
                                   struct hmm_waiter *_Nonnull w, struct hmm_waiter *_Nullable last) {
    if (previous) previous->next = w->next; else b->head = w->next;
    w->next = NULL;
    if (last) last->next = w;
    hmm_bucket_leave(b);
}

static inline _Bool hmm_waiter_is_woken(struct hmm_waiter *_Nonnull w) {
    return __atomic_load_n(&w->woken, __ATOMIC_ACQUIRE) != 0;
}
/// Wakes a virtual thread, whose scheduler will see to it that it runs.
static inline void hmm_waiter_mark_woken(struct hmm_waiter *_Nonnull w) {
    __atomic_store_n(&w->woken, 1, __ATOMIC_RELAXED);
}
/// Sleeps until the waiter is woken.
void hmm_waiter_sleep(struct hmm_waiter *_Nonnull w);
/// Wakes the thread of the system that sleeps on `w`. The node belongs to that thread again at once.
void hmm_waiter_wake(struct hmm_waiter *_Nonnull w);

uint64_t hmm_clock_now(void);
void hmm_clock_sleep(uint64_t nanoseconds);
void hmm_thread_yield(void);

/// Starts a joinable thread; 0, or an errno.
int hmm_thread_start(uint64_t *_Nonnull handle, const char *_Nonnull name, size_t stack_bytes,
                     void *_Nullable (*_Nonnull body)(void *_Nullable), void *_Nullable argument);
void hmm_thread_join(uint64_t handle);
void hmm_thread_detach(uint64_t handle);

/// Takes a stack of at least `bytes` with a guard page below it out of the pool, or maps one; 0, or an errno.
int hmm_context_create(struct hmm_context *_Nonnull c, size_t bytes);
/// Gives the stack, if there is one, back. Whatever was suspended on it is gone, without unwinding.
void hmm_context_destroy(struct hmm_context *_Nonnull c);
/// Makes the next switch to `t`, which has a stack, call `entry(argument)` on the empty stack. When `entry` has
/// returned, the thread that it named goes on, and `t` never again.
void hmm_thread_prepare(struct hmm_thread *_Nonnull t,
                        struct hmm_thread *_Nullable (*_Nonnull entry)(void *_Nullable), void *_Nullable argument);
/// Suspends the running flow in `from` and goes on with `to`: threads of a scheduler, and the thread of the system that
/// they run on.
void hmm_thread_switch(struct hmm_thread *_Nonnull from, struct hmm_thread *_Nonnull to);
#endif
