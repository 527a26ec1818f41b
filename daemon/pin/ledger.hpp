// The daemon's end of one process's pin ledger (faultline/wire/ledger.hpp). Must never believe what
// it reads there: a number of a page may be any, and a slot may change while it is read.
//
// Locking: mutex_ guards moved_; leaf lock. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/published_memory.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/ledger.hpp"

namespace faultline::pin {

// What a slot says, and what became of it.
struct Pin {
  std::uint32_t slot = 0;
  std::uint32_t use = 0;
  ObjectId object;
  PageIndex first;
  PageCount count;
  Vaddr address;  // where it is mapped now
  std::uint64_t since = 0;
  bool write = false;
  bool own = false;  // private pages: nothing of the object is held
  int ended = 0;     // an errno: it is mapped there no longer, and holds nothing
};

struct PinCounts {
  std::uint64_t fast = 0;
  std::uint64_t slow = 0;
  std::array<std::uint64_t, wire::kPinFallbacks> fallbacks{};
};

class Ledger {
 public:
  // Errors: ENOMEM, EMFILE and the like.
  static Result<std::unique_ptr<Ledger>> create();

  // To be sent; they stay this object's.
  [[nodiscard]] int ledger_fd() const { return fd_.get(); }
  [[nodiscard]] int verdicts_fd() const { return verdicts_memory_.fd(); }

  // Calls visit(pin) for each pin, in the order of the slots, until it returns false. What is
  // pinned or unpinned meanwhile is seen or not.
  template <typename Visit>
  void each(Visit visit) const {
    const std::uint32_t used = slots_used();
    for (std::uint32_t slot = 0; slot < used; ++slot) {
      if (const auto pin = read(slot); pin && !visit(*pin)) return;
    }
  }

  // Those that were all there when it called then(), in the order of the slots. each() may show a
  // pin that was withdrawn meanwhile, and one that was paid with what it gave back.
  template <typename Then>
  [[nodiscard]] std::vector<Pin> at_once(Then then) const {
    std::vector<Pin> pins;
    each([&](const Pin& pin) {
      pins.push_back(pin);
      return true;
    });
    then();
    std::erase_if(pins, [this](const Pin& pin) { return !still_there(pin); });
    return pins;
  }

  // Tells the process the time.
  void tick() const;
  // It holds nothing any more, and whoever unpins it learns why.
  void end(const Pin& pin, int error);
  // It is mapped elsewhere.
  void move(const Pin& pin, Vaddr to);

  // Takes what nobody uses out of all budgets; what the process says of them may be anything. In
  // two steps, so that one barrier of all clients serves many ledgers: no thread begins to use a
  // budget after close_budgets() and the barrier, and take_closed() opens them again. closed: what
  // close_budgets() returned.
  [[nodiscard]] std::uint32_t close_budgets() const;
  [[nodiscard]] std::int64_t take_closed(std::uint32_t closed) const;
  [[nodiscard]] PinCounts counts() const;

 private:
  struct Moved {
    std::uint32_t use = 0;
    Vaddr to;
  };
  Ledger(UniqueFd fd, kernel::MappedMemory memory, kernel::PublishedMemory verdicts)
      : fd_(std::move(fd)), memory_(std::move(memory)), verdicts_memory_(std::move(verdicts)) {}
  [[nodiscard]] wire::PinLedger& ledger() const {
    return *reinterpret_cast<wire::PinLedger*>(memory_.data());
  }
  [[nodiscard]] wire::PinVerdicts& verdicts() const {
    return *reinterpret_cast<wire::PinVerdicts*>(verdicts_memory_.data());
  }
  [[nodiscard]] std::uint32_t slots_used() const;
  [[nodiscard]] std::uint32_t threads_used() const;
  [[nodiscard]] std::optional<Pin> read(std::uint32_t slot) const;
  // Whether it has been all the while since it was read.
  [[nodiscard]] bool still_there(const Pin& pin) const;

  UniqueFd fd_;
  kernel::MappedMemory memory_;
  kernel::PublishedMemory verdicts_memory_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint32_t, Moved> moved_;  // by slot
};

}  // namespace faultline::pin
