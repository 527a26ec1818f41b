// What is done with the thread records of a client (faultline/wire/channel.hpp) when its memory
// changes, or it dies. Must never believe them beyond what the client could have done by itself.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "daemon/channel/channel.hpp"
#include "daemon/space/vma.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

// Calls visit(i) for each of the record's words that its thread says it waits for.
template <typename Visit>
void each_word(const wire::ThreadRecord& record, Visit visit) {
  const std::size_t waiting = std::min<std::size_t>(
      record.waiting.load(std::memory_order_relaxed) & wire::kWaitingCount, wire::kMostWords);
  for (std::size_t i = 0; i < waiting; ++i) visit(i);
}

// Ends what threads wait for by themselves at an address for which the condition holds; error: a
// positive errno. Nobody can begin to wait there any more when it is called.
void end_threads(const channel::Channel& channel, int error,
                 const std::function<bool(Vaddr)>& condition);
// What they wait for is at another address now.
void move_threads(const channel::Channel& channel, const space::VaRange& from, Vaddr to);
// Of a process that is gone: hands its locks over, and wakes on that it may have swallowed. mapped:
// what it had, in order.
void settle_affairs(const channel::Channel& channel, const WordTable& words, SpaceId space,
                    const std::vector<space::Vma>& mapped);

}  // namespace faultline::wait
