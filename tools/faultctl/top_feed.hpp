// Keeps what top shows up to date: asks the daemon every interval, and finds it again when it went
// away. Must never keep the daemon busy: bytes in memory, for which it walks page tables, are asked
// on a connection of their own, and so seldom that this takes 2 % of one of its threads at most.
#pragma once

#include <poll.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/faultctl/inquiry.hpp"
#include "tools/faultctl/top_model.hpp"

namespace faultline::ctl {

class TopFeed {
 public:
  using Clock = Inquiry::Clock;
  // Residency is asked after so many times what the last answer took.
  static constexpr int kRestAfterResidency = 50;
  static constexpr std::chrono::seconds kRetry{1};

  TopFeed(const std::vector<std::string>& socket_paths, Clock::duration interval)
      : load_(socket_paths), residency_(socket_paths), interval_(interval) {}

  // What is to be waited for, until then.
  [[nodiscard]] std::array<pollfd, 2> files() const;
  [[nodiscard]] Clock::time_point wake_at() const;
  // Does what is due; files: as they came out of the wait. True: there is something new to show.
  // Throws Unreachable and Refused as long as no daemon has ever answered.
  bool step(std::array<pollfd, 2> files);

  [[nodiscard]] const TopModel& model() const { return model_; }
  // Looks that were completed, at the daemon and where a process is chosen at that.
  [[nodiscard]] std::uint64_t looks() const { return looks_; }
  // Whether there were bytes in memory once.
  [[nodiscard]] bool residency_known() const { return residency_known_; }
  // Why there is nothing new; empty where there is.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }

  [[nodiscard]] Clock::duration interval() const { return interval_; }
  void set_interval(Clock::duration interval);
  void set_paused(bool paused);
  // Shows the mappings of this process too; of none.
  void choose(std::optional<std::uint32_t> pid);
  [[nodiscard]] std::optional<std::uint32_t> chosen() const { return pid_; }

 private:
  void ask_what_is_due();
  bool take_answers(const std::array<pollfd, 2>& files);
  void take_load(const nlohmann::json& answer);
  [[nodiscard]] wire::AdminRequest question(wire::AdminQuery query, std::uint32_t flags) const;
  void lost(const Failure& failure);

  enum class Asked { load, vmas };
  Inquiry load_;
  Inquiry residency_;
  Asked asked_ = Asked::load;
  std::optional<std::uint32_t> asked_pid_;      // of the mappings under way
  std::optional<std::uint32_t> residency_pid_;  // the same of bytes in memory
  Clock::duration interval_;
  Clock::time_point next_load_{};
  Clock::time_point next_residency_{};
  bool paused_ = false;
  bool once_ = false;  // even so: there is something else to show
  std::optional<std::uint32_t> pid_;
  TopModel model_;
  std::uint64_t looks_ = 0;
  bool residency_known_ = false;
  std::string trouble_;
};

}  // namespace faultline::ctl
