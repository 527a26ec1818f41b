#include "daemon/server/job_table.hpp"

#include <utility>

namespace faultline::server {

std::optional<std::uint64_t> JobTable::reserve() {
  if (jobs_.size() >= kMost) return std::nullopt;
  const std::uint64_t number = next_++;
  jobs_.emplace(number, nullptr);
  return number;
}

void JobTable::run(std::uint64_t number, std::shared_ptr<space::PopulateJob> job) {
  jobs_[number] = std::move(job);
}

std::optional<space::PopulateProgress> JobTable::progress(std::uint64_t number) const {
  const auto found = jobs_.find(number);
  if (found == jobs_.end() || found->second == nullptr) return std::nullopt;
  return found->second->progress();
}

bool JobTable::remove(std::uint64_t number) {
  const auto found = jobs_.find(number);
  if (found == jobs_.end()) return false;
  const auto job = std::move(found->second);
  jobs_.erase(found);
  if (job != nullptr) job->cancel();
  return true;
}

void JobTable::cancel_all() {
  const auto all = std::exchange(jobs_, {});
  for (const auto& [number, job] : all) {
    if (job != nullptr) job->cancel();
  }
}

}  // namespace faultline::server
