/* Pins: pages that stay in memory, and stay the pages that they are, for as long as they are
 * pinned, so that somebody else (a device, the kernel, another process) can be given them to read
 * or to write. The counterpart of the kernel's get_user_pages_fast(): where the pages are in memory
 * a pin takes no lock, no system call and no message, and nanoseconds.
 *
 * A pinned page is not evicted. In a private mapping, a page that was pinned for writing is this
 * process's own, and stays so: a fork gives the child a copy of it. A page pinned for reading alone
 * in a private mapping is the page that was there; if this process then writes to it, the process
 * gets its own copy, and the pin stays with the page that it was made for.
 *
 * What a process does to its own pinned memory it may do. Unmapping it, or moving a part of it,
 * ends the pin, and so does FL_DISCARD_COPIES of private pages: it holds nothing any more, and
 * fl_unpin says so, from a moment later on. fl_remap of all of it moves the pin with it.
 * FL_DISCARD_CONTENT, by whoever may write the object, takes pinned pages' content away as it does
 * any page's.
 *
 * Pins are this process's. They end with it; a fork child has none of them.
 *
 * Thread-safe: a pin may be made by one thread and ended by another. Not to be used in signal
 * handlers.
 */
#ifndef FAULTLINE_PIN_H
#define FAULTLINE_PIN_H

#include "faultline/faultline.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FL_PIN_WRITE (1u << 0)  /* for writing, by the process or through it; else for reading */
#define FL_PIN_NOWAIT (1u << 1) /* only what is there already: EAGAIN otherwise */

/* A pin; the caller's memory. Zeroed, it is none. It may be copied, but ended once. */
typedef struct fl_pinned {
  void* address;   /* of the first page */
  size_t length;   /* bytes, whole pages */
  uint64_t ledger; /* the library's own, as what follows */
  uint32_t first;  /* the library's own */
  uint32_t parts;  /* the library's own */
  uint32_t use;    /* the library's own */
  uint32_t flags;  /* the library's own */
} fl_pinned;

/* Pins every page that [address, address + length) touches, as mlock(2) takes a range: neither need
 * be aligned. The range may lie in several mappings that fl_map made, of one daemon. Blocks only
 * where pages must be brought or copied first; a range of many pages that are not there is better
 * pinned by fl_pin_start.
 * Where it fails nothing is pinned. Errors: EINVAL no bytes, an unknown flag, pinned is null;
 * EFAULT not all of the range is mapped by fl_map; EACCES for writing, where a part is read-only;
 * EAGAIN with FL_PIN_NOWAIT, a page is not there; ENOMEM the limit of what may be pinned is reached
 * (see docs/pins.md: RLIMIT_MEMLOCK, if the daemon was not told another), or there is no memory;
 * EIO a file cannot supply a page; EBUSY pages were taken away as fast as they came; EXDEV mappings
 * of two daemons; EUSERS too many pins, or threads; EPIPE the daemon is gone. */
FL_API int fl_pin(const void* address, size_t length, uint32_t flags, fl_pinned* pinned);

/* Ends a pin, which is none from then on. Never blocks. Errors, with which it is over all the same:
 * ENOENT what was pinned was unmapped meanwhile, or moved in parts; EIDRM its pages were discarded;
 * EPIPE the connection to its daemon had ended; ESTALE it is the parent's of this fork child.
 * EINVAL it is none, or was ended before. */
FL_API int fl_unpin(fl_pinned* pinned);

/* Whether a pin still holds: 0, or what fl_unpin would return. */
FL_API int fl_pin_state(const fl_pinned* pinned);

/* Where a run of pinned pages lies. With fl_object_open and fl_map, another process that may open
 * the object reaches the same memory: by its name (fl_object_info.name), which the id does not tell
 * and an anonymous object has not. */
typedef struct fl_pin_run {
  void* address;      /* of its first page, in this process */
  size_t length;      /* bytes */
  uint64_t object_id; /* fl_object_info.id */
  uint64_t offset;    /* in the object, bytes */
  uint64_t frame;     /* 0: the pages are the object's. Else this process's own, of frame, frame + 1
                       * and so on: numbers that no other pages have; or FL_PIN_FRAME_UNKNOWN */
} fl_pin_run;

/* Pages of a private mapping of which nothing is known: pinned for writing, they are this process's
 * own. Of mappings beyond the first 256 that it pins in, or that it has put together of several. */
#define FL_PIN_FRAME_UNKNOWN UINT64_MAX

/* Writes down at most `most` runs, in the order of their addresses, and returns how many there are,
 * or a negative errno: those of fl_pin_state. */
FL_API int fl_pin_runs(const fl_pinned* pinned, fl_pin_run* runs, size_t most);

/* Begins to pin a range, and returns. The job is as that of fl_populate_start: fl_job_progress says
 * how many pages are there, fl_job_wait waits for all of them, fl_job_free gives it up, and with it
 * the pin. Errors: those of fl_pin and of fl_populate_start. */
FL_API int fl_pin_start(const void* address, size_t length, uint32_t flags, fl_job** job);

/* Takes the pin from a job of fl_pin_start, and frees the job; blocks until it has ended. Where it
 * fails nothing is pinned, and the job is freed too; but EINVAL, a job that pins nothing, leaves it
 * as it is. Errors: those of fl_pin. */
FL_API int fl_pin_take(fl_job* job, fl_pinned* pinned);

/* How pins were had, by this process since it connected. */
typedef struct fl_pin_stats {
  uint64_t fast; /* without the daemon */
  uint64_t slow; /* the daemon was asked to bring pages */
  /* Why the daemon was asked. */
  uint64_t absent;  /* a page was not in memory, or just going */
  uint64_t not_own; /* of a private mapping: not known to be this process's own already */
  /* Why a pin that went without it took longer than others. */
  uint64_t not_known; /* the mappings had changed, or it was the thread's first */
  uint64_t budget;    /* beyond what the thread had been granted */
} fl_pin_stats;

/* Does not block. Errors: EINVAL a null argument. */
FL_API int fl_pin_statistics(fl_client* client, fl_pin_stats* stats);

#ifdef __cplusplus
}
#endif

#endif
