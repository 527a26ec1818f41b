/* libfaultline: waiting for words in memory that fl_map mapped, and waking those who wait, as
 * futex(2) does; over private memory, fork, copy-on-write and mremap too. Included by faultline.h,
 * whose conventions hold.
 *
 * Who wakes whom is a matter of the word's key:
 *
 *     shared mapping    (object, offset): any mapping, process or address of the word
 *     private mapping   (process, address): a fork child's word is another word
 *     private, with     what the page is: the object's word while this process has not written to
 *     FL_MAP_WAIT_      the page; after a fork the same word in parent and child, until one of
 *     BY_PAGE           them writes to the page
 *
 * docs/waiting.md tells the rest: what a copy-on-write break, mremap(2), munmap(2), madvise(2), a
 * death and a raw futex(2) do to those who wait.
 *
 * A wake is never lost: who stores first and wakes then, wakes everybody who had found the old
 * value. As with futex(2) a wait may end without a wake (after another waiter was killed, for one),
 * so look at the value again.
 */
#ifndef FAULTLINE_WAIT_H
#define FAULTLINE_WAIT_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifndef FAULTLINE_FAULTLINE_H
#error "include faultline/faultline.h"
#endif

struct timespec; /* which <time.h> of a strict C99 does not declare */

#ifdef __cplusplus
extern "C" {
#endif

/* The word's size, for `flags`: that of what `expected` is compared with. The key is the address
 * alone. */
#define FL_WAIT_U32 0u
#define FL_WAIT_U8 1u  /* as FL_WAIT_U32, 8 bits */
#define FL_WAIT_U16 2u /* as FL_WAIT_U32, 16 bits */
#define FL_WAIT_U64 3u /* as FL_WAIT_U32, 64 bits */
/* What `timeout` is; without a flag the time that may pass, on CLOCK_MONOTONIC. */
#define FL_WAIT_ABSOLUTE (1u << 2) /* a point in time of CLOCK_MONOTONIC */
#define FL_WAIT_REALTIME (1u << 3) /* a point in time of CLOCK_REALTIME */

#define FL_WAIT_ANY 0xffffffffu /* a bitset that meets every other */
#define FL_WAITV_MAX 128        /* the most words that fl_waitv takes */

/* Waits until the word is woken, unless it does not hold `expected`: that look and the beginning of
 * the wait are one step. address: a multiple of the word's size, in any mapping made by fl_map.
 * timeout: NULL for none.
 * Blocks. Neither a copy of a page is made for it nor a page kept in memory.
 *
 * Returns 0 woken; -EAGAIN the word has another value; -ETIMEDOUT; -EINTR a signal's handler ran (a
 * wait without timeout goes on after a handler with SA_RESTART, one with a timeout may); -EINVAL
 * unaligned, an unknown flag, both time flags, tv_sec below 0 or tv_nsec not below 1e9; -EFAULT
 * address is in no mapping, or was unmapped meanwhile; -ECANCELED the word's page, which this
 * process had written to, was discarded meanwhile; -EPIPE the daemon, whom this wait needs, is
 * gone; -EUSERS a limit of the daemon's; -ENOMEM. */
FL_API int fl_wait(const void* address, uint64_t expected, const struct timespec* timeout,
                   uint32_t flags);

/* Wakes at most `count` who wait for the word, the first first (of each process, where a private
 * page's word is waited for by several). Returns how many, 0 for a count of 0. Does not block but
 * for a round trip to the daemon: at the first wake of a word in private memory, and where the page
 * is in no memory. Errors: -EINVAL a negative count; -EFAULT address is in no mapping; -EPIPE;
 * -EUSERS; -ENOMEM. */
FL_API int fl_wake(const void* address, int count);

/* As fl_wait; woken by those wakes only whose bitset has a bit in common with this one. Errors:
 * also -EINVAL no bit. */
FL_API int fl_wait_bitset(const void* address, uint64_t expected, const struct timespec* timeout,
                          uint32_t flags, uint32_t bitset);
/* As fl_wake, among those only whose bitsets have a bit in common. Errors: also -EINVAL no bit. */
FL_API int fl_wake_bitset(const void* address, int count, uint32_t bitset);

/* Wakes at most `wake` and lets at most `requeue` more wait for the word at `target` instead, 32
 * bits both. Returns how many were woken or moved. Errors: as fl_wake; -EINVAL a negative count,
 * unaligned. */
FL_API int fl_requeue(const void* address, int wake, int requeue, const void* target);
/* As fl_requeue, but only where the word at `address` holds `expected`. Errors: also -EAGAIN
 * another value. */
FL_API int fl_cmp_requeue(const void* address, uint32_t expected, int wake, int requeue,
                          const void* target);

/* Changes the 32-bit word at `target` as `operation` says (FUTEX_OP of linux/futex.h), wakes at
 * most `wake` at `address`, and at most `target_wake` at `target` where the old value compared as
 * the operation says. Returns how many were woken. Errors: as fl_wake; -ENOSYS an operation that
 * the kernel does not know. */
FL_API int fl_wake_op(const void* address, int wake, void* target, int target_wake,
                      uint32_t operation);

/* One of the words of fl_waitv. */
typedef struct fl_waiter {
  const void* address; /* a multiple of the word's size */
  uint64_t expected;   /* what the word must hold for the wait to begin */
  uint32_t flags;      /* a size */
  uint32_t reserved;   /* 0 */
} fl_waiter;

/* Waits for any of 1 to FL_WAITV_MAX words, in mappings of any kind. Returns the index of one that
 * was woken. flags: of the timeout alone. Errors: as fl_wait; -EINVAL no words, or too many, a size
 * among flags. */
FL_API int fl_waitv(const fl_waiter* waiters, unsigned count, const struct timespec* timeout,
                    uint32_t flags);

/* --- waits that no thread sleeps for */

/* Where an outcome goes: to a target of the caller's, or to the client's own queue. */
#define FL_TARGET_QUEUE 0u   /* fl_completions takes it out */
#define FL_TARGET_EVENTFD 1u /* made readable; it does not tell which outcome */
/* An io_uring of this process: a CQE with user_data, the outcome in res. */
#define FL_TARGET_RING 2u

/* Names a descriptor for outcomes to go to; *target is its number, until fl_target_remove. The
 * descriptor stays the caller's; the daemon keeps one of its own. For a ring the daemon looks into
 * this process (pidfd_getfd(2)). What finds no room in a ring's queue is put in later.
 * Errors: EINVAL another kind; EBADF not such a descriptor; EPERM the daemon may not look into this
 * process, because it runs as another user and not as root, or Yama forbids it; EUSERS too many;
 * EPIPE the daemon is gone. */
FL_API int fl_target_add(fl_client* client, uint32_t kind, int fd, uint32_t* target);
/* What waits for it already is still delivered. Errors: ENOENT; EPIPE. */
FL_API int fl_target_remove(fl_client* client, uint32_t target);

/* What fl_wait_async waits for, and where it tells of the outcome. */
typedef struct fl_async_wait {
  size_t struct_size;             /* sizeof(fl_async_wait) */
  const void* address;            /* as fl_wait_bitset */
  uint64_t expected;              /* as fl_wait_bitset */
  const struct timespec* timeout; /* as fl_wait_bitset; read by fl_wait_async, and not kept */
  uint32_t flags;                 /* as fl_wait_bitset */
  uint32_t bitset;                /* as fl_wait_bitset */
  uint32_t target;                /* FL_TARGET_QUEUE, or a number from fl_target_add */
  uint32_t reserved;              /* 0 */
  uint64_t user_data;             /* comes with the outcome */
} fl_async_wait;

/* Begins to wait, and returns. The outcome, what fl_wait would return, is delivered once: 0 woken,
 * -ECANCELED by fl_wait_cancel or a discard, and so on; -EAGAIN too, where the word's page is in no
 * memory. *id, which may be NULL, is for fl_wait_cancel. A FL_WAIT_REALTIME time-out is reckoned
 * from the clocks as they are now. A fork child does not inherit the wait; exec(2) and the end of
 * the process end it, and an eventfd or a ring that lives on is told -EOWNERDEAD or -ECANCELED.
 * Errors: as fl_wait, of which -EAGAIN; -EBADF there is no such target; -EUSERS this process has
 * too many waits, or outcomes that it has not taken; -EBUSY too many requests at once; -EPIPE. */
FL_API int fl_wait_async(const fl_async_wait* wait, uint64_t* id);

/* Ends a wait. Its outcome is -ECANCELED, unless it was woken before that: a wake that was counted
 * is never lost. Errors: -ENOENT it is over, and its outcome delivered or on its way; -EPIPE. */
FL_API int fl_wait_cancel(fl_client* client, uint64_t id);

/* The outcome of a wait that no thread slept for. */
typedef struct fl_completion {
  uint64_t user_data; /* of its fl_async_wait */
  int32_t result;     /* what fl_wait would return */
  uint32_t reserved;  /* 0 */
} fl_completion;

/* Takes at most `most` outcomes out of the client's own queue, the first first; waits for one where
 * there is none, for as long as the time-out says (relative, of CLOCK_MONOTONIC; NULL: for ever).
 * Returns how many. Errors: -ETIMEDOUT; -EINTR; -EINVAL nowhere to put one; -EPIPE. */
FL_API int fl_completions(fl_client* client, fl_completion* completions, unsigned most,
                          const struct timespec* timeout);

/* Locks with priority inheritance, as FUTEX_LOCK_PI: by the kernel, on 32-bit words of shared
 * mappings. timeout: of CLOCK_REALTIME, absolute; NULL for none. Blocks. Errors: as futex(2);
 * -ENOSYS the word is in private memory. */
FL_API int fl_lock_pi(void* address, const struct timespec* timeout);
/* As FUTEX_TRYLOCK_PI; does not block. Errors: as fl_lock_pi. */
FL_API int fl_trylock_pi(void* address);
/* As FUTEX_UNLOCK_PI; does not block. Errors: as fl_lock_pi. */
FL_API int fl_unlock_pi(void* address);

/* --- locks that outlive their owner */

#define FL_ROBUST_MAX 64 /* the most words that a thread can have listed */

/* Where a thread writes down which words it works on, for faultline/sync.hpp and whoever builds
 * locks of their own. A lock is a 32-bit word in a shared, writable mapping: the owner's thread id,
 * as gettid(2), in the low 30 bits, 0 for none; FL_ROBUST_WAITERS where somebody may wait for it.
 *   1. A word is listed before it is locked, and until it is unlocked and whoever had to be woken
 *      for that is: its address is in held[0 .. count), or in pending, which is 0 otherwise.
 *   2. So is a word that is no lock, while the thread waits for it or has changed it and not woken
 *      yet. It must never name a thread, see FL_ROBUST_NO_THREAD.
 * When the process dies, in whatever way, each listed word that still names the thread is set to
 * FL_ROBUST_OWNER_DIED, with FL_ROBUST_WAITERS where anybody may wait; and at each listed word,
 * whatever it holds, one who waits is woken. When a thread ends, the same is done at once. */
typedef struct fl_robust_list {
  uint64_t pending;             /* an address, or 0 */
  uint64_t count;               /* of the first of held, those that are listed */
  uint64_t held[FL_ROBUST_MAX]; /* addresses */
} fl_robust_list;

#define FL_ROBUST_WAITERS 0x80000000u    /* somebody may wait for the lock */
#define FL_ROBUST_OWNER_DIED 0x40000000u /* the last owner died with it */
#define FL_ROBUST_TID_MASK 0x3fffffffu   /* the owner's thread id, 0 for none */
/* With this bit among them, the low 30 bits are no thread's id: the kernel's end at 2^22. */
#define FL_ROBUST_NO_THREAD 0x20000000u

/* The calling thread's list and thread id. All is 0 again in a fork child. */
typedef struct fl_robust_thread {
  fl_robust_list* list;  /* NULL before the first fl_robust_begin */
  uint32_t tid;          /* as gettid(2) */
  uint32_t inconsistent; /* of the locks it owns, how many a dead owner left; sync.hpp's */
} fl_robust_thread;
/* The calling thread's own. */
extern FL_API __thread fl_robust_thread fl_robust_self
    __attribute__((tls_model("initial-exec"))); /* read without a call, from libraries too */

/* Makes the calling thread's list, where it has none; afterwards fl_robust_self.list is not NULL.
 * Errors: -ENOMEM; -EUSERS this process has too many threads that wait or lock. */
FL_API int fl_robust_begin(void);

#ifdef __cplusplus
}
#endif

#endif /* FAULTLINE_WAIT_H */
