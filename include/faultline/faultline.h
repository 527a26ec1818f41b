/* libfaultline: memory objects of the faultlined daemon, mapped into this process.
 *
 * Every function returns 0 or a negative errno unless it says otherwise; fl_last_error() then tells
 * in words what was attempted. Every function is thread-safe and may block for a round trip to the
 * daemon. Lengths and offsets are bytes and must be multiples of the object's page size. The
 * functions follow mmap(2), shm_open(3) and userfaultfd(2) where this page is silent.
 *
 * Errors, besides those that stand at a function: EINVAL a null argument where none is allowed;
 * ENOMEM; and, of functions that ask the daemon, EPIPE it is gone, and EMFILE no descriptor is left
 * for its answer.
 *
 * Fork: a child inherits every mapping, object and client handle. Its faults are served from its
 * first instruction on; its first call into this library connects it to the daemon. From a daemon
 * without CAP_SYS_PTRACE (`faultlined --check`) it inherits less: a mapping of an object with a
 * file behind it raises SIGSEGV, and what was open fails with ESTALE. The library is not usable in
 * the child of a vfork(2), nor from a signal handler. No function is a cancellation point of
 * pthread_cancel(3).
 *
 * Ranges: fl_protect, fl_discard, fl_remap, fl_advise and fl_populate change mappings, or parts of
 * them: any whole pages that fl_map mapped, of several mappings at once where it is not said
 * otherwise. "EINVAL the range" stands for: zero, or cutting a page of the object, or not all
 * mapped by fl_map, or not inherited by this fork child (docs/limits.md). What the plain system
 * calls do instead stands in docs/api.md.
 */
#ifndef FAULTLINE_FAULTLINE_H
#define FAULTLINE_FAULTLINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Marks what the library exports. */
#if defined(__GNUC__)
#define FL_API __attribute__((visibility("default")))
#else
#define FL_API
#endif

/* A connection to a daemon. One process has one connection to one socket, however often it asks. */
typedef struct fl_client fl_client;
/* An open memory object, with the rights it was opened with. */
typedef struct fl_object fl_object;

/* The longest object name, in bytes, without the terminating zero. */
#define FL_NAME_MAX 128

/* "MAJOR.MINOR.PATCH" of the library. Never NULL; static. Does not block. */
FL_API const char* fl_version(void);

/* What the last failed call of this thread attempted, on what, and why. Never NULL; valid until
 * this thread's next call into the library. Empty when nothing has failed. Does not block. */
FL_API const char* fl_last_error(void);

/* Connects to the daemon at socket_path. NULL: $FAULTLINE_SOCKET, else the user's own daemon
 * ($XDG_RUNTIME_DIR/faultline/faultlined.sock) where one listens, else
 * /run/faultline/faultlined.sock. The same path again gives the same connection, counted. Errors:
 * ENOENT or ECONNREFUSED no daemon there (with NULL, at neither socket); EACCES the socket's mode
 * forbids it; EPROTO another protocol version; EPERM no userfaultfd to be had; EUSERS a limit of
 * the daemon's is reached. */
FL_API int fl_connect(const char* socket_path, fl_client** client);

/* Gives the handle back. The connection itself ends when its last handle, object and mapping is
 * gone; mappings stay valid and served. NULL is allowed. Does not fail. */
FL_API int fl_disconnect(fl_client* client);

/* How an object is to be made. What is unused is 0. */
typedef struct fl_object_spec {
  size_t struct_size; /* sizeof(fl_object_spec) */
  /* 1 to FL_NAME_MAX of the bytes A-Z a-z 0-9 . _ : @ + - and not a leading dot; NULL for an
   * anonymous object, which lives as long as it is open or mapped. A named one lives until it is
   * unlinked too. */
  const char* name;
  /* Bytes. Rounded up to whole pages; the rest of the last page reads zero. With a file, 0 means
   * "to the end of the file". */
  uint64_t size;
  /* Permission bits, as open(2)'s mode: who may open it by its name. 0600 keeps it to oneself; 0:
   * nobody but root can open it by name, its maker included. */
  uint32_t mode;
  /* FL_FROM_FILE, FL_COUNTED_WAITS, or 0. */
  uint32_t flags;
  /* With FL_FROM_FILE: an open, readable regular file, which stays the caller's. Pages are read
   * from it when they are first touched and never written back. A page that it can no longer supply
   * raises SIGBUS, as mmap(2) does. */
  int file_fd;
  /* Bytes; a multiple of the page size. */
  uint64_t file_offset;
  /* Bytes: 4096 or 2097152 (2 MiB, hugetlbfs); 0 for the default, 4096. Pages of 2 MiB are reserved
   * when the object is made, all of them, from those that the machine has set aside
   * (vm.nr_hugepages). A private copy takes one more, and raises SIGBUS where none is left. */
  uint32_t page_size;
} fl_object_spec;

/* The object's content is that of fl_object_spec.file_fd, from file_offset on. */
#define FL_FROM_FILE (1u << 0)
/* Raw futex(2) users of the object's words and fl_wake need not wake each other: fl_wake makes no
 * system call where nobody waits. Who waits by fl_wait or a primitive of faultline/sync.hpp is
 * woken all the same. */
#define FL_COUNTED_WAITS (1u << 1)

/* Makes an object and opens it for reading and writing. The handle is the caller's, until
 * fl_object_close. Errors: EINVAL a struct_size that is not sizeof(fl_object_spec), size 0, a size
 * beyond the end of the file, a mode beyond 0777, an unknown flag, a bad name, offset or page size;
 * EEXIST the name is taken; EFBIG larger than the daemon allows; EBADF file_fd is not open for
 * reading; ENODEV it is not a regular file; EUSERS a limit of the daemon's is reached; ENOMEM, also
 * where the machine has not so many pages of 2 MiB left. */
FL_API int fl_object_create(fl_client* client, const fl_object_spec* spec, fl_object** object);

#define FL_READ_ONLY 1u  /* fl_object_open: to be read */
#define FL_READ_WRITE 2u /* fl_object_open: to be read and written */

/* Opens a named object. A read-only opener gets a descriptor through which the kernel refuses
 * writing. The handle is the caller's, until fl_object_close. Errors: EINVAL no name that an object
 * can have, another access; ENOENT no such object; EACCES not allowed by its owner and mode. */
FL_API int fl_object_open(fl_client* client, const char* name, uint32_t access, fl_object** object);

/* What fl_object_stat tells of an object, as of now. */
typedef struct fl_object_info {
  uint64_t id;                /* no other object of this daemon's has it, or will */
  uint64_t size;              /* bytes, whole pages */
  uint64_t content_size;      /* bytes asked for at creation */
  uint64_t resident_bytes;    /* in memory now, in all processes once */
  uint32_t page_size;         /* bytes */
  uint32_t uid;               /* owner */
  uint32_t mode;              /* permission bits */
  uint32_t open_handles;      /* in all address spaces */
  uint32_t linked;            /* 1 while the name can be opened */
  uint32_t from_file;         /* 1 with a file behind it */
  char name[FL_NAME_MAX + 1]; /* empty where it is anonymous */
} fl_object_info;

/* Tells of an object. Blocks for the daemon's answer. Errors: EINVAL a null argument; EPIPE the
 * daemon is gone; ESTALE opened before a fork, with a daemon that is not told of forks. */
FL_API int fl_object_stat(fl_object* object, fl_object_info* info);

/* Takes the name away; the object lives on while it is open or mapped. Errors: EINVAL no name that
 * an object can have; ENOENT no such object; EACCES neither the owner nor root. */
FL_API int fl_object_unlink(fl_client* client, const char* name);

/* Closes the handle; mappings of the object stay. NULL is allowed. Errors: EPIPE the daemon is
 * gone; ESTALE opened before a fork, with a daemon that is not told of forks. The handle is gone
 * all the same. */
FL_API int fl_object_close(fl_object* object);

/* The object's memfd, read-only where the object was opened so; it stays the library's. Its file
 * position is shared by all who opened the object: use pread(2) and pwrite(2). A page that nobody
 * touched yet reads zero through it, and what is written to such a page of an object with a file
 * behind it is replaced by the file's content at the first touch. Does not block, and fails for
 * NULL alone. */
FL_API int fl_object_fd(const fl_object* object);

#define FL_MAP_SHARED (1u << 0)  /* stores are seen by all, through any mapping */
#define FL_MAP_PRIVATE (1u << 1) /* a page is the object's until this process writes to it */
#define FL_MAP_WRITE (1u << 2)   /* writable; without it stores raise SIGSEGV */
#define FL_MAP_FIXED (1u << 3)   /* at *address, in place of whatever is mapped there */
#define FL_MAP_FIXED_NOREPLACE (1u << 4) /* at *address, where nothing may be mapped */
#define FL_MAP_WAIT_BY_PAGE (1u << 5) /* private: who waits for a word follows its page, wait.h */

/* Maps [offset, offset + length) of the object: at an address of the kernel's choice, or, with
 * FL_MAP_FIXED or FL_MAP_FIXED_NOREPLACE, at *address, a multiple of the page size. FL_MAP_FIXED
 * takes the place of what is there in one step: other threads see the old memory or the new, and
 * never none; what it replaces of other mappings is gone as after fl_unmap, and their rest stays.
 *
 * Pages are supplied by the daemon when they are touched, in user code and inside system calls
 * alike; from a daemon without /dev/userfaultfd (docs/limits.md, user mode only), system calls fail
 * with EFAULT on pages that were not touched yet.
 *
 * Where it fails nothing is mapped, and nothing replaced; *address is NULL, or as it was where it
 * was given. (The one exception: mremap(2) takes away what it replaces before it can find that
 * the kernel has no memory left for its own tables. ENOMEM then leaves the range unmapped.)
 *
 * Errors: EINVAL unaligned, zero or past the object's end, not exactly one of shared and private,
 * both fixed flags, or an address that is NULL, unaligned or no process's; EACCES shared and
 * writable on a read-only object; EEXIST with FL_MAP_FIXED_NOREPLACE, part of the range is mapped;
 * EPERM an address below vm.mmap_min_addr; ENOMEM, also FL_MAP_FIXED_NOREPLACE beyond a process's
 * addresses; ESTALE the object was opened before a fork, with a daemon that is not told of forks;
 * EPIPE the daemon is gone. */
FL_API int fl_map(fl_object* object, uint64_t offset, size_t length, uint32_t flags,
                  void** address);

/* Unmaps whole pages of mappings made by fl_map; private pages in them are lost. Where it fails,
 * nothing is unmapped. Errors: EINVAL unaligned or zero, or a range that is not all mapped by
 * fl_map; ENOMEM the process has no mappings left for the rest on either side. */
FL_API int fl_unmap(fl_client* client, void* address, size_t length);

/* --- changing what is mapped; see "Ranges" above */

#define FL_PROTECT_WRITE (1u << 0) /* fl_protect: storing too */

/* Changes what may be done with a range: reading (flags 0), or reading and writing
 * (FL_PROTECT_WRITE). Pages stay what they are, private ones included. Errors: EINVAL the range,
 * an unknown flag; EACCES writing, where part of the range is mapped shared through an object that
 * was opened read-only; ENOMEM the process, or the daemon for it, has no mappings left for the
 * parts; EPIPE the daemon is gone. With ENOMEM the access of a part of the range may have changed;
 * with EPIPE all of it has. */
FL_API int fl_protect(fl_client* client, void* address, size_t length, uint32_t flags);

#define FL_DISCARD_COPIES 1u  /* this process's private pages */
#define FL_DISCARD_CONTENT 2u /* the object's own pages */

/* FL_DISCARD_COPIES: what this process wrote to private mappings in the range is lost, and the
 * object's pages show there again. Shared mappings stay as they are.
 * FL_DISCARD_CONTENT: the object's own pages behind the range, which must be mapped shared and
 * writable, are given back, for all who map them. They read zero from then on, or with a file
 * behind the object the file's content anew. A private page that somebody wrote stays, unless it is
 * of 2 MiB: those the kernel drops too, in all processes.
 * Blocks until the daemon took note. Errors: EINVAL the range, another `what`, FL_DISCARD_CONTENT
 * of a private mapping; EACCES FL_DISCARD_CONTENT of a shared mapping that is read-only now, or was
 * made through an object that was opened read-only; EBUSY pages are locked in memory, mlock(2). */
FL_API int fl_discard(fl_client* client, void* address, size_t length, uint32_t what);

#define FL_REMAP_MAYMOVE (1u << 0)   /* to another address where it cannot stay */
#define FL_REMAP_FIXED (1u << 1)     /* to *new_address; needs FL_REMAP_MAYMOVE */
#define FL_REMAP_DONTUNMAP (1u << 2) /* the old range stays mapped; needs FL_REMAP_MAYMOVE */

/* Changes a mapping's length or its address, or both, as mremap(2). Pages, private ones included,
 * go with it. Grown, it shows what follows in the object. *new_address is set to where it is, also
 * where it stayed. FL_REMAP_FIXED: it is moved to *new_address, a multiple of the page size, in
 * place of whatever is mapped there. FL_REMAP_DONTUNMAP: the old range stays mapped, to the same
 * part of the object, but its private pages are in the new range only; lengths must be equal.
 *
 * The old range must lie in one mapping and allow one kind of access. A part of a mapping is cut
 * off first. A mapping of pages of 2 MiB neither grows nor leaves its old range mapped: EINVAL.
 *
 * Errors, with nothing changed: EINVAL the range, a new length that is zero, unaligned or past the
 * object's end, flags that are unknown or do not go together, a *new_address that is unaligned,
 * overlaps the old range or can be no process's; ENOMEM it cannot grow where it is and may not
 * move, or the process has no mappings left; EFAULT the kernel keeps the range as several mappings,
 * which plain system calls, or a fork between two fl_protect, can do, and of pages of 2 MiB every
 * fl_protect of a part; EPERM *new_address is below
 * vm.mmap_min_addr. Errors with *new_address set, and the mapping there: EPIPE the daemon is
 * gone; ENOENT the range was unmapped meanwhile. */
FL_API int fl_remap(fl_client* client, void* old_address, size_t old_length, size_t new_length,
                    uint32_t flags, void** new_address);

#define FL_ADVICE_NORMAL 0u     /* windows of pages as the faults suggest */
#define FL_ADVICE_SEQUENTIAL 1u /* pages are used in order: supply many ahead */
#define FL_ADVICE_RANDOM 2u     /* no page says anything about the next: supply one a fault */
#define FL_ADVICE_WILL_NEED 3u  /* populate it in the background, as fl_populate_start, reading */
#define FL_ADVICE_COLD 4u    /* not used soon: its pages are the first to be taken out of memory */
#define FL_ADVICE_PAGEOUT 5u /* not used for long: take its objects' pages out of memory now */

/* Says how a range will be used; it changes no content. All but WILL_NEED, COLD and PAGEOUT hold
 * until they are replaced, and move with fl_remap. Errors: EINVAL the range, another advice; ENOMEM
 * the daemon has no mappings left for the parts; EUSERS as fl_populate_start; EPIPE the daemon is
 * gone.
 *
 * PAGEOUT blocks until the pages of the objects behind the range are out of memory, for everybody
 * who maps them, as far as they can go: those of files that nobody stored to, and, where the daemon
 * has a swap file, all others. Those that are pinned stay, those of 2 MiB, and this process's
 * private pages.
 * Whoever uses one of them next waits for it to be read, and finds what it held. It is no error
 * where pages stay. */
FL_API int fl_advise(fl_client* client, void* address, size_t length, uint32_t advice);

/* For writing: private pages are copied now, or, where they are mapped already, by the kernel at
 * the first write; shared pages of a file count as stored to. */
#define FL_POPULATE_WRITE (1u << 0)

/* Makes a range resident and maps it, so that using it raises no fault until something takes pages
 * away. Blocks until that is done. Errors: those of fl_populate_start and fl_job_wait. */
FL_API int fl_populate(fl_client* client, void* address, size_t length, uint32_t flags);

/* A range that is being populated. */
typedef struct fl_job fl_job;

/* The most jobs of one process that have not been freed; advice counts until it has ended. */
#define FL_JOBS_MAX 64

/* Begins to populate a range and returns. The job is given back with fl_job_free. It ends by itself
 * when the daemon is gone, and with this process, whose children do not have it.
 * Errors: EINVAL the range, an unknown flag; EACCES for writing, where part of the range is
 * read-only; EUSERS FL_JOBS_MAX are there, or the daemon has too many; ENOENT part of the range was
 * unmapped meanwhile; EMFILE no descriptor left; ENOMEM; EPIPE the daemon is gone. */
FL_API int fl_populate_start(fl_client* client, void* address, size_t length, uint32_t flags,
                             fl_job** job);

/* An eventfd that is readable from when the job has ended, for poll(2) and its kin: neither read
 * nor write it. It stays the library's, until fl_job_free. It does not tell that the daemon is
 * gone; fl_job_wait does. Does not block, and fails for NULL alone. */
FL_API int fl_job_fd(const fl_job* job);

/* How far a job is. Pages are counted by 4 KiB, also where they are larger. */
typedef struct fl_progress {
  uint64_t pages_wanted; /* the whole range */
  uint64_t pages_done;   /* resident and mapped */
  uint64_t pages_failed; /* could not be had */
  uint32_t ended;        /* 1 when nothing more will be done */
  int32_t error;         /* 0, or what fl_job_wait returns */
} fl_progress;

/* Tells how far a job is. Does not block for its pages. Errors: EINVAL a null argument; ESTALE the
 * job is that of the process that forked this one; EPIPE the daemon is gone. */
FL_API int fl_job_progress(fl_job* job, fl_progress* progress);

/* Blocks until the job has ended; other threads can use the library meanwhile. Any number of
 * threads may wait, any number of times. Returns 0 where all pages are resident and mapped, or the
 * negative errno of the first that could not be had: EIO its file could not be read, or is too
 * short; ENOMEM; ECANCELED the range, or part of it, was unmapped meanwhile. Or, the job's fate
 * unknown: ESTALE and EPIPE as fl_job_progress. */
FL_API int fl_job_wait(fl_job* job);

/* Gives the job back, and ends it where it has not ended; what is populated stays. No thread may be
 * waiting for it. NULL is allowed. Errors: as fl_job_progress. The handle is gone all the same. */
FL_API int fl_job_free(fl_job* job);

/* Counters since the mapping was made, or since the process was first seen; bytes as of now. */
typedef struct fl_stats {
  uint64_t start;          /* address of the mapping; 0 for a process */
  uint64_t length;         /* bytes mapped */
  uint64_t mappings;       /* how many they are */
  uint64_t resident_bytes; /* shared_bytes + private_bytes */
  uint64_t shared_bytes;   /* pages of the object */
  uint64_t private_bytes;  /* pages of this process alone */
  uint64_t missing_faults; /* the page was in no memory */
  uint64_t minor_faults;   /* the page was in memory, not in this mapping */
  uint64_t wp_faults;      /* first write to a page mapped read-only */
  uint64_t write_faults;   /* of the three kinds above, those by a write */
  uint64_t pages_mapped;   /* object pages installed */
  uint64_t pages_copied;   /* private pages installed */
  uint64_t breaks;         /* copy-on-write breaks */
  uint64_t ahead_copies;   /* private pages copied before they were asked for */
  uint64_t ahead_unused;   /* of those, at most so many never were */
  uint64_t poisoned_pages; /* pages that could not be supplied: SIGBUS */
} fl_stats;

/* Tells of the mapping that holds the address. Blocks for the daemon's answer. Errors: EINVAL a
 * null argument; ENOENT no mapping of the daemon's there; EPIPE the daemon is gone. */
FL_API int fl_mapping_stats(fl_client* client, const void* address, fl_stats* stats);
/* Tells of this process: all of its mappings together. Blocks for the daemon's answer. Errors:
 * EINVAL a null argument; EPIPE the daemon is gone. */
FL_API int fl_process_stats(fl_client* client, fl_stats* stats);

#ifdef __cplusplus
}
#endif

#include "faultline/wait.h"

#endif /* FAULTLINE_FAULTLINE_H */
