// What a job of the daemon's is in the process that started it; see job.cpp. Must never be used in
// a fork child but to be freed.
#pragma once

#include <cstdint>
#include <memory>

#include "faultline/faultline.h"
#include "faultline/wire/unique_fd.hpp"
#include "libclient/connection.hpp"
#include "libclient/mapping_book.hpp"

namespace faultline::client {
class HelpedPin;
}

struct fl_job {
  fl_job();
  fl_job(const fl_job&) = delete;
  fl_job& operator=(const fl_job&) = delete;
  ~fl_job();

  std::shared_ptr<faultline::client::Connection> connection;
  std::uint64_t forks = 0;  // of the process that it belongs to
  std::uint64_t number = 0;
  faultline::client::MapRange range;
  faultline::UniqueFd ended;
  // Of fl_pin_start: what it pins, published since before the job began.
  std::unique_ptr<faultline::client::HelpedPin> pin;
};

namespace faultline::client {

// Begins to populate a range that the caller has checked. Throws Failure.
[[nodiscard]] std::unique_ptr<fl_job> start_job(std::shared_ptr<Connection> connection,
                                                MapRange range, std::uint32_t flags);
// Returns when it has ended. Throws Failure: why the first of its pages could not be had.
void finish_job(const fl_job& job);
// Has the daemon forget it, or cancel it first. Throws Failure.
void free_job(std::unique_ptr<fl_job> job);

}  // namespace faultline::client
