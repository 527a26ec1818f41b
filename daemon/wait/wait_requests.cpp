#include "daemon/wait/wait_requests.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

channel::Asker asker_of(const wire::Submission& asked) {
  return {asked.record, asked.request};
}

int at_most_int(std::uint64_t count) {
  return static_cast<int>(std::min<std::uint64_t>(count, INT_MAX));
}

// What a client of ours would never ask.
Status check_wait(const Client& client, const wire::Submission& asked) {
  if (asked.size > 3 || asked.address % BrokeredWait::bytes_of(asked.size) != 0) {
    return fail(EINVAL, "waiting for an unaligned word");
  }
  if (asked.mask == 0) return fail(EINVAL, "waiting for no bit");
  if (asked.delivery == wire::Delivery::record && asked.record == 0) {
    return fail(EINVAL, "waiting with a record that there is not");
  }
  if (client.waits.size() + client.told.size() >= Client::kMostWaits) {
    return fail(EUSERS, "waiting for more than " + std::to_string(Client::kMostWaits) +
                            " words at a time, or with so many completions that were not taken");
  }
  return {};
}

Status check(const Client& client, const wire::Submission& asked) {
  const bool known = asked.delivery == wire::Delivery::record ||
                     asked.delivery == wire::Delivery::queue ||
                     asked.delivery == wire::Delivery::target;
  if (!known || asked.record >= wire::kThreadRecords) {
    return fail(EINVAL, "carrying out a malformed request");
  }
  return asked.op == wire::ChannelOp::wait ? check_wait(client, asked) : Status{};
}

}  // namespace

void WaitRequests::attempt(const std::shared_ptr<Client>& client, const wire::Submission& asked) {
  if (client->closed) return;  // nobody waits for its answers, and its space may be going
  // What one thread asks is carried out in its order: the words of one wait, and its cancelling.
  const bool later = std::ranges::any_of(postponed_, [&](const Postponed& other) {
    return other.client == client && other.asked.record == asked.record;
  });
  if (later) return postponed_.push_back({client, asked});
  const auto done = carry_out(client, asked);
  if (done) return;
  if (done.error().code() == EBUSY) return postponed_.push_back({client, asked});
  client->channel->answer(asker_of(asked), {-done.error().code(), {}});
}

void WaitRequests::attempt_postponed() {
  std::vector<Postponed> again;
  again.swap(postponed_);
  for (const auto& [client, asked] : again) {
    if (!client->closed) attempt(client, asked);
  }
}

Status WaitRequests::carry_out(const std::shared_ptr<Client>& client,
                               const wire::Submission& asked) {
  if (auto checked = check(*client, asked); !checked) return checked;
  // Whoever is answered finds the waits that were asked for before in the kernel's queues.
  if (asked.op != wire::ChannelOp::wait) waits_.submit();
  const bool of_thread = asked.delivery == wire::Delivery::record;
  switch (asked.op) {
    case wire::ChannelOp::resolve:
      return resolve(*client, asked);
    case wire::ChannelOp::wake:
      return wake(*client, asked);
    case wire::ChannelOp::wait:
      return of_thread ? waits_.begin_of_thread(client, asked) : waits_.begin(client, asked);
    case wire::ChannelOp::cancel:
      return asked.count == 0 ? waits_.cancel_of_thread(client, asked)
                              : waits_.cancel(client, asked);
    case wire::ChannelOp::requeue:
      return requeue(*client, asked);
    case wire::ChannelOp::pin:
      return pin(client, asked);
    default:
      return fail(EINVAL, "carrying out an unknown request");
  }
}

Status WaitRequests::resolve(const Client& client, const wire::Submission& asked) {
  const Vaddr address{asked.address};
  const space::VmaRef vma = client.vma_at(address);
  if (!vma) return fail(EFAULT, "looking up a word that is in no mapping");
  auto found = words_.find(client.space_id, *vma, address, nullptr,
                           [&] { return client.has(*vma, address); });
  if (!found) return propagate(found);
  const auto place = found->kind == WordKind::shared  ? wire::WordPlace::word
                     : found->kind == WordKind::clean ? wire::WordPlace::object
                                                      : wire::WordPlace::slot;
  channel::Answer answer;
  answer.values = {static_cast<std::uint64_t>(place) | (away(*vma, address) ? wire::kAway : 0),
                   found->slot.value(), found->generation};
  client.channel->answer(asker_of(asked), answer);
  return {};
}

Status WaitRequests::wake(const Client& client, const wire::Submission& asked) {
  const Vaddr address{asked.address};
  const space::VmaRef vma = client.vma_at(address);
  if (!vma) return fail(EFAULT, "waking at a word that is in no mapping");
  auto woken = wakes_.wake(client, *vma, address, at_most_int(asked.count), asked.mask, again_);
  if (!woken) return propagate(woken);
  client.channel->answer(asker_of(asked), {*woken, {}});
  return {};
}

Status WaitRequests::requeue(const Client& client, const wire::Submission& asked) {
  const Vaddr from{asked.address};
  const Vaddr to{asked.expected};
  const space::VmaRef source = client.vma_at(from);
  const space::VmaRef target = client.vma_at(to);
  if (!source || !target) return fail(EFAULT, "moving waiters from or to what is in no mapping");
  // All that can fail comes before anybody is woken.
  auto found =
      words_.find(client.space_id, *target, to, nullptr, [&] { return client.has(*target, to); });
  if (!found) return propagate(found);
  auto woken =
      wakes_.wake(client, *source, from, at_most_int(asked.count), kernel::kEveryBit, again_);
  if (!woken) return propagate(woken);
  const int moved =
      waits_.requeue(client.space_id, {*source, from}, {*target, to}, at_most_int(asked.user_data));
  client.channel->answer(asker_of(asked), {*woken + moved, {}});
  return {};
}

// The pins themselves are in the process's ledger; what it cannot do itself is to bring the pages.
Status WaitRequests::pin(const std::shared_ptr<Client>& client, const wire::Submission& asked) {
  const space::VaRange range{Vaddr{asked.address}, ByteCount{asked.expected}};
  const bool whole = kBasePage.aligned(asked.address) && kBasePage.aligned(asked.expected) &&
                     asked.expected != 0 && asked.address + asked.expected > asked.address;
  const std::uint32_t record = asked.record;
  if (!whole || record == 0 || (asked.flags & ~(wire::kPinForWriting | wire::kPinWritten)) != 0) {
    return fail(EINVAL, "carrying out a malformed request to pin");
  }
  const auto space = client->space.lock();
  if (!space || !space->covers(range)) return fail(EFAULT, "pinning what is not all mapped");
  if ((asked.flags & wire::kPinWritten) != 0) {
    space->settle(range);
    client->channel->answer(asker_of(asked), {});
    return {};
  }
  if (client->fetching.contains(record)) {
    return fail(EINVAL, "pinning in a thread that waits for pages already");
  }
  const auto ended = [client, asker = asker_of(asked)] {
    client->keeper->post([client, asker] {
      const auto fetch = client->fetching.extract(asker.record);
      if (fetch.empty()) return;  // it has left
      const space::PopulateProgress progress = fetch.mapped()->progress();
      client->channel->answer(asker, {-progress.error, {progress.failed.value(), 0, 0}});
    });
  };
  const bool write = (asked.flags & wire::kPinForWriting) != 0;
  client->fetching.emplace(
      record, space::RangePopulateJob::start(*client->home, space, range, write, ended));
  return {};
}

void WaitRequests::end_fetches(Client& client) {
  for (const auto& [record, job] : std::exchange(client.fetching, {})) job->cancel();
}

}  // namespace faultline::wait
