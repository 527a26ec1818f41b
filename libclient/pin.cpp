// The C interface to pins. Must never give out a pin that was not checked after it was published.
#include "faultline/pin.h"

#include <optional>
#include <utility>

#include "libclient/handles.hpp"
#include "libclient/helped_pin.hpp"
#include "libclient/job.hpp"
#include "libclient/pin_runs.hpp"
#include "libclient/pin_steps.hpp"

using faultline::client::each_part;
using faultline::client::end_any_pin;
using faultline::client::end_pin;
using faultline::client::failed;
using faultline::client::Failure;
using faultline::client::finish_job;
using faultline::client::free_job;
using faultline::client::guarded;
using faultline::client::HelpedPin;
using faultline::client::IndexedPiece;
using faultline::client::MapRange;
using faultline::client::my_pins;
using faultline::client::PieceIndex;
using faultline::client::PinLedger;
using faultline::client::PinParts;
using faultline::client::PinRuns;
using faultline::client::PinShare;
using faultline::client::PinStep;
using faultline::client::reached;
using faultline::client::Reading;
using faultline::client::require;
using faultline::client::start_job;
using faultline::client::state_of;
using faultline::client::wait_for_changes;
using faultline::client::whole_pages;
using faultline::client::words_of;
namespace wire = faultline::wire;
using wire::PinFallback;

namespace {

constexpr std::uint32_t kKnownFlags = FL_PIN_WRITE | FL_PIN_NOWAIT;

void count(std::atomic<std::uint64_t>& counter) {
  // The thread's own: nobody else adds to it.
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

// Without the daemon. Nothing: it is pinned.
std::optional<PinFallback> pin_now(MapRange range, std::uint32_t flags, fl_pinned& pinned) {
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  if (index == nullptr) return PinFallback::not_known;
  reached(PinStep::found);
  PinParts parts(range, flags, pinned);
  const IndexedPiece* const piece = index->find(range.start);
  if (piece != nullptr && range.end() <= piece->end && piece->shared) {
    if (const auto why = parts.publish_and_check(*piece)) return why;
  } else {
    if (const auto why = parts.publish(*index)) return why;
    reached(PinStep::published);
    if (const auto why = parts.check(*index)) return why;
  }
  reached(PinStep::checked);
  if (!index->still_current()) return PinFallback::not_known;
  parts.keep();
  // Within the Reading: whoever ends the connection takes the record away.
  count(my_pins.record->fast);
  return std::nullopt;
}

// why: the first try failed.
void pin_with_help(MapRange range, std::uint32_t flags, PinFallback why, fl_pinned& pinned) {
  HelpedPin pin(range, flags);
  pin.publish();
  bool asked = false;
  for (int attempt = 0; attempt < HelpedPin::kMostAttempts; ++attempt) {
    const auto missing = pin.check();
    if (!missing) {
      pin.keep(pinned);
      if (!asked) count(my_pins.record->fallbacks[static_cast<std::size_t>(why)]);
      return count(asked ? my_pins.record->slow : my_pins.record->fast);
    }
    if (missing == PinFallback::not_known) {
      pin.withdraw();
      pin.publish();
      continue;
    }
    if ((flags & FL_PIN_NOWAIT) != 0) {
      throw Failure(EAGAIN,
                    "pinning " + words_of(range) + " without waiting, where a page is not there");
    }
    if (!asked) count(my_pins.record->fallbacks[static_cast<std::size_t>(*missing)]);
    asked = true;
    pin.bring_pages();
  }
  pin.give_up();
}

// As fl_pin_runs. Nothing where the mappings have changed meanwhile.
std::optional<int> runs_of(const PinLedger& ledger, const fl_pinned& pinned, fl_pin_run* runs,
                           std::size_t most) {
  if (const int state = state_of(ledger, pinned); state != 0) return state;
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  if (index == nullptr) return std::nullopt;
  PinRuns found(*index, runs, most);
  each_part(ledger, pinned.first, pinned.parts,
            [&](std::uint32_t, const wire::PinSlot& slot) { found.add(slot); });
  if (!index->still_current()) return std::nullopt;
  return static_cast<int>(found.count());
}

// Calls populate(): where another thread has unmapped the range meanwhile, that is what is said.
// Throws Failure.
template <typename Populate>
void as_unmapped(MapRange range, Populate populate) {
  try {
    populate();
  } catch (const Failure& failure) {
    if (failure.code() != ECANCELED && failure.code() != ENOENT) throw;
    throw Failure(EFAULT, "pinning " + words_of(range) + ", which were unmapped meanwhile");
  }
}

// Throws Failure: EINVAL.
MapRange range_to_pin(const void* address, std::size_t length, std::uint32_t flags) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  require(length != 0, "pinning no bytes");
  require((flags & ~kKnownFlags) == 0, "pinning with an unknown flag");
  require(start + length > start, "pinning past the end of all addresses");
  return {start, length};
}

// What a pin has come to, in words that need no memory. error: that of fl_pin_state, or 0. Returns
// it.
int say_ended(int error, bool ending) {
  switch (-error) {
    case 0:
      return 0;
    case ENOENT:
      return failed(ENOENT, ending
                                ? "ending a pin whose memory was unmapped, or moved in parts"
                                : "looking at a pin whose memory was unmapped, or moved in parts");
    case EIDRM:
      return failed(EIDRM, ending ? "ending a pin whose private pages were discarded"
                                  : "looking at a pin whose private pages were discarded");
    case EPIPE:
      return failed(EPIPE, ending ? "ending a pin whose connection to the daemon has ended"
                                  : "looking at a pin whose connection to the daemon has ended");
    case ESTALE:
      return failed(ESTALE, ending ? "ending a pin of the process that forked this one"
                                   : "looking at a pin of the process that forked this one");
    default:
      return failed(-error, ending ? "ending a pin that is none, or was ended before"
                                   : "looking at a pin that is none, or was ended before");
  }
}

}  // namespace

extern "C" {

int fl_pin(const void* address, size_t length, uint32_t flags, fl_pinned* pinned) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  if (pinned == nullptr || length == 0 || (flags & ~kKnownFlags) != 0 || start + length < start) {
    return guarded([&] {
      require(pinned != nullptr, "fl_pin with a null argument");
      (void)range_to_pin(address, length, flags);
    });
  }
  const auto why = pin_now({start, length}, flags, *pinned);
  if (!why) return 0;
  return guarded([&] { pin_with_help({start, length}, flags, *why, *pinned); });
}

int fl_unpin(fl_pinned* pinned) {
  if (pinned == nullptr || pinned->parts == 0) return say_ended(-EINVAL, true);
  int result = 0;
  {
    const Reading reading;
    PinShare& share = my_pins;
    if (share.number == pinned->ledger && share.ledger->number() == pinned->ledger) {
      result = end_pin(share, *pinned);
      pinned->parts = 0;
      return result == 0 ? 0 : say_ended(result, true);
    }
  }
  result = end_any_pin(*pinned);
  pinned->parts = 0;
  return say_ended(result, true);
}

int fl_pin_state(const fl_pinned* pinned) {
  if (pinned == nullptr || pinned->parts == 0) return say_ended(-EINVAL, false);
  const int result = PinLedger::with(
      pinned->ledger, [&](const PinLedger& ledger) { return state_of(ledger, *pinned); });
  return say_ended(result, false);
}

int fl_pin_runs(const fl_pinned* pinned, fl_pin_run* runs, size_t most) {
  if (pinned == nullptr || pinned->parts == 0) return say_ended(-EINVAL, false);
  if (runs == nullptr && most != 0)
    return failed(EINVAL, "looking at a pin without a place for it");
  std::optional<int> result;
  while (!result) {
    wait_for_changes();
    if (const int indexed = guarded([] { PieceIndex::make_current(); }); indexed != 0) {
      return indexed;
    }
    const int error = PinLedger::with(pinned->ledger, [&](const PinLedger& ledger) {
      result = runs_of(ledger, *pinned, runs, most);
      return 0;
    });
    if (error != 0) result = error;
  }
  return *result >= 0 ? *result : say_ended(*result, false);
}

int fl_pin_start(const void* address, size_t length, uint32_t flags, fl_job** job) {
  return guarded([&] {
    require(job != nullptr, "fl_pin_start with a null argument");
    *job = nullptr;
    const MapRange range = range_to_pin(address, length, flags);
    require((flags & FL_PIN_NOWAIT) == 0, "fl_pin_start with FL_PIN_NOWAIT");
    // The pages are held from before they come: none can go again before all are there.
    auto pin = std::make_unique<HelpedPin>(range, flags);
    pin->publish();
    const std::uint32_t write = (flags & FL_PIN_WRITE) != 0 ? FL_POPULATE_WRITE : 0;
    std::unique_ptr<fl_job> started;
    as_unmapped(range, [&] { started = start_job(pin->connection(), whole_pages(range), write); });
    started->pin = std::move(pin);
    *job = started.release();
  });
}

int fl_pin_take(fl_job* job, fl_pinned* pinned) {
  return guarded([&] {
    require(job != nullptr && pinned != nullptr, "fl_pin_take with a null argument");
    require(job->pin != nullptr, "taking a pin from a job that pins nothing");
    *pinned = {};
    // Whatever becomes of it, the daemon is to forget it.
    const auto forget = [](fl_job* over) {
      (void)guarded([&] { free_job(std::unique_ptr<fl_job>(over)); });
    };
    const std::unique_ptr<fl_job, decltype(forget)> ended(job, forget);
    as_unmapped(ended->range, [&] { finish_job(*ended); });
    HelpedPin& pin = *ended->pin;
    pin.attach();
    pin.brought();
    count(my_pins.record->slow);
    count(my_pins.record->fallbacks[static_cast<std::size_t>(PinFallback::absent)]);
    if (!pin.check()) {
      pin.keep(*pinned);
    } else {
      // Something was taken away meanwhile, or the mappings changed.
      pin.withdraw();
      pin_with_help(pin.range(), pin.flags(), PinFallback::not_known, *pinned);
    }
  });
}

int fl_pin_statistics(fl_client* client, fl_pin_stats* stats) {
  return guarded([&] {
    require(client != nullptr && stats != nullptr, "fl_pin_statistics with a null argument");
    const PinLedger* const ledger = client->connection->ledger();
    *stats = ledger == nullptr ? fl_pin_stats{} : ledger->statistics();
  });
}

}  // extern "C"
