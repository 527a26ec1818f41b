// Has pages of objects taken out of memory, a batch after the other, on a user's helper thread.
// Must never keep that thread from what else its user asks for: the batches take turns with it.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/space/evictor.hpp"

namespace faultline::server {

struct PagesOfObject {
  std::shared_ptr<memory::MemoryObject> object;
  PageIndex first;
  PageCount count;
};

// done: called once, on the helper, unless the daemon stops before. Refers to the first two.
void evict(boost::asio::thread_pool& helper, space::Evictor& evictor,
           std::vector<PagesOfObject> pages, memory::WhichPages which,
           std::function<void(const memory::EvictionCounts&)> done);

}  // namespace faultline::server
