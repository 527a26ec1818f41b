// Mutexes, condition variables, semaphores and event counts for memory that processes share.
//
// Put them into a shared, writable mapping of an object (fl_map, FL_MAP_SHARED). Each is one or two
// 32-bit words without a pointer, so it works through any mapping of the object, at any address,
// and memory that was zero-filled is a valid one: unlocked, with a count of 0, nobody waiting. All
// are robust: whoever dies with a lock, or before it woke whom it had to, holds nobody up. What is
// promised, and what is not, tells docs/sync.md.
#ifndef FAULTLINE_SYNC_HPP
#define FAULTLINE_SYNC_HPP

#if __cplusplus <= 201703L
#error "sync.hpp needs C++20 (-std=c++20)"
#endif

#include "faultline/sync/condition_variable.hpp"
#include "faultline/sync/event_count.hpp"
#include "faultline/sync/mutex.hpp"
#include "faultline/sync/semaphore.hpp"

#endif  // FAULTLINE_SYNC_HPP
