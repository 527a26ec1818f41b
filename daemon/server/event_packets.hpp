// What a client asks to watch, as the feed's filter, and the feed's events, as they travel. Must
// never let a client watch what it may not see: whose events it gets is decided by who it is.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "daemon/kernel/error.hpp"
#include "daemon/space/event_feed.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::server {

// object_name: as the request has it, checked to be a text. Errors: EINVAL kinds that are unknown,
// or none; a pid that no process can have.
Result<space::EventFilter> filter_of(const wire::WatchRequest& request, std::string object_name,
                                     uid_t viewer);

// One packet, of at most wire::kMaxEvents events, in answer to the request to watch.
std::vector<std::byte> packet_of(const space::EventBatch& batch,
                                 const wire::RequestHeader& request);

}  // namespace faultline::server
