// The context switch of the schedulers. Only what the calling convention makes the callee keep is saved; signal masks
// and floating-point control words are the same for all contexts of a thread, so they stay where they are.
#define _GNU_SOURCE
#include "CLinuxSync.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/// What the sanitizers must be told: which flow runs, and where its stack is. Nothing in other builds. Inlined, because
/// ThreadSanitizer notes the end of a function in the flow that runs then.
#define INLINED __attribute__((always_inline)) static inline
INLINED void sanitizer_will_begin(struct hmm_context *c);
INLINED void sanitizer_did_begin(void);
INLINED void sanitizer_will_switch(struct hmm_context *from, struct hmm_context *to, _Bool is_last);
INLINED void sanitizer_did_switch(struct hmm_context *c);
INLINED void sanitizer_did_end(struct hmm_context *c);

/// Stacks that no thread uses, for the next one that needs one: a mapping and its guard page cost two calls of the
/// system, and a page that was touched stays. Only so many are kept.
enum { POOLED_STACKS = 64 };
static struct {
    /// Guards the rest; held for a few instructions.
    uint32_t lock;
    uint32_t count;
    struct { void *stack; size_t bytes; } free[POOLED_STACKS];
} pool;

static void pool_lock(void) {
    while (__atomic_exchange_n(&pool.lock, 1, __ATOMIC_ACQUIRE) != 0) hmm_cpu_pause();
}
static void pool_unlock(void) { __atomic_store_n(&pool.lock, 0, __ATOMIC_RELEASE); }

/// Pushes the registers, stores the stack pointer through the first argument, and goes on at the second.
void hmm_context_jump(void **save, void *load) __asm__("hmm_context_jump");
/// The first return address of a new context: calls the function that hmm_thread_prepare put into saved registers.
void hmm_context_start(void) __asm__("hmm_context_start");

#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".globl hmm_context_jump\n"
    ".type hmm_context_jump,@function\n"
    "hmm_context_jump:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size hmm_context_jump,.-hmm_context_jump\n"
    ".p2align 4\n"
    ".globl hmm_context_start\n"
    ".type hmm_context_start,@function\n"
    "hmm_context_start:\n"
    "  .cfi_startproc\n"
    "  .cfi_undefined rip\n"
    "  movq %r12, %rdi\n"
    "  callq *%rbx\n"
    "  ud2\n"
    "  .cfi_endproc\n"
    ".size hmm_context_start,.-hmm_context_start\n");
enum { SAVED_WORDS = 9 };  // r15 r14 r13 r12 rbx rbp, return address, two words that align the call
static void fill(void **sp, void (*entry)(void *), void *argument) {
    sp[3] = argument;
    sp[4] = (void *)entry;
    sp[6] = (void *)hmm_context_start;
}
#elif defined(__aarch64__)
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".globl hmm_context_jump\n"
    ".type hmm_context_jump,%function\n"
    "hmm_context_jump:\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
    "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
    "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n"
    "  ret\n"
    ".size hmm_context_jump,.-hmm_context_jump\n"
    ".p2align 4\n"
    ".globl hmm_context_start\n"
    ".type hmm_context_start,%function\n"
    "hmm_context_start:\n"
    "  .cfi_startproc\n"
    "  .cfi_undefined x30\n"
    "  mov x0, x20\n"
    "  blr x19\n"
    "  brk #1\n"
    "  .cfi_endproc\n"
    ".size hmm_context_start,.-hmm_context_start\n");
enum { SAVED_WORDS = 20 };
static void fill(void **sp, void (*entry)(void *), void *argument) {
    sp[0] = (void *)entry;
    sp[1] = argument;
    sp[11] = (void *)hmm_context_start;
}
#else
#error "the context switch is written for x86_64 and aarch64"
#endif

int hmm_context_create(struct hmm_context *c, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t length = ((bytes + page - 1) / page + 1) * page;
    *c = (struct hmm_context){ .stack_bytes = length };
    pool_lock();
    if (pool.count > 0 && pool.free[pool.count - 1].bytes == length) c->stack = pool.free[--pool.count].stack;
    pool_unlock();
    if (c->stack) return 0;
    void *stack = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK,
                       -1, 0);
    if (stack == MAP_FAILED) return errno;
    if (mprotect(stack, page, PROT_NONE) != 0) {
        int error = errno;
        munmap(stack, length);
        return error;
    }
    c->stack = stack;
    return 0;
}

void hmm_context_destroy(struct hmm_context *c) {
    sanitizer_did_end(c);
    struct hmm_context old = *c;
    *c = (struct hmm_context){ 0 };
    if (!old.stack) return;
    pool_lock();
    _Bool is_kept = pool.count < POOLED_STACKS;
    if (is_kept) {
        pool.free[pool.count].stack = old.stack;
        pool.free[pool.count++].bytes = old.stack_bytes;
    }
    pool_unlock();
    if (!is_kept) munmap(old.stack, old.stack_bytes);
}

INLINED void jump(struct hmm_thread *from, struct hmm_thread *to, _Bool is_last) {
    hmm_thread_virtual = to->scheduler ? to : NULL;
    sanitizer_will_switch(&from->context, &to->context, is_last);
    hmm_context_jump(&from->context.sp, to->context.sp);
    sanitizer_did_switch(&from->context);
}

void hmm_thread_switch(struct hmm_thread *from, struct hmm_thread *to) { jump(from, to, 0); }

/// The whole life of a thread of a scheduler. When `entry` has returned, nothing but this frame is on the stack, and it
/// owns nothing: so the jump that never comes back leaves nothing behind.
static void live(void *argument) {
    sanitizer_did_begin();
    struct hmm_thread *self = argument;
    struct hmm_thread *next = self->entry(self->argument);
    jump(self, next ? next : &hmm_thread_own, 1);
    __builtin_trap();  // nobody goes on with a finished thread
}

void hmm_thread_prepare(struct hmm_thread *t, struct hmm_thread *(*entry)(void *), void *argument) {
    struct hmm_context *c = &t->context;
    sanitizer_did_end(c);
    sanitizer_will_begin(c);
    t->entry = entry;
    t->argument = argument;
    void **sp = (void **)((char *)c->stack + c->stack_bytes) - SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) sp[i] = NULL;
    fill(sp, live, t);
    c->sp = sp;
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HMM_TSAN 1
#elif __has_feature(address_sanitizer)
#define HMM_ASAN 1
#endif
#endif

#if defined(HMM_TSAN)
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);

INLINED void sanitizer_will_begin(struct hmm_context *c) { c->fiber = __tsan_create_fiber(0); }
INLINED void sanitizer_did_begin(void) {}
INLINED void sanitizer_will_switch(struct hmm_context *from, struct hmm_context *to, _Bool is_last) {
    (void)is_last;
    if (!from->stack) from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 0);
}
INLINED void sanitizer_did_switch(struct hmm_context *c) { (void)c; }
INLINED void sanitizer_did_end(struct hmm_context *c) {
    if (c->fiber) __tsan_destroy_fiber(c->fiber);
    c->fiber = NULL;
}
#elif defined(HMM_ASAN)
#include <pthread.h>
void __asan_unpoison_memory_region(void const volatile *address, size_t bytes);
void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *bytes);

/// The stack of the thread of the system.
static _Thread_local void *home;
static _Thread_local size_t home_bytes;
static void find_home(void) {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &home, &home_bytes);
    pthread_attr_destroy(&attributes);
}

INLINED void sanitizer_will_begin(struct hmm_context *c) {
    // Frames of a thread that was abandoned here have left their marks.
    __asan_unpoison_memory_region(c->stack, c->stack_bytes);
    c->fiber = NULL;
}
INLINED void sanitizer_did_begin(void) { __sanitizer_finish_switch_fiber(NULL, NULL, NULL); }
INLINED void sanitizer_will_switch(struct hmm_context *from, struct hmm_context *to, _Bool is_last) {
    if (!to->stack && !home) find_home();
    __sanitizer_start_switch_fiber(is_last ? NULL : &from->fiber, to->stack ? to->stack : home,
                                   to->stack ? to->stack_bytes : home_bytes);
}
INLINED void sanitizer_did_switch(struct hmm_context *c) { __sanitizer_finish_switch_fiber(c->fiber, NULL, NULL); }
INLINED void sanitizer_did_end(struct hmm_context *c) { (void)c; }
#else
INLINED void sanitizer_will_begin(struct hmm_context *c) { (void)c; }
INLINED void sanitizer_did_begin(void) {}
INLINED void sanitizer_will_switch(struct hmm_context *from, struct hmm_context *to, _Bool is_last) {
    (void)from, (void)to, (void)is_last;
}
INLINED void sanitizer_did_switch(struct hmm_context *c) { (void)c; }
INLINED void sanitizer_did_end(struct hmm_context *c) { (void)c; }
#endif
