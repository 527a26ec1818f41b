// A wait that the daemon keeps for a client: in the kernel's queue at the futex word that stands
// for the word waited for, through the worker's io_uring. Must never be woken without its client
// being told, nor lose its place but for a reason that the client is told.
//
// Life:
//   queued      the kernel has it
//   unqueued    the kernel cannot have it, or not yet: UnqueuedWaits has it
//   recalled    cancelled, because its page parts: queued next at the word's slot
//   over        woken, ended, cancelled, timed out; its outcome is being delivered
//   gone        delivered
// queued or unqueued -> recalled -> queued; unqueued -> queued; queued, unqueued or recalled ->
// over -> gone.
//
// A cancel loses against a wake that came before it: what is over because it was woken says so. So
// no wake is lost that was counted.
//
// Threads: its worker alone. Its hook is guarded by the table that it hangs in.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "daemon/kernel/ring.hpp"
#include "daemon/memory/memory_object.hpp"
#include "daemon/wait/client.hpp"
#include "daemon/wait/wait_keeper.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

class BrokeredWait final : public kernel::RingOperation, public WaitHook {
 public:
  BrokeredWait(std::shared_ptr<Client> client, const wire::Submission& asked);

  void on_complete(int result) override;

  // Of a word of that size, by its number in a request (at most 3).
  [[nodiscard]] static std::uint64_t bytes_of(std::uint16_t size) {
    constexpr std::array<std::uint64_t, 4> kBytes{4, 1, 2, 8};
    return kBytes.at(size);
  }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_of(size); }

  const std::shared_ptr<Client> client;
  const std::uint64_t user_data;
  const std::uint64_t expected;
  Vaddr address;  // of the word; while it hangs on one, where that was when it began to
  std::shared_ptr<memory::MemoryObject> object;  // at whose word it is queued; null: at a slot
  std::shared_ptr<Target> target;                // of a delivery there
  std::uint64_t offset = 0;                      // of the word, in the object
  std::int64_t since = 0;                        // CLOCK_MONOTONIC, nanoseconds
  std::int64_t until = 0;                        // CLOCK_MONOTONIC, nanoseconds; 0: for ever
  std::uint32_t id = 0;
  const std::uint32_t mask;
  const std::uint32_t record;
  const std::uint32_t request;
  const wire::Delivery delivery;
  const std::uint8_t size;
  std::uint8_t index = 0;   // among the words of one fl_waitv
  bool page_comes = false;  // UnqueuedWaits has it no more, its worker queues it
  // In one byte: there may be a quarter of a million of them.
  bool counted : 1 = false;   // on the board of its object
  bool requeued : 1 = false;  // to a word whose value is nothing to it
  bool taken_back : 1 = false;
  bool unannounced : 1 = false;  // its client does not know its number yet
  enum class State : std::uint8_t {
    queued,
    unqueued,
    recalled,
    over,
    delivering
  } state = State::queued;
  int outcome = 0;  // once it is over: 0 woken, or a negative errno
  int reason = 0;   // of a cancel that is under way: a positive errno
};

}  // namespace faultline::wait
