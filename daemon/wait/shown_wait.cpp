#include "daemon/wait/shown_wait.hpp"

#include <algorithm>
#include <utility>

#include "daemon/wait/brokered_wait.hpp"
#include "daemon/wait/client.hpp"
#include "daemon/wait/thread_records.hpp"
#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

wire::WordKey key_of(SpaceId space, const space::Vma& vma, const WordTable::Shown& word) {
  switch (word.kind) {
    case WordKind::own:
      return {wire::KeyKind::space, 0, space.value(), word.address.value()};
    case WordKind::frame:
      return {wire::KeyKind::frame, 0, word.frame.value(), in_page(vma, word.address)};
    case WordKind::shared:
    case WordKind::clean:
      break;
  }
  return {wire::KeyKind::object, 0, vma.object->id().value(), offset_in(vma, word.address).value()};
}

// A word that nobody has looked up, but that a thread says it waits for.
WordTable::Shown as_mapped(const space::Vma& vma, Vaddr address) {
  if (vma.sharing == space::Sharing::shared) return {address, WordKind::shared, {}};
  if (!vma.activity->by_page()) return {address, WordKind::own, {}};
  const space::FrameId frame = vma.activity->identity(vma.page_at(address));
  return {address, frame == space::FrameId{} ? WordKind::clean : WordKind::frame, frame};
}

ToldBy told_by(const BrokeredWait& wait) {
  switch (wait.delivery) {
    case wire::Delivery::record:
      return ToldBy::thread;
    case wire::Delivery::queue:
      return ToldBy::queue;
    case wire::Delivery::target:
      break;
  }
  return wait.target->kind == Target::Kind::eventfd ? ToldBy::eventfd : ToldBy::ring;
}

// What is written down of a wait under the lock, without a look at the memory it is in.
struct Kept {
  WordTable::Shown word;
  std::int64_t since = 0;
  ToldBy told_by{};
  std::uint32_t record = 0;
};

}  // namespace

ShownWaits waits_of(const Client& client, const WordTable& words, std::size_t most) {
  ShownWaits shown;
  const auto space = client.space.lock();
  if (!space) return shown;
  const auto show = [&](const WordTable::Shown& word, ShownWait wait) {
    const space::VmaRef vma = space->find(word.address);
    if (!vma) return;  // unmapped meanwhile, or never mapped
    wait.key = key_of(client.space_id, *vma, word);
    wait.address = word.address;
    wait.object = vma->object;
    shown.waits.push_back(std::move(wait));
  };

  std::vector<Kept> kept;
  words.each_hook(client.space_id, [&](const WordTable::Shown& word, const WaitHook& hook) {
    if (kept.size() == most) {
      ++shown.left_out;
      return;
    }
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-static-cast-downcast): a hook is nothing else
    const auto& wait = static_cast<const BrokeredWait&>(hook);
    kept.push_back({word, wait.since, told_by(wait), wait.record});
  });
  for (const Kept& wait : kept) {
    ShownWait one;
    one.since = std::chrono::nanoseconds(wait.since);
    one.told_by = wait.told_by;
    if (wait.told_by == ToldBy::thread) {
      one.thread = client.channel->record(wait.record).tid.load(std::memory_order_relaxed);
    }
    show(wait.word, std::move(one));
  }

  client.channel->each_record([&](const wire::ThreadRecord& record) {
    // What it asked the daemon for is among the above.
    if ((record.waiting.load(std::memory_order_acquire) & wire::kWaitingAsked) != 0) return;
    each_word(record.waiting.load(std::memory_order_acquire), [&](std::size_t i) {
      if (shown.waits.size() >= most) {
        ++shown.left_out;
        return;
      }
      const Vaddr address{record.words[i].load(std::memory_order_relaxed)};
      auto word = words.show(client.space_id, address);
      if (!word) {
        const space::VmaRef vma = space->find(address);
        if (!vma) return;
        word = as_mapped(*vma, address);
      }
      ShownWait one;
      one.since = std::chrono::nanoseconds(
          static_cast<std::int64_t>(record.since.load(std::memory_order_relaxed)));
      one.thread = record.tid.load(std::memory_order_relaxed);
      show(*word, std::move(one));
    });
  });
  return shown;
}

}  // namespace faultline::wait
