#include "libclient/fork.hpp"

#include <pthread.h>

#include <mutex>
#include <vector>

#include "libclient/pin_ledger.hpp"
#include "libclient/place.hpp"
#include "libclient/reading.hpp"
#include "libclient/thread_records.hpp"

namespace faultline::client {

namespace {

struct Connections {
  std::mutex mutex;
  std::vector<std::weak_ptr<Connection>> all;
  // Held from before a fork until after it, so that none goes away in between.
  std::vector<std::shared_ptr<Connection>> in_fork;
};

// Leaked on purpose: pthread_atfork hooks cannot be taken back, and run while static objects are
// destroyed.
Connections& connections() {
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a process has one list
  static auto* const instance = std::make_unique<Connections>().release();
  return *instance;
}

// A connection keeps its place in the list, so every fork takes the locks in the same order.
void before_fork() {
  Connections& all = connections();
  all.mutex.lock();
  for (const auto& weak : all.all) {
    if (auto connection = weak.lock()) all.in_fork.push_back(std::move(connection));
  }
  for (const auto& connection : all.in_fork) connection->before_fork();
  lock_thread_records();
  lock_pin_ledgers();
  lock_readers();
}

void after_fork(void (Connection::*hook)()) {
  Connections& all = connections();
  std::vector<std::shared_ptr<Connection>> held;
  held.swap(all.in_fork);
  for (const auto& connection : held) (*connection.*hook)();
  all.mutex.unlock();
  // held goes last: the end of a connection unmaps its page, which needs no lock.
}

void after_fork_in_parent() {
  unlock_readers();
  unlock_pin_ledgers();
  unlock_thread_records();
  after_fork(&Connection::after_fork_in_parent);
}
void after_fork_in_child() {
  // What a thread remembers is another process's: the same words are elsewhere here.
  places_changed();
  changes_under_way.store(0);  // those of threads that are not here
  forget_other_readers();
  unlock_readers();
  forget_pin_ledgers();
  unlock_pin_ledgers();
  forget_thread_records();
  unlock_thread_records();
  after_fork(&Connection::after_fork_in_child);
}

void install_hooks() {
  static const int result =
      ::pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
  if (result != 0) throw Failure(result, "pthread_atfork");
}

}  // namespace

std::shared_ptr<Connection> connection_to(const std::string& path) {
  install_hooks();
  Connections& all = connections();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.all, [](const auto& weak) { return weak.expired(); });
  for (const auto& weak : all.all) {
    auto connection = weak.lock();
    if (connection && connection->path() == path && !connection->broken()) return connection;
  }
  auto connection = Connection::open(path);
  // Which locks this process holds when it dies, every daemon is to know.
  if (thread_records_in_use()) (void)connection->channel();
  all.all.push_back(connection);
  return connection;
}

MyRecord& my_known_record() {
  MyRecord& mine = my_record();
  if (mine.known) return mine;
  // Those that are made later have it at once, see connection_to().
  for (const auto& connection : all_connections()) {
    if (!connection->broken()) (void)connection->channel();
  }
  mine.known = true;
  return mine;
}

std::vector<std::shared_ptr<Connection>> all_connections() {
  Connections& all = connections();
  const std::lock_guard lock(all.mutex);
  std::vector<std::shared_ptr<Connection>> open;
  for (const auto& weak : all.all) {
    if (auto connection = weak.lock()) open.push_back(std::move(connection));
  }
  return open;
}

}  // namespace faultline::client
