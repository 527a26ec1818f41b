// This process's connection to one daemon: the control session, the userfaultfd handshake, the
// mappings, and what a fork does to them. Must never touch the beacon page in the process that made
// it, and never leave a lock held in a fork child.
//
// Life of a connection in a process:
//   1. open: hello, a userfaultfd made from the device that the daemon sent, attach_new. The daemon
//      owns the userfaultfd from then on; our copy is closed, so that it ends with the address
//      space alone.
//   2. A fork child inherits the object, but not the session: its socket is closed, and it attaches
//      to its own address space, which the daemon already serves, with its first call. It knows its
//      own by the beacon: a page that fork wipes (MADV_WIPEONFORK), so that the first look at it in
//      the child is a fault, which the daemon answers with that address space's cookie. Where the
//      kernel tells the daemon of no forks, the child starts anew and what it had open is stale.
//      Mappings of files stay behind in the parent; the child keeps their addresses, without
//      access.
//   3. broken: the daemon is gone, and hung up. Mappings stay; calls fail with EPIPE; the next
//      fl_connect makes a new one. A daemon that stops poisons what is only in a file. Fork does
//      not copy such marks (it copies no page tables that a fault can fill, kernel/mm/memory.c:
//      vma_needs_copy), so a child that is forked later gets SIGBUS from the whole mapping, where
//      the kernel would make up zeroes.
//
// Lock order: the list of connections (fork.cpp), then mutex_, then those of the mappings and of
// the channel, then that of the thread records. A fork takes them all, so that the child finds them
// free and the state whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "libclient/channel.hpp"
#include "libclient/control.hpp"
#include "libclient/mappings.hpp"
#include "libclient/pin_ledger.hpp"

namespace faultline::client {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // Throws Failure, as fl_connect says. For fork.cpp, which hands them out.
  static std::shared_ptr<Connection> open(const std::string& path);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  [[nodiscard]] const std::string& path() const { return path_; }
  // Whether the daemon that it was made with is gone. In a fork child, attaches to find out.
  [[nodiscard]] bool broken();

  // One request; in a fork child, after attaching first. Throws Failure.
  template <typename... Arguments>
  wire::Packet call(wire::Op op, const Arguments&... arguments) {
    const std::lock_guard lock(mutex_);
    attach_if_forked();
    return control_.call(op, arguments...);
  }
  // The same, for an object opened in the given generation. Throws Failure: ESTALE.
  template <typename... Arguments>
  wire::Packet call_in(std::uint64_t generation, wire::Op op, const Arguments&... arguments) {
    const std::lock_guard lock(mutex_);
    attach_if_forked();
    require_generation(generation);
    return control_.call(op, arguments...);
  }
  // The same, for what a fork child does not inherit. Throws Failure: ESTALE.
  template <typename... Arguments>
  wire::Packet call_in_process(std::uint64_t forks, wire::Op op, const Arguments&... arguments) {
    const std::lock_guard lock(mutex_);
    require_process(forks);
    return control_.call(op, arguments...);
  }
  // The socket of the session, to be watched for its end without the lock. Throws Failure: ESTALE.
  [[nodiscard]] std::shared_ptr<const UniqueFd> session_in_process(std::uint64_t forks);
  // How many forks there are between the process that made the connection and this one.
  [[nodiscard]] std::uint64_t forks();
  // Changes when everything that was open has become stale.
  [[nodiscard]] std::uint64_t generation();

  // The session's channel; opened where it is not yet. Throws Failure.
  [[nodiscard]] std::shared_ptr<Channel> channel();

  // The pin ledger; null where nobody has pinned yet. Lock-free.
  [[nodiscard]] PinLedger* ledger() const { return ledger_.load(std::memory_order_acquire); }
  // Opens it where that was not done. Throws Failure.
  PinLedger& pin_ledger();
  // Has the frames of the private mapping at an address readable. False: they were, or cannot be.
  // Throws Failure.
  bool open_frames(std::uintptr_t address);
  // Lets this process pin so much more. Throws Failure: ENOMEM.
  void grant_pins(std::uint64_t bytes);

  [[nodiscard]] bool forks_are_served();
  // Whether pages of objects can be in a swap file.
  [[nodiscard]] bool daemon_swaps();
  [[nodiscard]] Mappings& mappings() { return mappings_; }

  // The fork hooks, see fork.cpp.
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  explicit Connection(std::string path) : path_(std::move(path)) {}
  void attach_new();
  void attach_if_forked();
  void guard_pages();
  void require_generation(std::uint64_t generation) const;
  void require_process(std::uint64_t forks) const;

  const std::string path_;
  std::mutex mutex_;  // guards all down to the mappings
  Control control_;
  std::uint32_t server_flags_ = 0;
  std::uint64_t generation_ = 1;
  std::uint64_t forks_ = 0;
  bool forked_ = false;
  void* beacon_ = nullptr;
  std::shared_ptr<Channel> channel_;
  std::atomic<PinLedger*> ledger_{nullptr};  // written under the mutex

  Mappings mappings_;  // locks itself
};

}  // namespace faultline::client
