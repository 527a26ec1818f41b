#include "daemon/wait/wait_worker.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <future>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/signals.hpp"
#include "daemon/wait/thread_records.hpp"

namespace faultline::wait {

namespace {

constexpr unsigned kRingEntries = 4096;
constexpr unsigned kRingCompletions = 32'768;
// Of one client, before the others have their turn.
constexpr unsigned kMostAtOnce = 256;

using Clock = std::chrono::steady_clock;

}  // namespace

// --- the thread

Result<std::unique_ptr<WaitWorker>> WaitWorker::create(
    WordTable& words, UnqueuedWaits& unqueued, std::shared_ptr<kernel::EventSignal> signal) {
  auto ring = kernel::Ring::create(kRingEntries, kRingCompletions);
  if (!ring) return propagate(ring);
  auto mailbox = kernel::Mailbox::create();
  if (!mailbox) return propagate(mailbox);
  std::unique_ptr<WaitWorker> worker{
      new WaitWorker(words, unqueued, std::move(*ring), std::move(*mailbox), std::move(signal))};
  const kernel::SignalsBlocked none_for_it;
  worker->thread_ = std::thread([self = worker.get()] { self->run(); });
  return worker;
}

WaitWorker::WaitWorker(WordTable& words, UnqueuedWaits& unqueued,
                       std::unique_ptr<kernel::Ring> ring, std::shared_ptr<kernel::Mailbox> mailbox,
                       std::shared_ptr<kernel::EventSignal> signal)
    : words_(words),
      wakes_(words, unqueued),
      ring_(std::move(ring)),
      mailbox_(std::move(mailbox)),
      pulse_(std::make_shared<kernel::Pulse>(mailbox_, "wait worker")),
      waits_(words, unqueued, wakes_, *ring_, mailbox_, std::move(signal)),
      requests_(words, wakes_, waits_, [mailbox = mailbox_] { mailbox->post([] {}); }) {}

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
    log::critical("wait worker: {}", owned.error().message());
    std::abort();
  }
  pulse_->begin();
  read_mail();
  while (!stopping_) {
    // What completed while it attended to something else is attended to before it sleeps.
    if (mail_.raised() || timer_.raised() || !rung_.empty() || linger()) {
      ring_->poll();
    } else if (auto waited = ring_->wait(); !waited) {
      log::critical("wait worker: {}", waited.error().message());
      std::abort();
    }
    attend();
  }
  mailbox_->close();
  for (auto& [client, doorbell] : doorbells_) {
    Client& leaving = *doorbell->client();
    leaving.closed = true;
    waits_.end_all(leaving);
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
  answer_held();
  answer_rung();
  waits_.queue_again();
  requests_.attempt_postponed();
  if (timer_.take()) waits_.on_time(Clock::now());
  set_timer();
  waits_.end_turn();
}

void WaitWorker::set_timer() {
  const auto now = Clock::now();
  const auto at = waits_.next_time(now);
  if (!at) return;
  if (timer_.in_flight()) {
    // One that ends early comes back here; one that ends too late is cancelled, and does so too.
    if (timer_at_ > *at) ring_->cancel(timer_);
    return;
  }
  timer_at_ = *at;
  ring_->timeout(timer_, std::max(*at - now, KeptWaits::Time::duration{1}));
}

// --- requests

void WaitWorker::Doorbell::listen() {
  worker_.ring_->read(*this, client_->channel->doorbell_fd(),
                      std::as_writable_bytes(std::span(&count_, 1)), -1);
}

void WaitWorker::answer_rung() {
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
}

void WaitWorker::answer_held() {
  std::vector<Held> held;
  held.swap(held_);
  for (Held& each : held) {
    const std::shared_ptr<Client>& client = each.client;
    if (client->closed) continue;
    if (!client->reads->over(each.until)) {
      held_.push_back(std::move(each));
      continue;
    }
    client->held = false;
    requests_.attempt(client, each.asked);
    look_at(client);
  }
}

void WaitWorker::look_at(const std::shared_ptr<Client>& client) {
  if (client->held) return;  // it is looked at when its request no longer is
  channel::Channel& channel = *client->channel;
  channel.wake_up();
  if (std::ranges::find(awake_, client) == awake_.end()) awake_.push_back(client);
  channel.make_use_of_room();
  waits_.announce_to(client);
  unsigned taken = 0;
  // Of one that asks without an end the others come in between.
  for (; taken < kMostAtOnce; ++taken) {
    const auto asked = channel.take();
    if (!asked) break;
    // After it was taken: what its client knew of when it asked, it knows by release and acquire.
    if (const auto read = client->reads->await()) {
      client->held = true;
      held_.push_back({client, *asked, *read});
      break;
    }
    requests_.attempt(client, *asked);
  }
  if (taken == 0) return;
  const auto now = Clock::now();
  in_burst_ = now - asked_at_ < kLinger;
  asked_at_ = now;
}

bool WaitWorker::linger() {
  while (!awake_.empty()) {
    const bool stay = in_burst_ && Clock::now() - asked_at_ < kLinger;
    if (stay) {
      ring_->submit();
      // Whoever was just answered may have the next request.
      ::sched_yield();
    }
    bool more = ring_->ready();
    std::vector<std::shared_ptr<Client>> awake;
    awake.swap(awake_);
    for (const auto& client : awake) {
      if (client->closed || client->held) continue;
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

// --- letters

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
  waits_.end_all(*client);
  WaitRequests::end_fetches(*client);
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
  while (!KeptWaits::all_left(*client)) ring_->poll();
  settle_affairs(*client->channel, mapped, [&](const space::Vma& vma, Vaddr address) {
    wakes_.hand_on(client->space_id, vma, address);
  });
  words_.drop_all(client->space_id, EOWNERDEAD);
  waits_.recall_ended();
}

void WaitWorker::look_for_ended() {
  post([this] { waits_.recall_ended(); });
}

void WaitWorker::look_at_held() {
  post([] {});  // every letter makes it look
}

void WaitWorker::move(const std::vector<Word*>& words) {
  auto done = std::make_shared<std::promise<void>>();
  auto moved = done->get_future();
  const bool posted = post([this, &words, done] {
    waits_.move(words);
    done->set_value();
  });
  if (posted) {
    moved.wait();
  } else {
    words_.settle(words);
  }
}

}  // namespace faultline::wait
