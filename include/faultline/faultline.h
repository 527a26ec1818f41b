/* libfaultline: memory objects of the faultlined daemon, mapped into this process.
 *
 * Every function returns 0 or a negative errno unless it says otherwise; fl_last_error() then tells
 * in words what was attempted. Every function is thread-safe and may block for a round trip to the
 * daemon. Lengths and offsets are bytes and must be multiples of the object's page size. The
 * functions follow mmap(2), shm_open(3) and userfaultfd(2) where this page is silent.
 *
 * Fork: a child inherits every mapping, object and client handle. Its faults are served from its
 * first instruction on; its first call into this library connects it to the daemon. From a daemon
 * without CAP_SYS_PTRACE (`faultlined --check`) it inherits less: a mapping of an object with a
 * file behind it raises SIGSEGV, and what was open fails with ESTALE. The library is not usable in
 * the child of a vfork(2), nor from a signal handler.
 */
#ifndef FAULTLINE_FAULTLINE_H
#define FAULTLINE_FAULTLINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

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

/* "MAJOR.MINOR.PATCH" of the library. Never NULL; static. */
FL_API const char* fl_version(void);

/* What the last failed call of this thread attempted, on what, and why. Never NULL; valid until
 * this thread's next call into the library. Empty when nothing has failed. */
FL_API const char* fl_last_error(void);

/* Connects to the daemon at socket_path. NULL: $FAULTLINE_SOCKET, else the user's own daemon
 * ($XDG_RUNTIME_DIR/faultline/faultlined.sock) where one listens, else
 * /run/faultline/faultlined.sock. The same path again gives the same connection, counted. Errors:
 * ENOENT or ECONNREFUSED no daemon there (with NULL, at neither socket); EACCES the socket's mode
 * forbids it; EPROTO another protocol version; EPERM no userfaultfd to be had; EUSERS a limit of
 * the daemon's is reached. */
FL_API int fl_connect(const char* socket_path, fl_client** client);

/* Gives the handle back. The connection itself ends when its last handle, object and mapping is
 * gone; mappings stay valid and served. NULL is allowed. */
FL_API int fl_disconnect(fl_client* client);

/* How an object is to be made. Set struct_size to sizeof(fl_object_spec) and what is unused to 0.
 */
typedef struct fl_object_spec {
  size_t struct_size;
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
  /* FL_FROM_FILE or 0. */
  uint32_t flags;
  /* With FL_FROM_FILE: an open, readable regular file, which stays the caller's. Pages are read
   * from it when they are first touched and never written back. A page that it can no longer supply
   * raises SIGBUS, as mmap(2) does. */
  int file_fd;
  /* Bytes; a multiple of the page size. */
  uint64_t file_offset;
  /* Bytes; 0 for the default, 4096. */
  uint32_t page_size;
} fl_object_spec;

#define FL_FROM_FILE (1u << 0)

/* Makes an object and opens it for reading and writing.
 * Errors: EINVAL a struct_size that is not sizeof(fl_object_spec), size 0, a size beyond the end of
 * the file, a mode beyond 0777, an unknown flag, a bad name, offset or page size; EEXIST the name
 * is taken; EFBIG larger than the daemon allows; EBADF file_fd is not open for reading; ENODEV it
 * is not a regular file; EUSERS a limit of the daemon's is reached; ENOMEM. */
FL_API int fl_object_create(fl_client* client, const fl_object_spec* spec, fl_object** object);

#define FL_READ_ONLY 1u
#define FL_READ_WRITE 2u

/* Opens a named object. A read-only opener gets a descriptor through which the kernel refuses
 * writing. Errors: EINVAL; ENOENT no such object; EACCES not allowed by its owner and mode. */
FL_API int fl_object_open(fl_client* client, const char* name, uint32_t access, fl_object** object);

typedef struct fl_object_info {
  uint64_t id;
  uint64_t size;           /* bytes, whole pages */
  uint64_t content_size;   /* bytes asked for at creation */
  uint64_t resident_bytes; /* in memory now, in all processes once */
  uint32_t page_size;      /* bytes */
  uint32_t uid;            /* owner */
  uint32_t mode;
  uint32_t open_handles; /* in all address spaces */
  uint32_t linked;       /* 1 while the name can be opened */
  uint32_t from_file;    /* 1 with a file behind it */
  char name[FL_NAME_MAX + 1];
} fl_object_info;

FL_API int fl_object_stat(fl_object* object, fl_object_info* info);

/* Takes the name away; the object lives on while it is open or mapped.
 * Errors: ENOENT; EACCES neither the owner nor root. */
FL_API int fl_object_unlink(fl_client* client, const char* name);

/* Closes the handle; mappings of the object stay. NULL is allowed. Errors: EPIPE the daemon is
 * gone; ESTALE opened before a fork, with a daemon that is not told of forks. The handle is gone
 * all the same. */
FL_API int fl_object_close(fl_object* object);

/* The object's memfd, read-only where the object was opened so; it stays the library's. Its file
 * position is shared by all who opened the object: use pread(2) and pwrite(2). A page that nobody
 * touched yet reads zero through it, and what is written to such a page of an object with a file
 * behind it is replaced by the file's content at the first touch. */
FL_API int fl_object_fd(const fl_object* object);

#define FL_MAP_SHARED (1u << 0)  /* stores are seen by all, through any mapping */
#define FL_MAP_PRIVATE (1u << 1) /* a page is the object's until this process writes to it */
#define FL_MAP_WRITE (1u << 2)   /* writable; without it stores raise SIGSEGV */

/* Maps [offset, offset + length) of the object at an address of the kernel's choice. Pages are
 * supplied by the daemon when they are touched, in user code and inside system calls alike; from a
 * daemon without /dev/userfaultfd (docs/limits.md, user mode only), system calls fail with EFAULT
 * on pages that were not touched yet. Errors: EINVAL unaligned, zero or past the object's end, or
 * not exactly one of shared and private; EACCES shared and writable on a read-only object; ENOMEM;
 * EPIPE the daemon is gone. */
FL_API int fl_map(fl_object* object, uint64_t offset, size_t length, uint32_t flags,
                  void** address);

/* Unmaps whole pages of mappings made by fl_map; private pages in them are lost. Where it fails,
 * nothing is unmapped. Errors: EINVAL unaligned or zero, or a range that is not all mapped by
 * fl_map; ENOMEM the process has no mappings left for the rest on either side. */
FL_API int fl_unmap(fl_client* client, void* address, size_t length);

/* Counters since the mapping was made, or since the process was first seen; bytes as of now. */
typedef struct fl_stats {
  uint64_t start;  /* address of the mapping; 0 for a process */
  uint64_t length; /* bytes mapped */
  uint64_t mappings;
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

/* Of the mapping that holds the address. Errors: ENOENT no mapping of the daemon's there. */
FL_API int fl_mapping_stats(fl_client* client, const void* address, fl_stats* stats);
/* Of this process. */
FL_API int fl_process_stats(fl_client* client, fl_stats* stats);

#ifdef __cplusplus
}
#endif

#endif /* FAULTLINE_FAULTLINE_H */
