// The context switch of the schedulers. Only what the calling convention makes the callee keep is saved; signal masks
// and floating-point control words are the same for all contexts of a thread, so they stay where they are.
#define _GNU_SOURCE
#include "CLinuxSync.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HMM_TSAN 1
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#endif
#endif

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
#ifdef HMM_TSAN
    if (c->fiber) __tsan_destroy_fiber(c->fiber);
#endif
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

/// The whole life of a thread of a scheduler. When `entry` has returned, nothing but this frame is on the stack, and it
/// owns nothing: so the jump that never comes back leaves nothing behind.
static void live(void *argument) {
    struct hmm_thread *self = argument;
    struct hmm_thread *next = self->entry(self->argument);
    hmm_thread_switch(self, next ? next : &hmm_thread_own);
    __builtin_trap();  // nobody goes on with a finished thread
}

void hmm_thread_prepare(struct hmm_thread *t, struct hmm_thread *(*entry)(void *), void *argument) {
    struct hmm_context *c = &t->context;
    t->entry = entry;
    t->argument = argument;
    void **sp = (void **)((char *)c->stack + c->stack_bytes) - SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) sp[i] = NULL;
    fill(sp, live, t);
    c->sp = sp;
#ifdef HMM_TSAN
    if (c->fiber) __tsan_destroy_fiber(c->fiber);
    c->fiber = __tsan_create_fiber(0);
#endif
}

__attribute__((no_sanitize("thread"))) void hmm_context_switch(struct hmm_context *from, struct hmm_context *to) {
#ifdef HMM_TSAN
    if (!from->fiber || !from->stack) from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    hmm_context_jump(&from->sp, to->sp);
}
