// The waits of one user's processes: their words, their worker, and what becomes of them when
// memory changes or a process dies. Must never hold a page's writer up longer than it takes to move
// the waits that hang on the page.
//
// What a death leaves to do, from what the dead process had written down in its thread records:
//   - Its locks (fl_robust_list): each word that still names the dead thread is marked, so that the
//     next owner learns of it, and one who waits is woken.
//   - A wake may have reached a thread that died before it ran. Whether it did nobody can tell, of
//   a
//     thread that waited by itself; so one other who waits for the same word is woken. A wait of
//     the daemon's is known to have been woken or not, and only a wake that was is handed on.
//
// Locking: mutex_ guards clients_; taken before the lock of the words, never after it. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/space/space_observer.hpp"
#include "daemon/wait/client.hpp"
#include "daemon/wait/wait_worker.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

class UserWaits final : public space::SpaceObserver {
 public:
  // Errors: as io_uring_setup(2); EMFILE; ENOMEM.
  static Result<std::unique_ptr<UserWaits>> create(UnqueuedWaits& unqueued,
                                                   std::shared_ptr<kernel::EventSignal> signal);

  void enter(std::shared_ptr<Client> client);
  void leave(const std::shared_ptr<Client>& client);
  [[nodiscard]] WordTable& words() { return words_; }
  [[nodiscard]] const WordTable& words() const { return words_; }
  [[nodiscard]] WaitWorker& worker() { return *worker_; }
  [[nodiscard]] const WaitWorker& worker() const { return *worker_; }
  [[nodiscard]] std::size_t client_count() const;
  // Null where the space has no channel.
  [[nodiscard]] std::shared_ptr<Client> client_of(SpaceId space) const;

  PageCount page_parts(SpaceId space, const space::Vma& vma, PageIndex page) override;
  void unmapped(SpaceId space, const std::vector<space::Vma>& gone) override;
  void moved(SpaceId space, const space::VaRange& from, Vaddr to,
             const std::vector<space::Vma>& there) override;
  void discarded(SpaceId space, const space::Vma& piece) override;
  void carried_out(SpaceId space) override;
  void ended(SpaceId space, const std::vector<space::Vma>& mapped) override;

 private:
  explicit UserWaits(Lot lot) : words_(std::move(lot)) {}

  WordTable words_;
  std::unique_ptr<WaitWorker> worker_;
  mutable std::mutex mutex_;
  std::map<SpaceId, std::shared_ptr<Client>> clients_;
};

}  // namespace faultline::wait
