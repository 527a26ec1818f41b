#include "tools/faultctl/top_feed.hpp"

#include <algorithm>

namespace faultline::ctl {

using wire::AdminQuery;

std::array<pollfd, 2> TopFeed::files() const {
  return {{{load_.fd(), POLLIN, 0}, {residency_.fd(), POLLIN, 0}}};
}

TopFeed::Clock::time_point TopFeed::wake_at() const {
  // Far away, for who is paused: keys and signals wake him.
  auto wake = Clock::now() + std::chrono::hours(1);
  for (const Inquiry* inquiry : {&load_, &residency_}) {
    if (const auto give_up = inquiry->give_up_at()) wake = std::min(wake, *give_up);
  }
  if (!load_.busy() && (!paused_ || once_)) wake = std::min(wake, next_load_);
  // As ask_what_is_due() has it: who wakes for what is not asked then never sleeps.
  if (!residency_.busy() && !paused_ && looks_ > 0 && trouble_.empty()) {
    wake = std::min(wake, next_residency_);
  }
  return wake;
}

bool TopFeed::step(std::array<pollfd, 2> files) {
  try {
    const bool fresh = take_answers(files);
    load_.check_time();
    residency_.check_time();
    ask_what_is_due();
    return fresh;
  } catch (const Failure& failure) {
    if (looks_ == 0) throw;
    lost(failure);
    return true;
  }
}

bool TopFeed::take_answers(const std::array<pollfd, 2>& files) {
  bool fresh = false;
  if (files[0].revents != 0 && files[0].fd == load_.fd()) {
    try {
      if (const auto answer = load_.take()) {
        take_load(*answer);
        fresh = !load_.busy();
      } else if (!load_.busy()) {
        throw Unreachable::in_words(EPROTO, "the daemon spoke without being asked");
      }
    } catch (const Refused&) {
      // The process whose mappings were asked for is gone. The daemon itself refuses no one later.
      if (asked_ != Asked::vmas) throw;
      if (asked_pid_ == pid_) choose(std::nullopt);
      ++looks_;
      fresh = true;
    }
  }
  if (files[1].revents != 0 && files[1].fd == residency_.fd()) {
    try {
      if (const auto answer = residency_.take()) {
        residency_known_ = true;
        next_residency_ =
            Clock::now() + std::max(interval_, kRestAfterResidency * residency_.took());
        if (!residency_pid_) {
          model_.take_residency(*answer);
        } else if (residency_pid_ == pid_) {
          model_.take_vma_residency(*answer);
        }
        fresh = true;
      }
    } catch (const Refused&) {
      if (!residency_pid_) throw;
      next_residency_ = Clock::now() + interval_;
    }
  }
  return fresh;
}

void TopFeed::take_load(const nlohmann::json& answer) {
  if (asked_ == Asked::load) {
    trouble_.clear();
    model_.take_load(answer);
    if (pid_) {
      asked_ = Asked::vmas;
      asked_pid_ = pid_;
      load_.ask(question(AdminQuery::vmas, wire::kAdminNoResidency));
      return;
    }
  } else if (asked_pid_ == pid_) {
    model_.take_vmas(answer);
  }
  ++looks_;
}

void TopFeed::ask_what_is_due() {
  if (paused_ && !once_) return;
  const auto now = Clock::now();
  if (!load_.busy() && now >= next_load_) {
    // In step with the clock, but never to catch up.
    next_load_ = next_load_ + interval_ > now ? next_load_ + interval_ : now + interval_;
    once_ = false;
    asked_ = Asked::load;
    load_.ask(question(AdminQuery::load, wire::kAdminNoResidency));
  }
  if (!residency_.busy() && now >= next_residency_ && looks_ > 0 && trouble_.empty()) {
    residency_pid_ = pid_;
    residency_.ask(question(pid_ ? AdminQuery::vmas : AdminQuery::spaces, 0));
  }
}

wire::AdminRequest TopFeed::question(AdminQuery query, std::uint32_t flags) const {
  wire::AdminRequest request;
  request.query = query;
  request.flags = flags;
  if (query == AdminQuery::vmas) request.pid = pid_.value_or(0);
  return request;
}

void TopFeed::lost(const Failure& failure) {
  trouble_ = failure.what();
  load_.drop();
  residency_.drop();
  asked_ = Asked::load;
  next_load_ = Clock::now() + std::min<Clock::duration>(interval_, kRetry);
  next_residency_ = next_load_;
}

void TopFeed::set_interval(Clock::duration interval) {
  interval_ = interval;
  next_load_ = Clock::now();
}

void TopFeed::set_paused(bool paused) {
  if (paused == paused_) return;
  paused_ = paused;
  next_load_ = Clock::now();
}

void TopFeed::choose(std::optional<std::uint32_t> pid) {
  if (pid == pid_) return;
  pid_ = pid;
  model_.forget_vmas();
  next_load_ = Clock::now();
  next_residency_ = next_load_;
  once_ = true;
}

}  // namespace faultline::ctl
