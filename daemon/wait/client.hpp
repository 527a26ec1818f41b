// What the wait room knows of one client: its channel, its address space, and where its completions
// go. Must never outlive what is posted to its keeper, which therefore shares it.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "daemon/channel/channel.hpp"
#include "daemon/kernel/closer.hpp"
#include "daemon/space/message_reads.hpp"
#include "daemon/space/populate_job.hpp"

namespace faultline::wait {

class BrokeredWait;
class WaitKeeper;

// Where completions can go besides the client's own ring; a descriptor of the client's.
struct Target {
  enum class Kind : std::uint8_t { eventfd, ring };
  Kind kind{};
  kernel::ForeignFd fd;
};

// What a wait was woken for, should its client not live to learn of it.
struct Woken {
  explicit Woken(const BrokeredWait& wait);
  std::shared_ptr<memory::MemoryObject> object;  // of an object's word; null: at a slot
  std::uint64_t offset = 0;
  SpaceId space;
  Vaddr address;
  std::uint32_t in_page = 0;  // of a frame's word
  space::FrameId frame;
  std::uint32_t mask = 0;
  bool woken = false;
};

struct Client {
  static constexpr std::size_t kMostTargets = 1024;
  // Waits that it has not been told the end of.
  static constexpr std::size_t kMostWaits = 262'144;

  SpaceId space_id;
  uid_t uid = 0;
  std::weak_ptr<space::AddressSpace> space;
  std::unique_ptr<channel::Channel> channel;
  WaitKeeper* keeper = nullptr;                // its user's; outlives it
  space::FaultWorker* home = nullptr;          // of its space; outlives it
  std::shared_ptr<space::MessageReads> reads;  // of its space
  // The VMA that holds an address of its space; null where none does.
  [[nodiscard]] space::VmaRef vma_at(Vaddr address) const;
  // Whether the address is still that VMA's, or that of a piece of it.
  [[nodiscard]] bool has(const space::Vma& vma, Vaddr address) const;

  // From here on the keeper's thread's.
  std::vector<std::shared_ptr<Target>> targets;                            // null: free
  std::unordered_map<std::uint32_t, std::unique_ptr<BrokeredWait>> waits;  // by their numbers
  std::uint32_t last_id = 0;
  // Pages that are being brought for it, by the record that waits for them.
  std::unordered_map<std::uint32_t, std::shared_ptr<space::PopulateJob>> fetching;
  bool closed = false;
  bool held = false;  // its next request waits, see WaitWorker

  // Completions in its ring, or on their way there, that it has not taken, as far as it says the
  // truth; oldest first.
  std::deque<Woken> told;
  void tell(const BrokeredWait& wait);
  // Those of them that tell of a wake.
  [[nodiscard]] std::deque<Woken> take_untaken();
};

}  // namespace faultline::wait
