#include "daemon/wait/wait_worker.hpp"

#include <pthread.h>
#include <sched.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <future>
#include <optional>

#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/membarrier.hpp"
#include "daemon/kernel/signals.hpp"
#include "daemon/wait/thread_records.hpp"

namespace faultline::wait {

namespace {

constexpr unsigned kRingEntries = 4096;
constexpr unsigned kRingCompletions = 32'768;
// Of one client, before the others have their turn.
constexpr unsigned kMostAtOnce = 256;

using channel::Answer;
using channel::Asker;

std::int64_t now_of(std::chrono::steady_clock::time_point time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

Asker asker_of(const wire::Submission& asked) {
  return {asked.record, asked.request};
}

std::uint64_t bytes_of(std::uint8_t size) {
  constexpr std::array<std::uint64_t, 4> kBytes{4, 1, 2, 8};
  return kBytes.at(size);
}

// What the kernel's 32 bits at the word hold, when the word holds what is expected.
std::optional<std::uint32_t> container_with(const BrokeredWait& wait, std::uint64_t eight) {
  // eight: the bytes from the container on. A smaller word lies in it, at its end at the latest.
  eight >>= 8 * (wait.address.value() % 4);
  const std::uint64_t bytes = bytes_of(wait.size);
  const std::uint64_t mask = bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * bytes) - 1;
  if ((eight & mask) != (wait.expected & mask)) return std::nullopt;
  return static_cast<std::uint32_t>(eight);
}

// The daemon's own view of a word of an object. Four bytes that begin before it where it is smaller
// and not at their beginning never are: those words are waited for at slots.
const kernel::FutexWord* word_in(const space::Vma& vma, Vaddr address) {
  return vma.object->word(offset_in(vma, address));
}

// Whether the word's page is in no memory: neither private to the client, nor the object's.
bool away(const space::Vma& vma, Vaddr address) {
  const PageIndex page = vma.page_at(address);
  return vma.activity->broken(page, PageCount{1}) == PageCount{0} &&
         vma.object->pages().state(page) != memory::PageState::resident;
}

// There are no other hooks.
BrokeredWait& wait_of(WaitHook& hook) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-static-cast-downcast): see above
  return static_cast<BrokeredWait&>(hook);
}

}  // namespace

// --- the thread

Result<std::unique_ptr<WaitWorker>> WaitWorker::create(
    WordTable& words, AbsentWaits& absent, std::shared_ptr<kernel::EventSignal> signal) {
  auto ring = kernel::Ring::create(kRingEntries, kRingCompletions);
  if (!ring) return propagate(ring);
  auto mailbox = kernel::Mailbox::create();
  if (!mailbox) return propagate(mailbox);
  std::unique_ptr<WaitWorker> worker{
      new WaitWorker(words, absent, std::move(*ring), std::move(*mailbox), std::move(signal))};
  const kernel::SignalsBlocked none_for_it;
  worker->thread_ = std::thread([self = worker.get()] { self->run(); });
  return worker;
}

WaitWorker::WaitWorker(WordTable& words, AbsentWaits& absent, std::unique_ptr<kernel::Ring> ring,
                       std::shared_ptr<kernel::Mailbox> mailbox,
                       std::shared_ptr<kernel::EventSignal> signal)
    : words_(words),
      absent_(absent),
      ring_(std::move(ring)),
      mailbox_(std::move(mailbox)),
      signal_(std::move(signal)) {}

WaitWorker::~WaitWorker() {
  post([this] { stopping_ = true; });
  if (thread_.joinable()) thread_.join();
}

void WaitWorker::read_mail() {
  ring_->read(mail_, mailbox_->event_fd(), std::as_writable_bytes(std::span(&mail_count_, 1)), -1);
}

void WaitWorker::run() {
  ::pthread_setname_np(::pthread_self(), "wait");
  if (auto owned = ring_->own(); !owned) {
    spdlog::critical("wait worker: {}", owned.error().message());
    std::abort();
  }
  read_mail();
  while (!stopping_) {
    // What completed while it attended to something else is attended to before it sleeps.
    if (mail_.raised() || timer_.raised() || !rung_.empty() || linger()) {
      ring_->poll();
    } else if (auto waited = ring_->wait(); !waited) {
      spdlog::critical("wait worker: {}", waited.error().message());
      std::abort();
    }
    attend();
  }
  mailbox_->close();
  for (auto& [client, doorbell] : doorbells_) {
    Client& leaving = *doorbell->client();
    leaving.closed = true;
    end_waits_of(leaving, ECANCELED);
    ring_->cancel(*doorbell);
  }
  ring_->cancel(mail_);
  ring_->cancel(timer_);
  while (ring_->in_flight() > 0 && ring_->wait()) {
  }
}

void WaitWorker::attend() {
  if (mail_.take()) {
    read_mail();
    for (kernel::Mailbox::Letter& letter : mailbox_->take()) letter();
  }
  std::vector<Doorbell*> rung;
  rung.swap(rung_);
  for (Doorbell* doorbell : rung) {
    doorbell->looking();
    const std::shared_ptr<Client> client = doorbell->client();
    if (client->closed) {
      // Where its read is still under way, that ends, and it is looked at once more.
      if (!doorbell->in_flight()) doorbells_.erase(client.get());
      continue;
    }
    look_at(client);
    if (!doorbell->in_flight()) doorbell->listen();
  }
  queue_again();
  std::vector<Request> again;
  again.swap(postponed_);
  for (const Request& request : again) {
    if (!request.client->closed) attempt(request);
  }
  if (timer_.take()) {
    end_those_out_of_time();
    std::vector<BrokeredWait*> unsent;
    unsent.swap(undelivered_);
    for (BrokeredWait* wait : unsent) send(*wait);
  }
  for (const auto& client : to_be_told_) client->channel->announce();
  to_be_told_.clear();
  set_timer();
  finished_.clear();
}

void WaitWorker::Doorbell::listen() {
  worker_.ring_->read(*this, client_->channel->doorbell_fd(),
                      std::as_writable_bytes(std::span(&count_, 1)), -1);
}

// --- clients

void WaitWorker::serve(std::shared_ptr<Client> client) {
  post([this, client = std::move(client)] {
    auto doorbell = std::make_unique<Doorbell>(*this, client);
    doorbell->listen();
    doorbells_.emplace(client.get(), std::move(doorbell));
  });
}

void WaitWorker::leave(std::shared_ptr<Client> client) {
  post([this, client = std::move(client)] { leave_now(client); });
}

void WaitWorker::leave_now(const std::shared_ptr<Client>& client) {
  client->closed = true;
  end_waits_of(*client, ECANCELED);
  std::erase_if(threads_, [&](const auto& any) { return any.first.first == client.get(); });
  const auto doorbell = doorbells_.find(client.get());
  if (doorbell == doorbells_.end()) return;
  ring_->cancel(*doorbell->second);
  doorbell->second->look_soon();  // which erases it
}

void WaitWorker::bury(std::shared_ptr<Client> client, std::vector<space::Vma> mapped) {
  // Where there is no worker any more there is nobody whom it could wake.
  post(
      [this, client = std::move(client), mapped = std::move(mapped)] { bury_now(client, mapped); });
}

void WaitWorker::bury_now(const std::shared_ptr<Client>& client,
                          const std::vector<space::Vma>& mapped) {
  // In this order: what is woken until its waits have left the kernel's queues is either written
  // into its records, and found there below, or handed on at once.
  leave_now(client);
  const auto queued = [](const auto& wait) {
    return wait.second->in_flight() && wait.second->state != BrokeredWait::State::delivering;
  };
  while (std::ranges::any_of(client->waits, queued)) ring_->poll();
  settle_affairs(*client->channel, mapped, [&](const space::Vma& vma, Vaddr address) {
    (void)wake_word(client->space_id, vma, address, 1, kernel::kEveryBit);
  });
  words_.drop_all(client->space_id, EOWNERDEAD);
  recall_ended();
}

void WaitWorker::look_at(const std::shared_ptr<Client>& client) {
  channel::Channel& channel = *client->channel;
  channel.wake_up();
  if (std::ranges::find(awake_, client) == awake_.end()) awake_.push_back(client);
  channel.make_use_of_room();
  to_be_told_.push_back(client);
  unsigned taken = 0;
  // Of one that asks without an end the others come in between.
  for (; taken < kMostAtOnce; ++taken) {
    const auto asked = channel.take();
    if (!asked) break;
    attempt({client, *asked});
  }
  if (taken == 0) return;
  const auto now = std::chrono::steady_clock::now();
  in_burst_ = now - asked_at_ < kLinger;
  asked_at_ = now;
}

bool WaitWorker::linger() {
  while (!awake_.empty()) {
    const bool stay = in_burst_ && std::chrono::steady_clock::now() - asked_at_ < kLinger;
    if (stay) {
      ring_->submit();
      // Whoever was just answered may have the next request.
      ::sched_yield();
    }
    bool more = ring_->ready();
    std::vector<std::shared_ptr<Client>> awake;
    awake.swap(awake_);
    for (const auto& client : awake) {
      if (client->closed) continue;
      if (client->channel->has_submissions()) {
        look_at(client);
        more = true;
      } else if (stay || !client->channel->sleep()) {
        awake_.push_back(client);
      }
    }
    if (more) return true;
  }
  return false;
}

// What a client of ours would never ask.
Status WaitWorker::check(const Request& request) const {
  const wire::Submission& asked = request.asked;
  const bool known = asked.delivery == wire::Delivery::record ||
                     asked.delivery == wire::Delivery::queue ||
                     asked.delivery == wire::Delivery::target;
  if (!known || asked.record >= wire::kThreadRecords) {
    return fail(EINVAL, "carrying out a malformed request");
  }
  if (asked.op != wire::ChannelOp::wait) return {};
  if (asked.size > 3 || asked.address % bytes_of(static_cast<std::uint8_t>(asked.size)) != 0) {
    return fail(EINVAL, "waiting for an unaligned word");
  }
  if (asked.mask == 0) return fail(EINVAL, "waiting for no bit");
  if (asked.delivery == wire::Delivery::record && asked.record == 0) {
    return fail(EINVAL, "waiting with a record that there is not");
  }
  if (request.client->waits.size() + request.client->told.size() >= Client::kMostWaits) {
    return fail(EUSERS, "waiting for more than " + std::to_string(Client::kMostWaits) +
                            " words at a time, or with so many completions that were not taken");
  }
  return {};
}

void WaitWorker::attempt(const Request& request) {
  // What one thread asks is carried out in its order: the words of one wait, and its cancelling.
  const bool later = std::ranges::any_of(postponed_, [&](const Request& other) {
    return other.client == request.client && other.asked.record == request.asked.record;
  });
  if (later) return postponed_.push_back(request);
  auto done = carry_out(request);
  if (done) return;
  if (done.error().code() == EBUSY) return postponed_.push_back(request);
  request.client->channel->answer(asker_of(request.asked), {-done.error().code(), {}});
}

Status WaitWorker::carry_out(const Request& request) {
  if (auto checked = check(request); !checked) return checked;
  // Whoever is answered finds the waits that were asked for before in the kernel's queues.
  if (request.asked.op != wire::ChannelOp::wait) ring_->submit();
  switch (request.asked.op) {
    case wire::ChannelOp::resolve:
      return resolve(request);
    case wire::ChannelOp::wake:
      return wake(request);
    case wire::ChannelOp::wait:
      return request.asked.delivery == wire::Delivery::record ? wait_for_any(request)
                                                              : wait(request);
    case wire::ChannelOp::cancel:
      return cancel(request);
    case wire::ChannelOp::requeue:
      return requeue(request);
    default:
      return fail(EINVAL, "carrying out an unknown request");
  }
}

space::VmaRef WaitWorker::vma_at(const Client& client, Vaddr address) {
  const auto space = client.space.lock();
  return space ? space->find(address) : space::VmaRef{};
}

Status WaitWorker::resolve(const Request& request) {
  const Client& client = *request.client;
  const Vaddr address{request.asked.address};
  const space::VmaRef vma = vma_at(client, address);
  if (!vma) return fail(EFAULT, "looking up a word that is in no mapping");
  const auto found = words_.find(client.space_id, *vma, address);
  if (!found) return tl::unexpected<Error>(found.error());
  Answer answer;
  const auto place = found->kind == WordKind::shared  ? wire::WordPlace::word
                     : found->kind == WordKind::clean ? wire::WordPlace::object
                                                      : wire::WordPlace::slot;
  answer.values = {static_cast<std::uint64_t>(place) | (away(*vma, address) ? wire::kAway : 0),
                   found->slot.value(), found->generation};
  client.channel->answer(asker_of(request.asked), answer);
  return {};
}

int WaitWorker::wake_word(SpaceId space, const space::Vma& vma, Vaddr address, int count,
                          std::uint32_t mask) {
  const auto found = words_.find(space, vma, address);
  if (!found) return -found.error().code();
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    return absent_.wake_at_object(*vma.object, offset_in(vma, address), count, mask);
  }
  int woken = 0;
  for (const kernel::FutexWord* word : words_.group(space, address)) {
    if (woken == count) break;
    woken += std::max(kernel::futex_wake_shared(*word, count - woken, mask), 0);
  }
  return woken;
}

Status WaitWorker::wake(const Request& request) {
  const Client& client = *request.client;
  const Vaddr address{request.asked.address};
  const space::VmaRef vma = vma_at(client, address);
  if (!vma) return fail(EFAULT, "waking at a word that is in no mapping");
  const int woken =
      wake_word(client.space_id, *vma, address,
                static_cast<int>(std::min<std::uint32_t>(request.asked.count, INT32_MAX)),
                request.asked.mask);
  if (woken < 0) return fail(-woken, "waking at a word");
  client.channel->answer(asker_of(request.asked), {woken, {}});
  return {};
}

Status WaitWorker::requeue(const Request& request) {
  const Client& client = *request.client;
  const wire::Submission& asked = request.asked;
  const Vaddr from{asked.address};
  const Vaddr to{asked.expected};
  const space::VmaRef source = vma_at(client, from);
  const space::VmaRef target = vma_at(client, to);
  if (!source || !target) return fail(EFAULT, "moving waiters from or to what is in no mapping");
  const auto queue_of = [&](const space::Vma& vma,
                            Vaddr address) -> Result<const kernel::FutexWord*> {
    const auto found = words_.find(client.space_id, vma, address);
    if (!found) return tl::unexpected<Error>(found.error());
    const bool at_object = found->kind == WordKind::shared || found->kind == WordKind::clean;
    return at_object ? word_in(vma, address) : &words_.futex(found->slot);
  };
  const auto there = queue_of(*target, to);
  if (!there) return tl::unexpected<Error>(there.error());
  const auto here = queue_of(*source, from);
  if (!here) return tl::unexpected<Error>(here.error());
  std::vector<const kernel::FutexWord*> queues = words_.group(client.space_id, from);
  if (queues.empty()) queues.push_back(*here);
  int wake = static_cast<int>(std::min<std::uint32_t>(asked.count, INT32_MAX));
  int move = static_cast<int>(std::min<std::uint64_t>(asked.user_data, INT32_MAX));
  int done = 0;
  for (const kernel::FutexWord* queue : queues) {
    const int woken = wake == 0 ? 0 : std::max(kernel::futex_wake_shared(*queue, wake), 0);
    const int moved =
        move == 0 ? 0 : std::max(kernel::futex_requeue_shared(*queue, 0, move, **there), 0);
    wake -= woken;
    move -= moved;
    done += woken + moved;
  }
  client.channel->answer(asker_of(asked), {done, {}});
  return {};
}

// --- waits begin

BrokeredWait& WaitWorker::add(const std::shared_ptr<Client>& client,
                              const wire::Submission& asked) {
  auto made = std::make_unique<BrokeredWait>(client, asked);
  do {
    ++client->last_id;
  } while (client->last_id == 0 || client->waits.contains(client->last_id));
  made->id = client->last_id;
  made->since = now_of(std::chrono::steady_clock::now());
  return *client->waits.emplace(made->id, std::move(made)).first->second;
}

Status WaitWorker::queue(BrokeredWait& wait) {
  const space::VmaRef vma = vma_at(*wait.client, wait.address);
  if (!vma) return fail(EFAULT, "waiting for a word that is in no mapping");
  const auto found = words_.find(wait.client->space_id, *vma, wait.address, &wait);
  if (!found) return tl::unexpected<Error>(found.error());
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    return queue_at_object(wait, *vma);
  }
  return queue_at_slot(wait);
}

void WaitWorker::queue_again() {
  std::vector<BrokeredWait*> waits;
  waits.swap(requeued_);
  for (BrokeredWait* wait : waits) {
    if (wait->state == BrokeredWait::State::over) continue;
    if (wait->reason != 0) {
      over(*wait, -wait->reason);
    } else if (auto queued = queue(*wait); !queued) {
      (void)unhook(*wait);
      if (queued.error().code() == EBUSY) {
        requeued_.push_back(wait);
      } else {
        over(*wait, -queued.error().code());
      }
    }
  }
}

void WaitWorker::submit_waits() {
  // Its client is about to look at the word's value, so none may be left behind. Each turn but the
  // first takes another change of the same word's place at this very moment.
  constexpr unsigned kMostTurns = 16;
  ring_->poll();
  for (unsigned turn = 0; turn < kMostTurns && !requeued_.empty(); ++turn) {
    queue_again();
    ring_->poll();
  }
}

Status WaitWorker::queue_at_object(BrokeredWait& wait, const space::Vma& vma) {
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
  if (AbsentWaits::stays(wait.offset)) {
    wait.state = BrokeredWait::State::absent;
    (void)absent_.enter(wait, page);
    return {};
  }
  if (vma.object->pages().in_no_memory(page)) return queue_while_absent(wait, page);
  return compare_and_queue(wait);
}

Status WaitWorker::queue_while_absent(BrokeredWait& wait, PageIndex page) {
  wait.state = BrokeredWait::State::absent;
  if (!absent_.enter(wait, page)) return compare_and_queue(wait);
  glance_at(wait);
  return {};
}

void WaitWorker::glance_at(const BrokeredWait& wait) {
  wait.object->glance(ByteCount{wait.offset}, [this, id = wait.id, client = wait.client](
                                                  const Result<std::uint64_t>& value) {
    post([this, id, client, value] { seen_while_absent(id, client, value); });
  });
}

bool WaitWorker::client_must_look(BrokeredWait& wait) {
  if (wait.state == BrokeredWait::State::absent && AbsentWaits::stays(wait.offset)) {
    const PageIndex page = wait.object->page_size().index_of(ByteCount{wait.offset});
    if (!wait.object->pages().in_no_memory(page)) return true;
    glance_at(wait);
    return false;
  }
  if (wait.state != BrokeredWait::State::queued) return false;
  if (wait.object != nullptr) return bytes_of(wait.size) == 8;  // the kernel compared half of it
  const space::VmaRef vma = vma_at(*wait.client, wait.address);
  if (!vma || !away(*vma, wait.address)) return true;
  // It is queued, so whoever stores there from now on, and wakes, finds it.
  vma->object->glance(offset_in(*vma, wait.address), [this, id = wait.id, client = wait.client](
                                                         const Result<std::uint64_t>& value) {
    post([this, id, client, value] { seen_while_queued(id, client, value); });
  });
  return false;
}

void WaitWorker::seen_while_queued(std::uint32_t id, const std::shared_ptr<Client>& client,
                                   const Result<std::uint64_t>& value) {
  const auto at = client->waits.find(id);
  if (at == client->waits.end()) return;
  const bool fits = value && container_with(*at->second, *value);
  if (!fits) recall(*at->second, value ? EAGAIN : EFAULT);
}

void WaitWorker::seen_while_absent(std::uint32_t id, const std::shared_ptr<Client>& client,
                                   const Result<std::uint64_t>& value) {
  const auto at = client->waits.find(id);
  if (at == client->waits.end()) return;
  BrokeredWait& wait = *at->second;
  if (value && container_with(wait, *value)) return;
  // Where the page has come meanwhile, the kernel compares. Where it has parted, nobody does.
  const bool parted = wait.state == BrokeredWait::State::queued && wait.object == nullptr;
  if (wait.state == BrokeredWait::State::absent || parted) recall(wait, value ? EAGAIN : EFAULT);
}

void WaitWorker::page_came(const Client& client, std::uint32_t id) {
  const auto at = client.waits.find(id);
  if (at == client.waits.end()) return;
  BrokeredWait& wait = *at->second;
  if (wait.state != BrokeredWait::State::absent)
    return;  // its page has parted before this was read
  if (wait.reason != 0) return over(wait, -wait.reason);
  if (auto queued = compare_and_queue(wait); !queued) over(wait, -queued.error().code());
}

Status WaitWorker::compare_and_queue(BrokeredWait& wait) {
  auto expected = std::optional{static_cast<std::uint32_t>(wait.expected)};
  if (bytes_of(wait.size) != 4) {
    const auto bytes = wait.object->peek(ByteCount{wait.offset});
    if (!bytes) return fail(EFAULT, "looking at a word of an object");
    expected = container_with(wait, *bytes);
    if (!expected) return fail(EAGAIN, "waiting for a word of another value");
  }
  wait.state = BrokeredWait::State::queued;
  ring_->futex_wait(wait, *wait.object->word(ByteCount{wait.offset}), *expected, wait.mask);
  return {};
}

void WaitWorker::uncount(BrokeredWait& wait) {
  if (!std::exchange(wait.counted, false)) return;
  wait.object->count_waiters(wire::wait_bucket(wait.offset), -1);
}

Status WaitWorker::queue_at_slot(BrokeredWait& wait) {
  uncount(wait);
  wait.object.reset();
  std::uint32_t generation = 0;
  const kernel::FutexWord* const word = words_.slot_of(wait, generation);
  if (word == nullptr) return fail(EFAULT, "waiting for a word that is in no mapping any more");
  wait.state = BrokeredWait::State::queued;
  ring_->futex_wait(wait, *word, generation, wait.mask);
  return {};
}

Status WaitWorker::wait(const Request& request) {
  const auto& [client, asked] = request;
  std::shared_ptr<Target> target;
  if (asked.delivery != wire::Delivery::queue) {
    if (asked.target >= client->targets.size() || !client->targets[asked.target]) {
      return fail(EBADF, "waiting with a target that there is not");
    }
    target = client->targets[asked.target];
  }
  BrokeredWait& wait = add(client, asked);
  wait.target = std::move(target);
  wait.unannounced = true;
  auto queued = queue(wait);
  // The kernel has looked at the value when this returns.
  if (queued) submit_waits();
  wait.unannounced = false;
  const bool over_already = wait.state == BrokeredWait::State::over;
  if (queued && over_already && wait.outcome != 0) {
    queued = fail(-wait.outcome, "waiting for a word");
  }
  if (!queued) {
    (void)unhook(wait);
    wait.state = BrokeredWait::State::over;
    forget(wait);
    return queued;
  }
  const std::uint64_t look = client_must_look(wait) ? 1 : 0;
  client->channel->answer(asker_of(asked), {0, {wait.id, look, 0}});
  if (over_already) {
    send(wait);
  } else if (asked.until != 0) {
    // A time that there cannot be has passed.
    const bool real = asked.until <= static_cast<std::uint64_t>(INT64_MAX);
    wait.until = real ? static_cast<std::int64_t>(asked.until) : 1;
    deadlines_.emplace(wait.until, &wait);
  }
  return {};
}

Status WaitWorker::wait_for_any(const Request& request) {
  const auto& [client, asked] = request;
  const std::pair thread{client.get(), asked.record};
  Any& any = threads_[thread];
  if (any.request != asked.request) {
    // The thread has given up what it asked before, if anything is left of it.
    for (BrokeredWait* wait : std::exchange(any.waits, {})) recall(*wait, ECANCELED);
    any = Any{};
    any.request = asked.request;
  }
  if (any.told || any.words >= wire::kMostWords) return {};
  BrokeredWait& wait = add(client, asked);
  wait.index = any.words;
  if (auto queued = queue(wait); !queued) {
    (void)unhook(wait);
    wait.state = BrokeredWait::State::over;
    forget(wait);
    if (queued.error().code() == EBUSY) return queued;
    any.told = true;
    const std::vector<BrokeredWait*> others = any.waits;  // who is over leaves the list
    for (BrokeredWait* other : others) recall(*other, ECANCELED);
    return queued;
  }
  ++any.words;
  any.waits.push_back(&wait);
  if ((asked.flags & wire::kMoreWords) != 0) return {};
  // What the kernel compares by itself need not be queued before the thread sleeps.
  const bool by_kernel = std::ranges::all_of(any.waits, [](const BrokeredWait* each) {
    return each->object != nullptr && bytes_of(each->size) != 8 &&
           !AbsentWaits::stays(each->offset);
  });
  if (by_kernel) return {};
  submit_waits();
  const Any& still = threads_.at(thread);
  bool look = false;
  for (BrokeredWait* each : still.waits) look = client_must_look(*each) || look;
  if (look && !still.told) client->channel->arm(asker_of(asked));
  return {};
}

Status WaitWorker::cancel(const Request& request) {
  const auto& [client, asked] = request;
  if (asked.count == 0) {
    // Its answer, now or a moment later, is that of the wait.
    const auto thread = threads_.find({client.get(), asked.record});
    if (thread == threads_.end()) return {};
    // The kernel looks at a word's value before the time, also where that has passed already.
    submit_waits();
    const std::vector<BrokeredWait*> waits = thread->second.waits;
    for (BrokeredWait* wait : waits) recall(*wait, ECANCELED);
    return {};
  }
  const auto wait = client->waits.find(asked.count);
  const bool there = wait != client->waits.end() &&
                     wait->second->delivery != wire::Delivery::record &&
                     wait->second->state != BrokeredWait::State::over &&
                     wait->second->state != BrokeredWait::State::delivering;
  if (!there) return fail(ENOENT, "cancelling a wait that is over");
  BrokeredWait& cancelled = *wait->second;
  cancelled.taken_back = (asked.flags & wire::kTakeBack) != 0;
  recall(cancelled, ECANCELED);
  // Whoever knows that it is cancelled wakes it no more. The kernel takes no longer than to carry
  // the request out; what is over lives until the end of this turn.
  while (cancelled.state == BrokeredWait::State::queued && cancelled.in_flight()) ring_->poll();
  client->channel->answer(asker_of(asked), {0, {}});
  return {};
}

// --- waits end

void WaitWorker::recall(BrokeredWait& wait, int reason) {
  if (wait.state == BrokeredWait::State::over || wait.state == BrokeredWait::State::delivering) {
    return;
  }
  if (wait.reason == 0) wait.reason = reason;
  if (wait.state == BrokeredWait::State::absent) {
    if (absent_.leave(wait)) over(wait, -wait.reason);
    return;  // otherwise it was woken, or its page comes: a letter says so
  }
  ring_->cancel(wait);
}

void WaitWorker::left(BrokeredWait& wait, int result) {
  if (result == 0) return over(wait, 0);
  if (result == -ECANCELED && wait.reason == 0 && wait.state == BrokeredWait::State::recalled) {
    return;  // who recalled it queues it again
  }
  if (const int ended = unhook(wait); ended != 0) return over(wait, -ended);
  if (result == -ECANCELED) return over(wait, -(wait.reason != 0 ? wait.reason : ECANCELED));
  if (wait.reason != 0) return over(wait, -wait.reason);
  const bool at_slot = wait.object == nullptr;
  const bool other_bits = !at_slot && bytes_of(wait.size) < 4;
  // At a slot: it has another generation, the word is waited for elsewhere. Of a smaller word: the
  // bytes beside it may have changed alone. A page that went: it is looked for again.
  if ((result == -EAGAIN && (at_slot || other_bits)) || result == -EFAULT || result == -EINTR) {
    requeued_.push_back(&wait);
    return;
  }
  over(wait, result);
}

int WaitWorker::unhook(BrokeredWait& wait) {
  const WordTable::Unhooked was = words_.unhook(wait);
  if (was.hung) wait.frame = was.frame;
  return was.ended;
}

void WaitWorker::over(BrokeredWait& wait, int outcome) {
  (void)unhook(wait);
  wait.state = BrokeredWait::State::over;
  wait.outcome = outcome;
  if (wait.delivery == wire::Delivery::record) return tell_thread(wait, outcome);
  if (wait.taken_back) {
    if (outcome == 0) hand_on(Woken(wait));
    return forget(wait);
  }
  if (!wait.unannounced) send(wait);
}

void WaitWorker::tell_thread(BrokeredWait& wait, int outcome) {
  const auto thread = threads_.find({wait.client.get(), wait.record});
  const bool asked = thread != threads_.end() && thread->second.request == wait.request;
  if (asked) std::erase(thread->second.waits, &wait);
  if (!asked || thread->second.told) {
    if (outcome == 0) hand_on(Woken(wait));
    return forget(wait);
  }
  Any& any = thread->second;
  if (outcome != 0 && any.outcome == 0) {
    any.outcome = outcome;
    any.index = wait.index;
  }
  const std::vector<BrokeredWait*> others = any.waits;  // who is over leaves the list
  if (outcome == 0) {
    any.told = true;
    wait.client->channel->answer({wait.record, wait.request}, {0, {wait.index, 0, 0}});
  } else if (others.empty()) {
    any.told = true;
    wait.client->channel->answer({wait.record, wait.request}, {any.outcome, {any.index, 0, 0}});
  }
  // Where none was woken so far, one may be before it is cancelled: that counts.
  for (BrokeredWait* other : others) recall(*other, ECANCELED);
  forget(wait);
}

void WaitWorker::send(BrokeredWait& wait) {
  switch (wait.delivery) {
    case wire::Delivery::queue:
      wait.client->tell(wait);
      if (to_be_told_.empty() || to_be_told_.back() != wait.client) {
        to_be_told_.push_back(wait.client);
      }
      return forget(wait);
    case wire::Delivery::target:
      if (wait.target->kind == Target::Kind::eventfd) {
        if (auto done = signal_->signal(wait.target->fd); !done) {
          kernel::log_budget_of(wait.client->uid)
              .log(spdlog::level::err, "a client waits in vain: {}", done.error().message());
        }
        return forget(wait);
      }
      wait.state = BrokeredWait::State::delivering;
      ring_->message(wait, wait.target->fd.get(), wait.user_data, wait.outcome);
      return;
    case wire::Delivery::record:
      return;
  }
}

void WaitWorker::delivered(BrokeredWait& wait, int result) {
  wait.state = BrokeredWait::State::over;
  if (result == -EOVERFLOW || result == -ENOMEM || result == -EAGAIN) {
    undelivered_.push_back(&wait);
    return;
  }
  if (result < 0) {
    kernel::log_budget_of(wait.client->uid)
        .log(spdlog::level::err, "a completion for a client's io_uring is lost: {}",
             std::generic_category().message(-result));
    if (wait.outcome == 0) hand_on(Woken(wait));
  }
  forget(wait);
}

void WaitWorker::forget(BrokeredWait& wait) {
  uncount(wait);
  if (wait.until != 0) {
    const auto [first, last] = deadlines_.equal_range(wait.until);
    const auto at = std::find_if(first, last, [&](const auto& d) { return d.second == &wait; });
    if (at != last) deadlines_.erase(at);
  }
  // It may be its completion that runs.
  const auto at = wait.client->waits.find(wait.id);
  if (at == wait.client->waits.end()) return;
  finished_.push_back(std::move(at->second));
  wait.client->waits.erase(at);
}

void WaitWorker::hand_on(const Woken& woken) {
  if (woken.object != nullptr) {
    if (absent_.wake(*woken.object, woken.offset, 1, woken.mask) > 0) return;
    if (AbsentWaits::stays(woken.offset)) return;
    (void)kernel::futex_wake_shared(*woken.object->word(ByteCount{woken.offset}), 1, woken.mask);
    return;
  }
  const auto words = woken.frame != space::FrameId{}
                         ? words_.frame_group(woken.frame, woken.address)
                         : words_.group(woken.space, woken.address);
  for (const kernel::FutexWord* word : words) {
    if (kernel::futex_wake_shared(*word, 1, woken.mask) > 0) return;
  }
}

void WaitWorker::end_waits_of(Client& client, int reason) {
  // What it was told of and did not take is a wake for another.
  for (const Woken& woken : client.take_untaken()) hand_on(woken);
  std::vector<BrokeredWait*> undelivered;
  std::erase_if(undelivered_, [&](BrokeredWait* wait) {
    if (wait->client.get() != &client) return false;
    undelivered.push_back(wait);
    return true;
  });
  for (BrokeredWait* wait : undelivered) {
    if (wait->outcome == 0) hand_on(Woken(*wait));
    forget(*wait);
  }
  std::vector<BrokeredWait*> waits;
  for (const auto& [id, wait] : client.waits) waits.push_back(wait.get());
  for (BrokeredWait* wait : waits) {
    if (wait->state == BrokeredWait::State::over) continue;  // it is being delivered
    recall(*wait, reason);
  }
}

void WaitWorker::look_for_ended() {
  post([this] { recall_ended(); });
}

void WaitWorker::recall_ended() {
  for (WaitHook* hook : words_.take_ended()) recall(wait_of(*hook), hook->ended);
}

void WaitWorker::end_those_out_of_time() {
  const std::int64_t now = now_of(std::chrono::steady_clock::now());
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    BrokeredWait& wait = *deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    wait.until = 0;
    recall(wait, ETIMEDOUT);
  }
}

void WaitWorker::set_timer() {
  if (deadlines_.empty() && undelivered_.empty()) return;
  const std::int64_t now = now_of(std::chrono::steady_clock::now());
  std::int64_t at = deadlines_.empty() ? INT64_MAX : deadlines_.begin()->first;
  if (!undelivered_.empty()) {
    at = std::min(at, now + std::chrono::nanoseconds(kAgainAfter).count());
  }
  if (timer_.in_flight()) {
    // One that ends early comes back here; one that ends too late is cancelled, and does so too.
    if (timer_at_ > at) ring_->cancel(timer_);
    return;
  }
  timer_at_ = at;
  ring_->timeout(timer_, std::chrono::nanoseconds(std::max<std::int64_t>(at - now, 1)));
}

// --- a page parts

void WaitWorker::move(const std::vector<Word*>& words) {
  auto done = std::make_shared<std::promise<void>>();
  auto moved = done->get_future();
  const bool posted = post([this, &words, done] {
    move_now(words);
    done->set_value();
  });
  if (posted) {
    moved.wait();
  } else {
    words_.settle(words);
  }
}

void WaitWorker::move_now(const std::vector<Word*>& words) {
  std::vector<BrokeredWait*> recalled;
  for (const Word* word : words) {
    for (WaitHook* hook : words_.hooks_of(*word)) {
      BrokeredWait& wait = wait_of(*hook);
      if (wait.state == BrokeredWait::State::absent && !absent_.leave(wait) &&
          !absent_.comes(wait)) {
        continue;  // it was woken: a letter says so
      }
      if (wait.state != BrokeredWait::State::queued && wait.state != BrokeredWait::State::absent) {
        continue;
      }
      wait.state = BrokeredWait::State::recalled;
      ring_->cancel(wait);
      recalled.push_back(&wait);
    }
  }
  // To cancel a wait takes the kernel no longer than to carry the request out.
  const auto on_its_way = [](const BrokeredWait* wait) { return wait->in_flight(); };
  while (std::ranges::any_of(recalled, on_its_way)) ring_->poll();
  for (BrokeredWait* wait : recalled) {
    // Woken before it was recalled, or cancelled for another reason besides.
    if (wait->state != BrokeredWait::State::recalled) continue;
    if (wait->reason != 0) {
      over(*wait, -wait->reason);
    } else if (auto queued = queue_at_slot(*wait); !queued) {
      const int ended = unhook(*wait);  // why, where its word was dropped meanwhile
      over(*wait, -(ended != 0 ? ended : queued.error().code()));
    }
  }
  ring_->submit();
  words_.settle(words);
}

}  // namespace faultline::wait
