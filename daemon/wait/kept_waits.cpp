#include "daemon/wait/kept_waits.hpp"

#include <algorithm>
#include <cerrno>

namespace faultline::wait {

namespace {

using channel::Asker;

std::int64_t nanoseconds_of(KeptWaits::Time time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

Asker asker_of(const wire::Submission& asked) {
  return {asked.record, asked.request};
}

}  // namespace

KeptWaits::KeptWaits(WordTable& words, UnqueuedWaits& unqueued, WordWakes& wakes,
                     kernel::Ring& ring, std::shared_ptr<kernel::Mailbox> mailbox,
                     std::shared_ptr<kernel::EventSignal> signal)
    : wakes_(wakes),
      ring_(ring),
      mailbox_(std::move(mailbox)),
      queues_(words, unqueued, ring, mailbox_, *this),
      deliveries_(ring, std::move(signal), wakes) {}

// --- waits begin

BrokeredWait& KeptWaits::add(const std::shared_ptr<Client>& client, const wire::Submission& asked) {
  auto made = std::make_unique<BrokeredWait>(client, asked);
  do {
    ++client->last_id;
  } while (client->last_id == 0 || client->waits.contains(client->last_id));
  made->id = client->last_id;
  tally_.begun();
  made->since = nanoseconds_of(std::chrono::steady_clock::now());
  return *client->waits.emplace(made->id, std::move(made)).first->second;
}

void KeptWaits::drop(BrokeredWait& wait, int error) {
  (void)queues_.unhook(wait);
  if (wait.state != BrokeredWait::State::over) tally_.ended(-error);
  wait.state = BrokeredWait::State::over;
  forget(wait);
}

Status KeptWaits::begin(const std::shared_ptr<Client>& client, const wire::Submission& asked) {
  std::shared_ptr<Target> target;
  if (asked.delivery == wire::Delivery::target) {
    if (asked.target >= client->targets.size() || !client->targets[asked.target]) {
      return fail(EBADF, "waiting with a target that there is not");
    }
    target = client->targets[asked.target];
  }
  BrokeredWait& wait = add(client, asked);
  wait.target = std::move(target);
  wait.unannounced = true;
  auto queued = queues_.queue(wait);
  // The kernel has looked at the value when this returns.
  if (queued) queues_.submit();
  wait.unannounced = false;
  const bool over_already = wait.state == BrokeredWait::State::over;
  if (queued && over_already && wait.outcome != 0) {
    queued = fail(-wait.outcome, "waiting for a word");
  }
  if (!queued) {
    drop(wait, queued.error().code());
    return queued;
  }
  const std::uint64_t look = queues_.client_must_look(wait) ? 1 : 0;
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

Status KeptWaits::begin_of_thread(const std::shared_ptr<Client>& client,
                                  const wire::Submission& asked) {
  Any& any = threads_[{client.get(), asked.record}];
  if (any.request != asked.request) {
    // The thread has given up what it asked before, if anything is left of it.
    for (BrokeredWait* wait : std::exchange(any.waits, {})) queues_.recall(*wait, ECANCELED);
    any = Any{};
    any.request = asked.request;
  }
  if (any.told || any.words >= wire::kMostWords) return {};
  BrokeredWait& wait = add(client, asked);
  wait.index = any.words;
  if (auto queued = queues_.queue(wait); !queued) {
    drop(wait, queued.error().code());
    if (queued.error().code() == EBUSY) return queued;
    any.told = true;
    const std::vector<BrokeredWait*> others = any.waits;  // who is over leaves the list
    for (BrokeredWait* other : others) queues_.recall(*other, ECANCELED);
    return queued;
  }
  ++any.words;
  any.waits.push_back(&wait);
  if ((asked.flags & wire::kMoreWords) != 0) return {};
  // What the kernel compares by itself need not be queued before the thread sleeps.
  const auto by_kernel = [](const BrokeredWait* each) {
    return WaitQueues::kernel_compares(*each);
  };
  if (std::ranges::all_of(any.waits, by_kernel)) return {};
  queues_.submit();
  bool look = false;
  for (BrokeredWait* each : any.waits) look = queues_.client_must_look(*each) || look;
  any.armed = look && !any.told;
  if (any.armed) client->channel->arm(asker_of(asked));
  return {};
}

// --- waits end

Status KeptWaits::cancel_of_thread(const std::shared_ptr<Client>& client,
                                   const wire::Submission& asked) {
  // Its answer, now or a moment later, is that of the wait.
  const auto thread = threads_.find({client.get(), asked.record});
  if (thread == threads_.end()) return {};
  // The kernel looks at a word's value before the time, also where that has passed already.
  queues_.submit();
  const std::vector<BrokeredWait*> waits = thread->second.waits;
  for (BrokeredWait* wait : waits) queues_.recall(*wait, ECANCELED);
  return {};
}

Status KeptWaits::cancel(const std::shared_ptr<Client>& client, const wire::Submission& asked) {
  const auto wait = client->waits.find(asked.count);
  const bool there = wait != client->waits.end() &&
                     wait->second->delivery != wire::Delivery::record &&
                     wait->second->state != BrokeredWait::State::over &&
                     wait->second->state != BrokeredWait::State::delivering;
  if (!there) return fail(ENOENT, "cancelling a wait that is over");
  BrokeredWait& cancelled = *wait->second;
  cancelled.taken_back = (asked.flags & wire::kTakeBack) != 0;
  queues_.recall(cancelled, ECANCELED);
  // Whoever knows that it is cancelled wakes it no more. The kernel takes no longer than to carry
  // the request out; what is over lives until the end of this turn.
  while (cancelled.state == BrokeredWait::State::queued && cancelled.in_flight()) ring_.poll();
  client->channel->answer(asker_of(asked), {0, {}});
  return {};
}

void KeptWaits::over(BrokeredWait& wait, int outcome) {
  (void)queues_.unhook(wait);
  // One that could not be delivered is over for the second time.
  const bool counted =
      wait.state == BrokeredWait::State::over || wait.state == BrokeredWait::State::delivering;
  if (!counted) tally_.ended(outcome);
  wait.state = BrokeredWait::State::over;
  wait.outcome = outcome;
  if (wait.delivery == wire::Delivery::record) return tell_thread(wait, outcome);
  // Nor is a client told that has gone, and whose completions were looked through.
  if (wait.taken_back || wait.client->closed) {
    if (outcome == 0) wakes_.hand_on(Woken(wait));
    return forget(wait);
  }
  if (!wait.unannounced) send(wait);
}

void KeptWaits::tell_thread(BrokeredWait& wait, int outcome) {
  const auto thread = threads_.find({wait.client.get(), wait.record});
  const bool asked = thread != threads_.end() && thread->second.request == wait.request;
  if (asked) std::erase(thread->second.waits, &wait);
  if (!asked || thread->second.told) {
    if (outcome == 0) wakes_.hand_on(Woken(wait));
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
    wait.client->channel->answer({wait.record, wait.request},
                                 {any.outcome, {any.index, any.armed ? 1U : 0U, 0}});
  }
  // Where none was woken so far, one may be before it is cancelled: that counts.
  for (BrokeredWait* other : others) queues_.recall(*other, ECANCELED);
  forget(wait);
}

void KeptWaits::send(BrokeredWait& wait) {
  if (deliveries_.send(wait)) forget(wait);
}

void KeptWaits::delivered(BrokeredWait& wait, int result) {
  if (wait.client->closed) return over(wait, wait.outcome);  // nobody takes it there any more
  if (deliveries_.delivered(wait, result)) forget(wait);
}

void KeptWaits::forget(BrokeredWait& wait) {
  WaitQueues::uncount(wait);
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

void KeptWaits::end_all(Client& client) {
  // What it was told of and did not take is a wake for another.
  for (const Woken& woken : client.take_untaken()) wakes_.hand_on(woken);
  for (BrokeredWait* wait : deliveries_.take_undelivered_of(client)) {
    if (wait->outcome == 0) wakes_.hand_on(Woken(*wait));
    forget(*wait);
  }
  std::vector<BrokeredWait*> waits;
  for (const auto& [id, wait] : client.waits) waits.push_back(wait.get());
  for (BrokeredWait* wait : waits) {
    if (wait->state == BrokeredWait::State::over) continue;  // it is being delivered
    queues_.recall(*wait, ECANCELED);
  }
  std::erase_if(threads_, [&](const auto& any) { return any.first.first == &client; });
}

bool KeptWaits::all_left(const Client& client) {
  return std::ranges::none_of(client.waits, [](const auto& wait) {
    return wait.second->in_flight() && wait.second->state != BrokeredWait::State::delivering;
  });
}

void KeptWaits::page_came(const Client& client, std::uint32_t id) {
  const auto at = client.waits.find(id);
  if (at != client.waits.end()) queues_.page_came(*at->second);
}

// --- time

void KeptWaits::on_time(Time now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= nanoseconds_of(now)) {
    BrokeredWait& wait = *deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    wait.until = 0;
    queues_.recall(wait, ETIMEDOUT);
  }
  for (BrokeredWait* wait : deliveries_.take_undelivered()) send(*wait);
}

std::optional<KeptWaits::Time> KeptWaits::next_time(Time now) const {
  std::optional<Time> next;
  if (!deadlines_.empty()) next = Time{std::chrono::nanoseconds(deadlines_.begin()->first)};
  if (!deliveries_.any_undelivered()) return next;
  return next ? std::min(*next, now + kAgainAfter) : now + kAgainAfter;
}

void KeptWaits::end_turn() {
  deliveries_.announce();
  finished_.clear();
}

}  // namespace faultline::wait
