#include "daemon/server/supervision.hpp"

#include <algorithm>

#include "daemon/server/service_manager.hpp"

namespace faultline::server {

namespace {

std::int64_t ms(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace

void Supervision::start() {
  if (!service_manager::listens()) return;
  const auto within = service_manager::watchdog();
  watched_ = within.has_value();
  every_ =
      watched_ ? std::min<std::chrono::microseconds>(*within / kTicks, kStatusEvery) : kStatusEvery;
  tick();
}

void Supervision::stop() {
  clock_.cancel();
}

void Supervision::tick() {
  tell_status();
  if (watched_ && all_go_round()) service_manager::alive();
  clock_.expires_after(every_);
  clock_.async_wait([this](const boost::system::error_code& error) {
    if (!error) tick();
  });
}

// It takes a look at every object, so not at every tick of a short interval.
void Supervision::tell_status() {
  const auto now = std::chrono::steady_clock::now();
  if (now < status_due_) return;
  status_due_ = now + std::min<std::chrono::steady_clock::duration>(kStatusEvery, kTicks * every_);
  std::string text = sources_.status();
  if (text == last_status_) return;
  service_manager::status(text);
  last_status_ = std::move(text);
}

bool Supervision::all_go_round() {
  const auto now = kernel::Pulse::Clock::now();
  bool all = true;
  for (const kernel::WatchedThread& worker : sources_.workers()) {
    const auto overdue = worker.pulse->overdue(now);
    worker.pulse->ask(now);
    // Asked at the last tick, a moment before it or after it.
    if (!overdue || *overdue < every_ + every_ / 2) {
      if (stuck_.erase(worker.pulse.get()) > 0) {
        log::info("{} (thread {}) goes round its loop again", worker.pulse->name(),
                  worker.pulse->thread());
      }
      continue;
    }
    if (worker.pulse->held_up_by_client()) {
      log_.log(log::Level::warn, {.uid = worker.uid},
               "{} has been held up by a client of uid {} for {} ms, in the kernel",
               worker.pulse->name(), worker.uid, ms(*overdue));
      continue;
    }
    all = false;
    if (stuck_.insert(worker.pulse.get()).second) {
      log::line(log::Level::critical, {.uid = worker.uid},
                "{} (thread {}) has not gone round its loop for {} ms: the service manager is not "
                "told that all is well",
                worker.pulse->name(), worker.pulse->thread(), ms(*overdue));
    }
  }
  return all;
}

}  // namespace faultline::server
