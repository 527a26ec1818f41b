#include "daemon/wait/user_waits.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "daemon/wait/thread_records.hpp"

namespace faultline::wait {

Result<std::unique_ptr<UserWaits>> UserWaits::create(UnqueuedWaits& unqueued,
                                                     std::shared_ptr<kernel::EventSignal> signal) {
  auto lot = Lot::create();
  if (!lot) return propagate(lot);
  std::unique_ptr<UserWaits> made{new UserWaits(std::move(*lot))};  // a private constructor
  auto worker = WaitWorker::create(made->words_, unqueued, std::move(signal));
  if (!worker) return propagate(worker);
  made->worker_ = std::move(*worker);
  return made;
}

void UserWaits::enter(std::shared_ptr<Client> client) {
  worker_->serve(client);
  const std::lock_guard lock(mutex_);
  clients_.insert_or_assign(client->space_id, std::move(client));
}

void UserWaits::leave(const std::shared_ptr<Client>& client) {
  worker_->leave(client);
  // Its thread records are looked at when its address space ends, which may be later.
}

std::size_t UserWaits::client_count() const {
  const std::lock_guard lock(mutex_);
  return clients_.size();
}

std::shared_ptr<Client> UserWaits::client_of(SpaceId space) const {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(space);
  return found == clients_.end() ? nullptr : found->second;
}

PageCount UserWaits::page_parts(SpaceId space, const space::Vma& vma, PageIndex page) {
  const WordTable::Parted parted = words_.part(space, vma, page);
  if (!parted.moving.empty()) worker_->move(parted.moving);
  return parted.pages;
}

void UserWaits::unmapped(SpaceId space, const std::vector<space::Vma>& gone) {
  if (gone.empty()) return;
  for (const space::Vma& vma : gone) words_.drop(space, vma.start, vma.end, EFAULT);
  worker_->look_for_ended();
  if (const auto client = client_of(space)) {
    end_threads(*client->channel, EFAULT, [&](Vaddr address) {
      return std::ranges::any_of(gone, [&](const auto& vma) { return vma.contains(address); });
    });
  }
}

void UserWaits::moved(SpaceId space, const space::VaRange& from, Vaddr to,
                      const std::vector<space::Vma>& there) {
  const std::vector<Word*> moving = words_.move(space, from, to, there);
  if (!moving.empty()) worker_->move(moving);
  if (const auto client = client_of(space)) move_threads(*client->channel, from, to);
}

void UserWaits::discarded(SpaceId space, const space::Vma& piece) {
  const std::set<Vaddr> dropped = words_.discard(space, piece, ECANCELED);
  worker_->look_for_ended();
  // Who waits by itself for a private word has it in the table.
  if (const auto client = client_of(space); client && !dropped.empty()) {
    end_threads(*client->channel, ECANCELED,
                [&](Vaddr address) { return dropped.contains(address); });
  }
}

void UserWaits::carried_out(SpaceId /*space*/) {
  worker_->look_at_held();
}

void UserWaits::ended(SpaceId space, const std::vector<space::Vma>& mapped) {
  std::shared_ptr<Client> client;
  {
    const std::lock_guard lock(mutex_);
    if (auto node = clients_.extract(space)) client = std::move(node.mapped());
  }
  if (client) return worker_->bury(std::move(client), mapped);
  words_.drop_all(space, EOWNERDEAD);
  worker_->look_for_ended();
}

}  // namespace faultline::wait
