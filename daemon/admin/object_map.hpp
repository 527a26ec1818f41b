// What of an object is where, as JSON: the states of its pages, and for each process that maps it
// what it maps, has of its own and pins. Must never answer with more than kMostMapBuckets buckets
// or kMostBands processes, whatever the object's size, nor say whose a process is that the viewer
// may not see: of those there is a count.
//
// Reads page tables and ledgers: not for the control thread, and each user's on a thread of his
// own.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

#include "daemon/memory/object_directory.hpp"
#include "daemon/pin/pin_service.hpp"
#include "daemon/space/space_service.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::admin {

inline constexpr std::size_t kMostBands = 64;

// The JSON text, described in docs/faultctl.md. Errors: ENOENT no such object that he may see;
// EINVAL too many buckets.
Result<std::string> object_map(const wire::AdminRequest& query, uid_t viewer,
                               const memory::ObjectDirectory& objects,
                               const space::SpaceService& spaces, const pin::PinService& pins);

}  // namespace faultline::admin
