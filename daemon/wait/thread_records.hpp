// What is done with the thread records of a client (faultline/wire/channel.hpp) when its memory
// changes, or it dies. Must never believe them beyond what the client could have done by itself.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "daemon/channel/channel.hpp"
#include "daemon/space/vma.hpp"

namespace faultline::wait {

// Calls visit(i) for each of the words that a thread says it waits for. waiting: of its record.
template <typename Visit>
void each_word(std::uint32_t waiting, Visit visit) {
  const std::size_t words = std::min<std::size_t>(waiting & wire::kWaitingCount, wire::kMostWords);
  for (std::size_t i = 0; i < words; ++i) visit(i);
}

// Ends what threads wait for by themselves at an address for which the condition holds; error: a
// positive errno. Nobody can begin to wait there any more when it is called.
void end_threads(const channel::Channel& channel, int error,
                 const std::function<bool(Vaddr)>& condition);
// What they wait for is at another address now.
void move_threads(const channel::Channel& channel, const space::VaRange& from, Vaddr to);
// Of a process that is gone: hands its locks over, and wakes on that it may have swallowed. mapped:
// what it had, in order. wake_one: wakes one who waits for the word at an address of it.
void settle_affairs(const channel::Channel& channel, const std::vector<space::Vma>& mapped,
                    const std::function<void(const space::Vma&, Vaddr)>& wake_one);
// The one that holds the address; null where none does.
[[nodiscard]] const space::Vma* vma_of(const std::vector<space::Vma>& mapped, Vaddr address);

}  // namespace faultline::wait
