// One thread's way to a pin that could not be had at once: publishes it, has the daemon bring what
// is absent, and makes private pages this process's own. Must never give a pin up half: what it has
// published is withdrawn with it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "libclient/connection.hpp"
#include "libclient/mapping_book.hpp"
#include "libclient/pin_parts.hpp"

namespace faultline::client {

// The range, with what it leaves out of its first and last page.
[[nodiscard]] MapRange whole_pages(MapRange range);

class HelpedPin {
 public:
  // How often what others change meanwhile makes a pin begin anew.
  static constexpr int kMostAttempts = 64;

  // Throws Failure: EFAULT no connection maps where the range begins; as Connection::pin_ledger.
  HelpedPin(MapRange range, std::uint32_t flags);
  HelpedPin(const HelpedPin&) = delete;
  HelpedPin& operator=(const HelpedPin&) = delete;
  ~HelpedPin() = default;

  // Throws Failure, as fl_pin.
  void publish();
  // Whether it is all there. not_known: it has to be published anew.
  [[nodiscard]] std::optional<wire::PinFallback> check();
  // Brings the pages. Throws Failure.
  void bring_pages();
  // After the daemon has brought them: what is this process's to do. Throws Failure.
  void brought();
  // For a thread that has not published it.
  void attach() { ledger_.attach(); }
  void withdraw() { parts_.withdraw(); }
  void keep(fl_pinned& pinned) {
    parts_.keep();
    pinned = pinned_;
  }
  [[noreturn]] void give_up() const;

  [[nodiscard]] const std::shared_ptr<Connection>& connection() { return connection_; }
  [[nodiscard]] MapRange range() const { return range_; }
  [[nodiscard]] std::uint32_t flags() const { return flags_; }

 private:
  [[nodiscard]] bool for_writing() const { return (flags_ & FL_PIN_WRITE) != 0; }
  // What can be published holds for one state of all mappings. Throws Failure: EAGAIN.
  void wait_for_others() const;
  [[nodiscard]] std::optional<wire::PinFallback> publish_now();
  // flags: kPinForWriting; kPinWritten.
  void ask_to_pin(MapRange pages, std::uint16_t flags);
  void make_own(MapRange pages);
  void open_frames(std::uintptr_t address);
  void get_budget(std::int64_t price);

  const MapRange range_;
  const std::uint32_t flags_;
  const std::shared_ptr<Connection> connection_;
  PinLedger& ledger_;
  fl_pinned pinned_{};
  PinParts parts_;
  bool copies_ = false;          // a part of it is private
  bool refused_frames_ = false;  // it goes without them, and then is never had at once
};

}  // namespace faultline::client
