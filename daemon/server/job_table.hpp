// The populate jobs of one session, by the numbers that its client knows them by. Must never hold
// more than kMost, nor leave one running when it goes.
//
// Life of a job:
//   reserved -> running  the space took it
//   reserved -> gone     it did not
//   running -> gone      the client freed it, or the session closed: it is cancelled; or nobody
//                        asks about it, and it has ended
//
// Locking: none; runs on the control thread alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "daemon/space/space_service.hpp"

namespace faultline::server {

class JobTable {
 public:
  static constexpr std::size_t kMost = 64;

  JobTable() = default;
  JobTable(const JobTable&) = delete;
  JobTable& operator=(const JobTable&) = delete;
  ~JobTable() { cancel_all(); }

  // A number for a job that is about to be started; nothing where there are kMost.
  std::optional<std::uint64_t> reserve();
  void run(std::uint64_t number, std::shared_ptr<space::PopulateJob> job);
  // Nothing where there is no such job that runs.
  [[nodiscard]] std::optional<space::PopulateProgress> progress(std::uint64_t number) const;
  // Cancels it where it runs. False where there is none.
  bool remove(std::uint64_t number);
  void cancel_all();

 private:
  // Null while it is reserved.
  std::map<std::uint64_t, std::shared_ptr<space::PopulateJob>> jobs_;
  std::uint64_t next_ = 1;
};

}  // namespace faultline::server
