// What the daemon counts, as families of metrics (docs/metrics.md). Must never name an object, a
// process or a user: who may read this may not be one who may see those.
//
// Takes no worker's time, waits for no client, and looks at no page table. Blocks for leaf locks
// and for one fstat(2) an object; not for the control thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "daemon/admin/metric_text.hpp"
#include "daemon/memory/object_directory.hpp"
#include "daemon/pin/pin_service.hpp"
#include "daemon/space/evictor.hpp"
#include "daemon/space/space_service.hpp"
#include "daemon/wait/wait_service.hpp"

namespace faultline::admin {

// What the server counts of connections; written by its control thread.
struct ConnectionTally {
  std::atomic<std::size_t> sessions{0};
  kernel::Tally refused_of_all;   // max_sessions
  kernel::Tally refused_of_user;  // max_sessions_per_user
};

struct MetricSources {
  const memory::ObjectDirectory& objects;
  const space::SpaceService& spaces;
  const space::Evictor& evictor;
  const wait::WaitService& waits;
  pin::PinService& pins;
  const ConnectionTally& connections;
  std::chrono::system_clock::time_point started;
};

[[nodiscard]] std::vector<MetricFamily> gather(const MetricSources& sources);

}  // namespace faultline::admin
