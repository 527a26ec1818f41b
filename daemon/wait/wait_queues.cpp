#include "daemon/wait/wait_queues.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "daemon/kernel/membarrier.hpp"
#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

// What the kernel's 32 bits at the word hold, when the word holds what is expected, if anything is.
std::optional<std::uint32_t> container_with(const BrokeredWait& wait, std::uint64_t eight) {
  if (wait.requeued) return static_cast<std::uint32_t>(eight);
  // eight: the bytes from the container on. A smaller word lies in it, at its end at the latest.
  eight >>= 8 * (wait.address.value() % 4);
  const std::uint64_t bytes = wait.bytes();
  const std::uint64_t mask = bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * bytes) - 1;
  if ((eight & mask) != (wait.expected & mask)) return std::nullopt;
  return static_cast<std::uint32_t>(eight);
}

// There are no other hooks.
BrokeredWait& wait_of(WaitHook& hook) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-static-cast-downcast): see above
  return static_cast<BrokeredWait&>(hook);
}

}  // namespace

// --- in

Status WaitQueues::queue(BrokeredWait& wait) {
  const space::VmaRef vma = wait.client->vma_at(wait.address);
  if (!vma) return fail(EFAULT, "waiting for a word that is in no mapping");
  auto found = words_.find(wait.client->space_id, *vma, wait.address, &wait,
                           [&] { return wait.client->has(*vma, wait.address); });
  if (!found) return propagate(found);
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    return queue_at_object(wait, *vma);
  }
  return queue_at_slot(wait);
}

void WaitQueues::queue_again() {
  std::vector<BrokeredWait*> waits;
  waits.swap(requeued_);
  for (BrokeredWait* wait : waits) {
    if (wait->state == BrokeredWait::State::over) continue;
    const bool compared = wait->object == nullptr || wait->requeued;
    if (wait->reason != 0) {
      listener_.over(*wait, -wait->reason);
    } else if (auto queued = queue(*wait); queued) {
      // Its page has parted since the kernel refused it at the object's word, and with the page the
      // value went to where only the client sees it, who looks again.
      if (!compared && wait->object == nullptr) recall(*wait, EAGAIN);
    } else {
      (void)unhook(*wait);
      if (queued.error().code() == EBUSY) {
        requeued_.push_back(wait);
      } else {
        listener_.over(*wait, -queued.error().code());
      }
    }
  }
}

void WaitQueues::submit() {
  // Its client is about to look at the word's value, so none may be left behind. Each turn but the
  // first takes another change of the same word's place at this very moment.
  constexpr unsigned kMostTurns = 16;
  ring_.poll();
  for (unsigned turn = 0; turn < kMostTurns && !requeued_.empty(); ++turn) {
    queue_again();
    ring_.poll();
  }
}

Status WaitQueues::queue_at_object(BrokeredWait& wait, const space::Vma& vma) {
  uncount(wait);
  wait.object = vma.object;
  wait.offset = offset_in(vma, wait.address).value();
  if (vma.object->counted_waits()) {
    // Before the kernel looks at the value; faultline/wire/board.hpp says why it takes the barrier.
    wait.counted = true;
    vma.object->count_waiters(wire::wait_bucket(wait.offset), 1);
    kernel::membarrier_of_clients();
  }
  const PageIndex page = vma.page_at(wait.address);
  if (UnqueuedWaits::stays(wait.offset)) {
    wait.state = BrokeredWait::State::unqueued;
    (void)unqueued_.enter(wait, page);
    return {};
  }
  if (vma.object->pages().in_no_memory(page)) return keep_while_absent(wait, page);
  return compare_and_queue(wait);
}

Status WaitQueues::keep_while_absent(BrokeredWait& wait, PageIndex page) {
  wait.state = BrokeredWait::State::unqueued;
  if (!unqueued_.enter(wait, page)) return compare_and_queue(wait);
  glance_at(wait, *wait.object, ByteCount{wait.offset});
  return {};
}

Status WaitQueues::compare_and_queue(BrokeredWait& wait) {
  auto expected = std::optional{static_cast<std::uint32_t>(wait.expected)};
  if (wait.bytes() != 4 || wait.requeued) {
    const auto bytes = wait.object->peek(ByteCount{wait.offset});
    if (!bytes && wait.object->may_wait()) {
      // It is just leaving memory, or a client punched a hole: when that is over it is looked for
      // again.
      wait.object->bring_back(wait.object->page_size().index_of(ByteCount{wait.offset}),
                              [mailbox = mailbox_] { mailbox->post([] {}); });
      return fail(EBUSY, "looking at a word whose page is not in memory");
    }
    if (!bytes) return fail(EFAULT, "looking at a word of an object");
    expected = container_with(wait, *bytes);
    if (!expected) return fail(EAGAIN, "waiting for a word of another value");
  }
  wait.state = BrokeredWait::State::queued;
  ring_.futex_wait(wait, *wait.object->word(ByteCount{wait.offset}), *expected, wait.mask);
  return {};
}

void WaitQueues::uncount(BrokeredWait& wait) {
  if (!wait.counted) return;
  wait.counted = false;
  wait.object->count_waiters(wire::wait_bucket(wait.offset), -1);
}

Status WaitQueues::queue_at_slot(BrokeredWait& wait) {
  uncount(wait);
  wait.object.reset();
  std::uint32_t generation = 0;
  const kernel::FutexWord* const word = words_.slot_of(wait, generation);
  if (word == nullptr) return fail(EFAULT, "waiting for a word that is in no mapping any more");
  wait.state = BrokeredWait::State::queued;
  ring_.futex_wait(wait, *word, generation, wait.mask);
  return {};
}

void WaitQueues::page_came(BrokeredWait& wait) {
  // Its page parted before this was read, or it was moved to another word.
  if (wait.state != BrokeredWait::State::unqueued || !unqueued_.comes(wait)) return;
  if (wait.reason != 0) return listener_.over(wait, -wait.reason);
  auto queued = compare_and_queue(wait);
  if (queued) return;
  if (queued.error().code() != EBUSY) return listener_.over(wait, -queued.error().code());
  (void)unhook(wait);
  wait.state = BrokeredWait::State::queued;
  requeued_.push_back(&wait);
}

// --- the word's value

bool WaitQueues::kernel_compares(const BrokeredWait& wait) {
  return wait.object != nullptr && wait.bytes() != 8 && !UnqueuedWaits::stays(wait.offset);
}

bool WaitQueues::client_must_look(BrokeredWait& wait) {
  if (wait.state == BrokeredWait::State::unqueued && UnqueuedWaits::stays(wait.offset)) {
    const PageIndex page = wait.object->page_size().index_of(ByteCount{wait.offset});
    if (!wait.object->pages().in_no_memory(page)) return true;
    glance_at(wait, *wait.object, ByteCount{wait.offset});
    return false;
  }
  if (wait.state != BrokeredWait::State::queued) return false;
  if (wait.object != nullptr) return !kernel_compares(wait);
  const space::VmaRef vma = wait.client->vma_at(wait.address);
  if (!vma || !away(*vma, wait.address)) return true;
  // It is queued, so whoever stores there from now on, and wakes, finds it.
  glance_at(wait, *vma->object, offset_in(*vma, wait.address));
  return false;
}

void WaitQueues::glance_at(const BrokeredWait& wait, memory::MemoryObject& object,
                           ByteCount offset) {
  const auto tell = [this, id = wait.id, client = wait.client,
                     mailbox = mailbox_](const Result<std::uint64_t>& value) {
    mailbox->post([this, id, client, value] {
      const auto at = client->waits.find(id);
      if (at != client->waits.end()) seen(*at->second, value);
    });
  };
  object.glance(offset, tell);
}

void WaitQueues::seen(BrokeredWait& wait, const Result<std::uint64_t>& value) {
  if (value && container_with(wait, *value)) return;
  // Where it was queued at the object's word meanwhile, the kernel has compared.
  const bool compared = wait.state == BrokeredWait::State::queued && wait.object != nullptr;
  if (!compared) recall(wait, value ? EAGAIN : EFAULT);
}

// --- out

void WaitQueues::recall(BrokeredWait& wait, int reason) {
  if (wait.state == BrokeredWait::State::over || wait.state == BrokeredWait::State::delivering) {
    return;
  }
  if (wait.reason == 0) wait.reason = reason;
  if (wait.state == BrokeredWait::State::unqueued) {
    if (unqueued_.leave(wait)) listener_.over(wait, -wait.reason);
    return;  // otherwise it was woken, or its page comes: a letter says so
  }
  ring_.cancel(wait);
}

void WaitQueues::recall_ended() {
  for (WaitHook* hook : words_.take_ended()) recall(wait_of(*hook), hook->ended);
}

int WaitQueues::unhook(BrokeredWait& wait) {
  const WordTable::Unhooked was = words_.unhook(wait);
  if (was.hung) {
    wait.frame = was.frame;
    wait.in_page = was.in_page;
    // Who queues it again, or hands its wake on, looks where its memory is by now.
    if (was.address != Vaddr{}) wait.address = was.address;
  }
  return was.ended;
}

void WaitQueues::left(BrokeredWait& wait, int result) {
  if (result == 0) return listener_.over(wait, 0);
  if (result == -ECANCELED && wait.reason == 0 && wait.state == BrokeredWait::State::recalled) {
    return;  // who recalled it queues it again
  }
  if (const int ended = unhook(wait); ended != 0) return listener_.over(wait, -ended);
  if (wait.reason != 0) return listener_.over(wait, -wait.reason);
  const bool at_slot = wait.object == nullptr;
  const bool other_bits = !at_slot && (wait.bytes() < 4 || wait.requeued);
  // At a slot: it has another generation, the word is waited for elsewhere. Of a smaller word: the
  // bytes beside it may have changed alone. A page that went: it is looked for again.
  if ((result == -EAGAIN && (at_slot || other_bits)) || result == -EFAULT || result == -EINTR) {
    // Also where it was recalled at the same time: who did that has not taken it out of a queue,
    // and must not put it into one besides.
    wait.state = BrokeredWait::State::queued;
    requeued_.push_back(&wait);
    return;
  }
  listener_.over(wait, result);
}

bool WaitQueues::begin_to_take_out(BrokeredWait& wait) {
  const bool unqueued = wait.state == BrokeredWait::State::unqueued;
  if (!unqueued && wait.state != BrokeredWait::State::queued) return false;
  // It was woken: a letter says so.
  if (unqueued && !unqueued_.leave(wait) && !unqueued_.comes(wait)) return false;
  wait.state = BrokeredWait::State::recalled;
  ring_.cancel(wait);
  return true;
}

bool WaitQueues::taken_out(BrokeredWait& wait) {
  // To cancel a wait takes the kernel no longer than to carry the request out.
  while (wait.in_flight()) ring_.poll();
  // Woken before it was recalled, or cancelled for another reason besides.
  if (wait.state != BrokeredWait::State::recalled) return false;
  if (wait.reason == 0) return true;
  listener_.over(wait, -wait.reason);
  return false;
}

int WaitQueues::requeue(SpaceId space, const Place& from, const Place& to, int count) {
  int moved = 0;
  for (WaitHook* hook : words_.hooks_of(space, from.address)) {
    BrokeredWait& wait = wait_of(*hook);
    if (moved == count) break;
    if (from.address == to.address) {
      // Who is there already stays: taken out for a moment it could miss a wake.
      if (wait.state == BrokeredWait::State::unqueued) ++moved;
      continue;
    }
    if (!begin_to_take_out(wait) || !taken_out(wait)) continue;
    ++moved;
    (void)unhook(wait);
    wait.address = to.address;
    wait.requeued = true;
    requeued_.push_back(&wait);
  }
  submit();
  const auto queue_of = [](const Place& place) {
    return WordTable::Queue{place.address,
                            place.vma.object->word(offset_in(place.vma, place.address))};
  };
  // Of those whom the kernel moves nobody knows whom it moved, and so when to count them no more.
  // Counted before they are there.
  const bool counts = to.vma.object->counted_waits() && words_.group(space, to.address).empty();
  const std::size_t bucket = wire::wait_bucket(offset_in(to.vma, to.address).value());
  if (counts) to.vma.object->count_waiters(bucket, 1);
  const int rest = words_.requeue(space, queue_of(from), queue_of(to), count - moved);
  if (counts && rest > 0 && from.address != to.address) to.vma.object->count_for_good(bucket);
  if (counts) to.vma.object->count_waiters(bucket, -1);
  return moved + rest;
}

void WaitQueues::move(const std::vector<Word*>& words) {
  std::vector<BrokeredWait*> recalled;
  for (const Word* word : words) {
    for (WaitHook* hook : words_.hooks_of(*word)) {
      BrokeredWait& wait = wait_of(*hook);
      if (begin_to_take_out(wait)) recalled.push_back(&wait);
    }
  }
  for (BrokeredWait* wait : recalled) {
    if (!taken_out(*wait)) continue;
    if (auto queued = queue_at_slot(*wait); !queued) {
      const int ended = unhook(*wait);  // why, where its word was dropped meanwhile
      listener_.over(*wait, -(ended != 0 ? ended : queued.error().code()));
    }
  }
  ring_.submit();
  words_.settle(words);
}

}  // namespace faultline::wait
