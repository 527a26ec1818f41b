// Random operations of many processes, checked against plain models of what memory must hold.
//
// Model: this process conducts. It draws one operation after the other, has a worker process carry
// it out, applies it to a model of the objects and of each process's mappings, and compares.
// Workers connect themselves, or are fork children of others that inherited mappings and handles.
// Nothing drawn depends on what the system does, so a seed replays the same operations.
//
// Lanes: the same operations from all workers at once, each its own model: in shared memory a
// worker owns one byte of every 16, private memory is all its own.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <deque>
#include <iomanip>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>

#include "tests/system/racing.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::size_t kMostPages = 64;  // of an object: a mapping's pages fit the bits of a word
constexpr std::size_t kFilePagesBefore = 3;
constexpr std::size_t kScratchBytes = (kMostPages + kFilePagesBefore) * kPage;
constexpr int kAnswerWithinMs = 10'000;
constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP, not in every libc's headers

// Numbers of a seed, the same with every standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t number() { return engine_(); }
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(engine_() % end); }
  std::size_t between(std::size_t first, std::size_t last) {
    return first + below(last - first + 1);
  }
  bool one_in(std::size_t n) { return below(n) == 0; }
  void fill(std::span<std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
      const std::uint64_t word = number();
      std::memcpy(bytes.data() + at, &word, std::min(sizeof(word), bytes.size() - at));
    }
  }

 private:
  std::mt19937_64 engine_;
};

std::byte* at_address(std::uint64_t address) {
  return std::bit_cast<std::byte*>(static_cast<std::uintptr_t>(address));
}

std::uint64_t address_of(const void* memory) {
  return std::bit_cast<std::uintptr_t>(memory);
}

// The same daemon by another path is another connection.
std::string respelled(const std::string& socket, std::size_t times) {
  std::string path = socket.substr(0, socket.rfind('/'));
  for (std::size_t i = 0; i < times; ++i) path += "/.";
  return path + "/faultlined.sock";
}

std::size_t spaces_in(const Daemon& daemon) {
  return daemon.ask(wire::AdminQuery::spaces)["spaces"].size();
}

// The kernel's own accesses to memory. Both return what the system call does, or a negative errno.
std::int64_t send_from(const std::byte* memory, std::size_t length, bool through_pipe,
                       std::span<std::byte> into) {
  std::array<int, 2> ends{-1, -1};
  if (through_pipe) {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return -errno;
  } else {
    ends[0] = ends[1] = ::memfd_create("sink", MFD_CLOEXEC);
  }
  const UniqueFd read{ends[0]};
  const UniqueFd write{through_pipe ? ends[1] : -1};
  const ssize_t sent = ::write(ends[1], memory, length);
  if (sent < 0) return -errno;
  const auto count = static_cast<std::size_t>(sent);
  const ssize_t back = through_pipe ? ::read(read.get(), into.data(), count)
                                    : ::pread(read.get(), into.data(), count, 0);
  return back == sent ? sent : -EIO;
}

std::int64_t receive_into(std::byte* memory, std::span<const std::byte> bytes, bool through_pipe) {
  std::array<int, 2> ends{-1, -1};
  if (through_pipe) {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return -errno;
  } else {
    ends[0] = ends[1] = ::memfd_create("source", MFD_CLOEXEC);
  }
  const UniqueFd read{ends[0]};
  const UniqueFd write{through_pipe ? ends[1] : -1};
  if (::write(ends[1], bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return -EIO;
  }
  const ssize_t got = through_pipe ? ::read(read.get(), memory, bytes.size())
                                   : ::pread(read.get(), memory, bytes.size(), 0);
  return got < 0 ? -errno : got;
}
constexpr std::size_t kMostThroughPipe = 8 * kPage;

// What ends in SIGSEGV here ends in -EFAULT.
void survive_stores() {
  survive_signals_in(nullptr, ~std::size_t{0});
}
std::int64_t try_to_store(std::byte* word) {
  return store(word, 0) == Ending::data ? 0 : -EFAULT;
}

std::int64_t done_or_errno(bool done) {
  return done ? 0 : -errno;
}

// --- a worker

enum class Verb : std::uint32_t {
  create,
  open,
  close,
  unlink,
  map,
  unmap,
  load,     // read bytes, stride apart
  store,    // write bytes, stride apart
  send,     // write(2) from memory
  receive,  // read(2) into memory
  try_to_store,
  discard,  // flags: what, as fl_discard
  protect,
  remap,  // offset: the new length; target
  advise,
  populate,
  fork,
  exit,
};

struct Command {
  Verb verb = Verb::exit;
  std::uint32_t flags = 0;  // as the library call takes them; else 1: by pipe, or tidily
  std::uint32_t handle = 0;
  std::uint32_t slot = 0;
  std::int64_t stride = 1;
  bool plain = false;  // by the system call alone, so that the library does not know
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint64_t offset = 0;
  std::uint64_t target = 0;  // 0: where the kernel likes
  std::uint64_t file_bytes = 0;
  std::array<char, 32> name{};
};

struct Reply {
  std::int64_t result = 0;  // negative: an errno
  std::uint64_t value = 0;  // the address of a mapping
  std::array<char, 200> error{};
};

// One stretch of memory a worker, shared with the conductor: the data of commands and replies.
class Scratch {
 public:
  explicit Scratch(std::size_t slots)
      : slots_(slots),
        memory_(::mmap(nullptr, slots * kScratchBytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    EXPECT_NE(memory_, MAP_FAILED) << std::strerror(errno);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { ::munmap(memory_, slots_ * kScratchBytes); }

  [[nodiscard]] std::span<std::byte> of(std::size_t slot) const {
    return {static_cast<std::byte*>(memory_) + slot * kScratchBytes, kScratchBytes};
  }

 private:
  std::size_t slots_;
  void* memory_;
};

class Worker {
 public:
  Worker(fl_client* client, UniqueFd control, const Scratch& all, std::size_t slot)
      : client_(client), control_(std::move(control)), all_(all), scratch_(all.of(slot)) {}

  [[noreturn]] void serve() {
    ::signal(SIGCHLD, SIG_IGN);  // fork children are nobody's to wait for
    survive_stores();
    for (;;) {
      wire::Packet packet;
      Command command;
      if (wire::receive_packet(control_.get(), packet) != 0) ::_exit(0);  // the conductor is gone
      if (packet.bytes.size() != sizeof(command)) ::_exit(80);
      std::memcpy(&command, packet.bytes.data(), sizeof(command));
      Reply reply;
      if (command.verb == Verb::fork) {
        if (packet.fds.size() != 1) ::_exit(81);
        reply.result = ::fork();
        if (reply.result == 0) {
          control_ = std::move(packet.fds.front());
          scratch_ = all_.of(command.slot);
          continue;
        }
      } else {
        carry_out(command, reply);
      }
      if (wire::send_packet(control_.get(), std::as_bytes(std::span(&reply, 1)), {}) != 0) {
        ::_exit(82);
      }
    }
  }

 private:
  void carry_out(const Command& command, Reply& reply) {
    std::byte* const memory = at_address(command.address);
    const bool by_pipe = command.flags != 0;
    switch (command.verb) {
      case Verb::create:
        reply.result = create_object(command);
        break;
      case Verb::open:
        reply.result =
            fl_object_open(client_, command.name.data(), command.flags, &objects_[command.handle]);
        break;
      case Verb::close:
        reply.result = fl_object_close(objects_[command.handle]);
        objects_.erase(command.handle);
        break;
      case Verb::unlink:
        reply.result = fl_object_unlink(client_, command.name.data());
        break;
      case Verb::map: {
        void* address = at_address(command.target);
        reply.result = fl_map(objects_[command.handle], command.offset, command.length,
                              command.flags, &address);
        reply.value = address_of(address);
        break;
      }
      case Verb::unmap:
        reply.result = command.plain ? done_or_errno(::munmap(memory, command.length) == 0)
                                     : fl_unmap(client_, memory, command.length);
        break;
      case Verb::load:
        for (std::size_t i = 0; i < command.length; ++i) {
          const volatile std::byte* byte = memory + static_cast<std::int64_t>(i) * command.stride;
          scratch_[i] = *byte;
        }
        break;
      case Verb::store:
        for (std::size_t i = 0; i < command.length; ++i) {
          volatile std::byte* byte = memory + static_cast<std::int64_t>(i) * command.stride;
          *byte = scratch_[i];
        }
        break;
      case Verb::send:
        reply.result = send_from(memory, command.length, by_pipe, scratch_);
        return;
      case Verb::receive:
        reply.result = receive_into(memory, scratch_.first(command.length), by_pipe);
        return;
      case Verb::try_to_store:
        reply.result = try_to_store(memory);
        return;
      case Verb::discard: {
        const int advice = command.flags == FL_DISCARD_COPIES ? MADV_DONTNEED : MADV_REMOVE;
        reply.result = command.plain ? done_or_errno(::madvise(memory, command.length, advice) == 0)
                                     : fl_discard(client_, memory, command.length, command.flags);
        break;
      }
      case Verb::protect: {
        const bool writable = command.flags != 0;
        const int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
        reply.result = command.plain
                           ? done_or_errno(::mprotect(memory, command.length, access) == 0)
                           : fl_protect(client_, memory, command.length, command.flags);
        break;
      }
      case Verb::remap:
        remap(command, reply);
        break;
      case Verb::advise:
        reply.result = fl_advise(client_, memory, command.length, command.flags);
        break;
      case Verb::populate:
        reply.result = fl_populate(client_, memory, command.length, command.flags);
        break;
      case Verb::fork:
        break;
      case Verb::exit:
        if (command.flags != 0) {
          for (const auto& [handle, object] : objects_) fl_object_close(object);
          fl_disconnect(client_);
        }
        ::_exit(0);
    }
    if (reply.result < 0) {
      const std::string_view error = fl_last_error();
      error.copy(reply.error.data(), reply.error.size() - 1);
    }
  }

  void remap(const Command& command, Reply& reply) {
    std::byte* const memory = at_address(command.address);
    void* to = at_address(command.target);
    if (command.plain) {
      const bool keeps = (command.flags & FL_REMAP_DONTUNMAP) != 0;
      const int flags =
          MREMAP_MAYMOVE | (keeps ? kDontUnmap : 0) | (command.target != 0 ? MREMAP_FIXED : 0);
      to = ::mremap(memory, command.length, command.offset, flags, to);
      reply.result = done_or_errno(to != MAP_FAILED);
    } else {
      reply.result = fl_remap(client_, memory, command.length, command.offset, command.flags, &to);
    }
    reply.value = address_of(to);
  }

  int create_object(const Command& command) {
    fl_object_spec spec{};
    spec.struct_size = sizeof(spec);
    spec.name = command.name.data();
    spec.size = command.length;
    spec.mode = 0600;
    spec.flags = command.flags;
    spec.file_offset = command.offset;
    UniqueFd file;
    if ((command.flags & FL_FROM_FILE) != 0) {
      file = UniqueFd{::memfd_create("file", MFD_CLOEXEC)};
      if (::pwrite(file.get(), scratch_.data(), command.file_bytes, 0) !=
          static_cast<ssize_t>(command.file_bytes)) {
        return -EIO;
      }
      spec.file_fd = file.get();
    }
    return fl_object_create(client_, &spec, &objects_[command.handle]);
  }

  fl_client* client_;
  UniqueFd control_;
  const Scratch& all_;
  std::span<std::byte> scratch_;
  std::map<std::uint32_t, fl_object*> objects_;
};

// --- the model

struct ModelObject {
  std::string name;
  Bytes bytes;    // whole pages
  Bytes initial;  // what a page has again when its content was discarded
};

struct ModelMapping {
  std::uint64_t address = 0;
  std::shared_ptr<ModelObject> object;
  std::size_t first = 0;
  std::size_t pages = 0;
  bool is_private = false;
  bool writable = false;
  bool may_write = true;  // what fl_protect may make of it
  bool plain = false;     // a system call of the process's own has changed it: the library is not
                          // to be asked about it any more
  std::map<std::size_t, Bytes> own;  // by page of the mapping: what is this process's alone

  [[nodiscard]] std::size_t size() const { return pages * kPage; }
  [[nodiscard]] std::byte* object_page(std::size_t page) const {
    return object->bytes.data() + (first + page) * kPage;
  }
  void make_own(std::size_t page) {
    if (!own.contains(page)) own[page].assign(object_page(page), object_page(page) + kPage);
  }
  [[nodiscard]] std::byte read(std::size_t offset) const {
    const auto copy = own.find(offset / kPage);
    return copy != own.end() ? copy->second[offset % kPage]
                             : object_page(offset / kPage)[offset % kPage];
  }
  void write(std::size_t offset, std::byte value) {
    if (is_private) {
      make_own(offset / kPage);
      own[offset / kPage][offset % kPage] = value;
    } else {
      object_page(offset / kPage)[offset % kPage] = value;
    }
  }
  // The pages [from, to) of it.
  [[nodiscard]] ModelMapping part(std::size_t from, std::size_t to) const {
    ModelMapping piece = *this;
    piece.address += from * kPage;
    piece.first += from;
    piece.pages = to - from;
    piece.own.clear();
    for (const auto& [page, bytes] : own) {
      if (page >= from && page < to) piece.own[page - from] = bytes;
    }
    return piece;
  }
  [[nodiscard]] std::string describe() const {
    std::ostringstream out;
    out << (plain ? "plain " : "") << (is_private ? "private" : "shared")
        << (writable ? " writable" : " read-only") << " of " << object->name << " pages " << first
        << "+" << pages;
    return out.str();
  }
};

struct ModelHandle {
  std::shared_ptr<ModelObject> object;
  bool writable = false;
};

// What a fork child has of its parent.
struct ModelProcess {
  std::map<std::uint32_t, ModelHandle> handles;
  std::map<std::uint32_t, ModelMapping> mappings;
  std::uint32_t next_handle = 1;
  std::uint32_t next_mapping = 1;
};

// Which bytes of a mapping an operation is about: count of them, stride apart.
struct Range {
  std::size_t offset = 0;
  std::size_t count = 1;
  std::int64_t stride = 1;
  [[nodiscard]] std::size_t at(std::size_t i) const {
    return static_cast<std::size_t>(static_cast<std::int64_t>(offset) +
                                    static_cast<std::int64_t>(i) * stride);
  }
};

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Process {
  std::string name;
  std::size_t slot = 0;
  UniqueFd control;
  UniqueFd exited;  // a pidfd
  pid_t pid = -1;
  ModelProcess model;
};

class Conductor {
 public:
  Conductor(const Daemon& daemon, fl_client* client, std::uint64_t seed)
      : daemon_(daemon), client_(client), random_(seed), scratch_(kMostWorkers) {
    for (std::size_t slot = 0; slot < kMostWorkers; ++slot) free_slots_.insert(slot);
    // Workers whose own parent has died become this process's to reap.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  Conductor(const Conductor&) = delete;
  Conductor& operator=(const Conductor&) = delete;
  ~Conductor() {
    while (!processes_.empty()) kill_worker(processes_.size() - 1);
    ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  }

  // Throws Mismatch.
  void step() {
    if (processes_.empty()) return spawn();
    while (!try_step()) {
    }
  }

  // Everything every process sees, then all of them leave, some by force. Throws Mismatch.
  void finish() {
    for (Process& process : processes_) verify(process);
    while (!processes_.empty()) {
      const std::size_t index = random_.below(processes_.size());
      random_.one_in(2) ? leave(index) : kill_worker(index);
    }
    for (const auto& object : linked_) {
      if (fl_object_unlink(client_, object->name.c_str()) != 0) throw Mismatch(fl_last_error());
    }
    linked_.clear();
  }

  [[nodiscard]] std::size_t operations() const { return operations_; }
  // Tells whether two runs drew the same operations.
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  [[nodiscard]] std::string history() const {
    std::string text;
    for (const std::string& line : history_) text += "  " + line + "\n";
    return text;
  }

 private:
  static constexpr std::size_t kMostWorkers = 12;
  static constexpr std::size_t kMostObjects = 8;  // that can be opened
  static constexpr std::size_t kMostMappings = 16;
  static constexpr std::size_t kMostHandles = 12;

  // False where the operation drawn is not possible now.
  bool try_step() {
    const std::size_t index = random_.below(processes_.size());
    Process& process = processes_[index];
    const std::size_t draw = random_.below(100);
    if (draw < 18) return load(process);
    if (draw < 41) return store(process);
    if (draw < 53) return map(process);
    if (draw < 57) return unmap(process);
    if (draw < 62) return discard(process);
    if (draw < 67) return protect(process);
    if (draw < 73) return remap(process);
    if (draw < 75) return discard_content(process);
    if (draw < 77) return advise(process);
    if (draw < 78) return populate(process);
    if (draw < 84) return open(process);
    if (draw < 87) return create(process);
    if (draw < 88) return unlink(process);
    if (draw < 90) return close(process);
    if (draw < 94) return fork(index);
    if (draw < 96) return spawn_if_room();
    if (draw < 97) return leave(index), true;
    if (draw < 98) return kill_worker(index), true;
    if (draw < 99) return kill_at_work(index);
    return verify(process), true;
  }

  // --- talking to workers

  void note(const std::string& text) {
    const std::string line = std::to_string(++operations_) + ": " + text;
    for (const char c : line) {
      digest_ = (digest_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;  // FNV-1a
    }
    history_.push_back(line);
    if (history_.size() > 20) history_.pop_front();
  }

  [[noreturn]] void fail(const Process& process, const std::string& what) const {
    std::ostringstream text;
    text << "operation " << operations_ << ", worker " << process.name << " (pid " << process.pid
         << "): " << what;
    throw Mismatch(text.str());
  }

  static void tell(const Process& process, const Command& command, int fd = -1) {
    const std::array fds{fd};
    const int error =
        wire::send_packet(process.control.get(), std::as_bytes(std::span(&command, 1)),
                          std::span<const int>(fds).first(fd < 0 ? 0 : 1));
    if (error != 0) throw Mismatch("sending to worker " + process.name + " failed");
  }

  Reply ask(const Process& process, const Command& command, int fd = -1) const {
    tell(process, command, fd);
    std::array<pollfd, 2> events{
        {{process.control.get(), POLLIN, 0}, {process.exited.get(), POLLIN, 0}}};
    const int ready = ::poll(events.data(), events.size(), kAnswerWithinMs);
    if (ready == 0) {
      fail(process, "does not answer; the daemon's spaces: " +
                        daemon_.ask(wire::AdminQuery::spaces).dump(1));
    }
    wire::Packet packet;
    if ((events[0].revents & POLLIN) == 0) {
      std::ostringstream how;
      how << "died: " << Outcome{reap(process)} << " (if that is known)";
      fail(process, how.str());
    }
    Reply reply;
    if (wire::receive_packet(process.control.get(), packet) != 0 ||
        packet.bytes.size() != sizeof(reply)) {
      fail(process, "closed its socket");
    }
    std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
    return reply;
  }

  void expect(const Process& process, const Reply& reply, std::int64_t result) const {
    if (reply.result == result) return;
    std::ostringstream text;
    text << "expected the result " << result << ", got " << reply.result << " "
         << reply.error.data();
    fail(process, text.str());
  }

  // Waits for the end of it; its wait status where it was this process's child.
  static int reap(const Process& process) {
    pollfd event{process.exited.get(), POLLIN, 0};
    if (::poll(&event, 1, kAnswerWithinMs) != 1) {
      throw Mismatch("worker " + process.name + " does not die");
    }
    int status = 0;
    ::waitpid(process.pid, &status, 0);  // fails where its parent, another worker, lives
    return status;
  }

  void bury(std::size_t index) {
    reap(processes_[index]);
    free_slots_.insert(processes_[index].slot);
    processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  // A process without an end, and the end of it.
  std::pair<Process, UniqueFd> prepare() {
    Process process;
    process.name = "w" + std::to_string(++workers_);
    process.slot = *free_slots_.begin();
    free_slots_.erase(free_slots_.begin());
    std::array<int, 2> ends{-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw Mismatch(std::string("socketpair: ") + std::strerror(errno));
    }
    process.control = UniqueFd{ends[0]};
    return {std::move(process), UniqueFd{ends[1]}};
  }

  void add(Process process, pid_t pid) {
    process.pid = pid;
    process.exited = UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
    if (!process.exited) throw Mismatch("pidfd_open of worker " + process.name);
    processes_.push_back(std::move(process));
  }

  // --- processes

  bool spawn_if_room() {
    if (free_slots_.empty()) return false;
    spawn();
    return true;
  }

  void spawn() {
    auto [process, end] = prepare();
    const std::size_t spelling = random_.below(3);
    note("spawn " + process.name +
         (spelling == 0 ? " with the inherited connection" : " with one of its own"));
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      fl_client* client = client_;
      if (spelling != 0 &&
          fl_connect(respelled(daemon_.socket(), spelling).c_str(), &client) != 0) {
        std::cerr << "worker: " << fl_last_error() << std::endl;
        ::_exit(84);
      }
      processes_.clear();  // closes the conductor's ends
      process.control.reset();
      Worker(client, std::move(end), scratch_, process.slot).serve();
    }
    if (pid < 0) throw Mismatch(std::string("fork: ") + std::strerror(errno));
    add(std::move(process), pid);
  }

  bool fork(std::size_t index) {
    if (free_slots_.empty()) return false;
    auto [child, end] = prepare();
    Process& parent = processes_[index];
    note("fork " + parent.name + " into " + child.name);
    child.model = parent.model;
    Command command;
    command.verb = Verb::fork;
    command.slot = static_cast<std::uint32_t>(child.slot);
    const Reply reply = ask(parent, command, end.get());
    if (reply.result <= 0) fail(parent, "could not fork");
    add(std::move(child), static_cast<pid_t>(reply.result));
    return true;
  }

  void leave(std::size_t index) {
    Command command;
    command.verb = Verb::exit;
    command.flags = random_.one_in(2) ? 1 : 0;
    note("exit " + processes_[index].name + (command.flags != 0 ? ", having closed all" : ""));
    tell(processes_[index], command);
    bury(index);
  }

  void kill_worker(std::size_t index) {
    note("kill " + processes_[index].name);
    ::kill(processes_[index].pid, SIGKILL);
    bury(index);
  }

  // In the midst of faults. What it writes is its own, so that nobody's model is in doubt.
  bool kill_at_work(std::size_t index) {
    Process& process = processes_[index];
    ModelMapping* const mapping = pick(process, [](const ModelMapping&) { return true; });
    if (mapping == nullptr) return false;
    Command command;
    command.verb = mapping->is_private && mapping->writable ? Verb::store : Verb::load;
    command.address = mapping->address;
    command.length = mapping->size();
    note("kill " + process.name + " while it sweeps over " + mapping->describe());
    tell(process, command);
    if (random_.one_in(2)) ::usleep(static_cast<useconds_t>(random_.below(300)));
    ::kill(process.pid, SIGKILL);
    bury(index);
    return true;
  }

  // --- objects

  bool create(Process& process) {
    if (linked_.size() >= kMostObjects || process.model.handles.size() >= kMostHandles) {
      return false;
    }
    auto object = std::make_shared<ModelObject>();
    object->name = "model-" + std::to_string(++objects_);
    const std::size_t pages =
        random_.one_in(3) ? kMostPages - random_.below(4) : random_.between(1, kMostPages);
    object->bytes.resize(pages * kPage);
    const std::size_t content = pages * kPage - (random_.one_in(3) ? 0 : random_.below(kPage));
    Command command;
    command.verb = Verb::create;
    command.handle = process.model.next_handle++;
    command.length = content;
    object->name.copy(command.name.data(), command.name.size() - 1);
    if (!random_.one_in(3)) {
      const std::size_t before = random_.between(0, kFilePagesBefore) * kPage;
      command.flags = FL_FROM_FILE;
      command.offset = before;
      command.file_bytes = before + content;
      if (random_.one_in(2)) command.length = 0;  // to the end of the file
      const auto file = scratch_.of(process.slot).first(before + content);
      random_.fill(file);
      std::memcpy(object->bytes.data(), file.data() + before, content);
    }
    object->initial = object->bytes;
    note("create " + object->name + " of " + std::to_string(content) + " bytes" +
         (command.flags != 0 ? " from a file" : "") + " in " + process.name);
    expect(process, ask(process, command), 0);
    process.model.handles[command.handle] = {object, true};
    linked_.push_back(std::move(object));
    return true;
  }

  bool open(Process& process) {
    if (linked_.empty() || process.model.handles.size() >= kMostHandles) return false;
    const auto& object = linked_[random_.below(linked_.size())];
    Command command;
    command.verb = Verb::open;
    command.handle = process.model.next_handle++;
    command.flags = random_.one_in(3) ? FL_READ_ONLY : FL_READ_WRITE;
    object->name.copy(command.name.data(), command.name.size() - 1);
    const bool writable = command.flags == FL_READ_WRITE;
    note("open " + object->name + (writable ? "" : " read-only") + " in " + process.name);
    expect(process, ask(process, command), 0);
    process.model.handles[command.handle] = {object, writable};
    return true;
  }

  bool close(Process& process) {
    const auto handle = pick_handle(process);
    if (handle == process.model.handles.end()) return false;
    Command command;
    command.verb = Verb::close;
    command.handle = handle->first;
    note("close " + handle->second.object->name + " in " + process.name);
    expect(process, ask(process, command), 0);
    process.model.handles.erase(handle);
    return true;
  }

  bool unlink(Process& process) {
    if (linked_.size() < kMostObjects / 2) return false;
    const std::size_t index = random_.below(linked_.size());
    Command command;
    command.verb = Verb::unlink;
    linked_[index]->name.copy(command.name.data(), command.name.size() - 1);
    note("unlink " + linked_[index]->name + " in " + process.name);
    expect(process, ask(process, command), 0);
    linked_.erase(linked_.begin() + static_cast<std::ptrdiff_t>(index));
    return true;
  }

  std::map<std::uint32_t, ModelHandle>::iterator pick_handle(Process& process) {
    auto& handles = process.model.handles;
    if (handles.empty()) return handles.end();
    return std::next(handles.begin(), static_cast<std::ptrdiff_t>(random_.below(handles.size())));
  }

  // --- mappings

  // Null where no mapping is suitable.
  template <typename Suitable>
  ModelMapping* pick(Process& process, Suitable suitable) {
    std::vector<ModelMapping*> all;
    for (auto& [id, mapping] : process.model.mappings) {
      if (suitable(mapping)) all.push_back(&mapping);
    }
    return all.empty() ? nullptr : all[random_.below(all.size())];
  }

  struct Pages {
    std::size_t from;
    std::size_t to;
  };

  bool map(Process& process) {
    const auto handle = pick_handle(process);
    if (handle == process.model.handles.end() || process.model.mappings.size() >= kMostMappings) {
      return false;
    }
    ModelMapping mapping;
    mapping.object = handle->second.object;
    const std::size_t pages = mapping.object->bytes.size() / kPage;
    const bool whole = random_.one_in(2);
    mapping.first = whole ? 0 : random_.below(pages);
    mapping.pages = whole ? pages : random_.between(1, pages - mapping.first);
    const auto over = random_.one_in(4) ? pick_any(process) : process.model.mappings.end();
    Pages replaced{0, 0};
    if (over != process.model.mappings.end()) {
      mapping.pages = std::min(mapping.pages, over->second.pages);
      replaced.from = random_.below(over->second.pages - mapping.pages + 1);
      replaced.to = replaced.from + mapping.pages;
    }
    mapping.is_private = !random_.one_in(3);
    mapping.writable = !random_.one_in(4);
    Command command;
    command.verb = Verb::map;
    command.handle = handle->first;
    command.offset = mapping.first * kPage;
    command.length = mapping.size();
    command.flags = (mapping.is_private ? FL_MAP_PRIVATE : FL_MAP_SHARED) |
                    (mapping.writable ? FL_MAP_WRITE : 0);
    mapping.may_write = mapping.is_private || handle->second.writable;
    if (replaced.to != 0) {
      command.flags |= FL_MAP_FIXED;
      command.target = over->second.address + replaced.from * kPage;
    }
    note(
        "map " + mapping.describe() + " in " + process.name +
        (replaced.to == 0 ? "" : " over " + describe(replaced) + " of " + over->second.describe()));
    const Reply reply = ask(process, command);
    if (!mapping.is_private && mapping.writable && !handle->second.writable) {
      expect(process, reply, -EACCES);
      return true;
    }
    expect(process, reply, 0);
    if (replaced.to != 0) take_out(process, over, replaced);
    mapping.address = reply.value;
    process.model.mappings[process.model.next_mapping++] = std::move(mapping);
    return true;
  }

  using Mappings = std::map<std::uint32_t, ModelMapping>;
  Mappings::iterator pick_any(Process& process) {
    auto& mappings = process.model.mappings;
    if (mappings.empty()) return mappings.end();
    return std::next(mappings.begin(), static_cast<std::ptrdiff_t>(random_.below(mappings.size())));
  }

  Pages pick_pages(const ModelMapping& mapping) {
    if (random_.one_in(3)) return {0, mapping.pages};
    const std::size_t from = random_.below(mapping.pages);
    return {from, random_.between(from + 1, mapping.pages)};
  }
  static std::string describe(const Pages& pages) {
    return "[" + std::to_string(pages.from) + ", " + std::to_string(pages.to) + ")";
  }

  // What is left of the mapping stays, as mappings of their own.
  static void take_out(Process& process, Mappings::iterator it, const Pages& pages) {
    auto& mappings = process.model.mappings;
    const ModelMapping mapping = it->second;
    mappings.erase(it);
    if (pages.from > 0) mappings[process.model.next_mapping++] = mapping.part(0, pages.from);
    if (pages.to < mapping.pages) {
      mappings[process.model.next_mapping++] = mapping.part(pages.to, mapping.pages);
    }
  }
  // By the library, or behind its back; for good where it was so before.
  bool pick_plain(const ModelMapping& mapping) { return random_.one_in(4) || mapping.plain; }
  static std::string by(const Command& command) { return command.plain ? " plainly" : ""; }
  static void aim_at(Command& command, const ModelMapping& mapping, const Pages& pages) {
    command.address = mapping.address + pages.from * kPage;
    command.length = (pages.to - pages.from) * kPage;
  }

  bool unmap(Process& process) {
    const auto it = pick_any(process);
    if (it == process.model.mappings.end()) return false;
    const Pages pages = pick_pages(it->second);
    Command command;
    command.verb = Verb::unmap;
    command.plain = pick_plain(it->second);
    aim_at(command, it->second, pages);
    note("unmap" + by(command) + " " + describe(pages) + " of mapping " +
         std::to_string(it->first) + " (" + it->second.describe() + ") in " + process.name);
    expect(process, ask(process, command), 0);
    take_out(process, it, pages);
    return true;
  }

  bool discard(Process& process) {
    const auto it = pick_any(process);
    if (it == process.model.mappings.end()) return false;
    ModelMapping& mapping = it->second;
    const Pages pages = pick_pages(mapping);
    Command command;
    command.verb = Verb::discard;
    command.flags = FL_DISCARD_COPIES;
    command.plain = random_.one_in(2) || mapping.plain;
    aim_at(command, mapping, pages);
    note("discard" + by(command) + " " + describe(pages) + " of " + mapping.describe() + " in " +
         process.name);
    expect(process, ask(process, command), 0);
    for (std::size_t page = pages.from; page < pages.to; ++page) mapping.own.erase(page);
    check_own(process, mapping, mapping.pages);
    return true;
  }

  bool discard_content(Process& process) {
    ModelMapping* const mapping = pick(
        process, [](const ModelMapping& m) { return !m.is_private && m.writable && m.may_write; });
    if (mapping == nullptr) return false;
    const Pages pages = pick_pages(*mapping);
    Command command;
    command.verb = Verb::discard;
    command.flags = FL_DISCARD_CONTENT;
    command.plain = pick_plain(*mapping);
    aim_at(command, *mapping, pages);
    note("discard" + by(command) + " the content of " + describe(pages) + " of " +
         mapping->describe() + " in " + process.name);
    expect(process, ask(process, command), 0);
    ModelObject& object = *mapping->object;
    const auto from = static_cast<std::ptrdiff_t>((mapping->first + pages.from) * kPage);
    std::copy_n(object.initial.begin() + from, command.length, object.bytes.begin() + from);
    return true;
  }

  bool protect(Process& process) {
    const auto it = pick_any(process);
    if (it == process.model.mappings.end()) return false;
    const Pages pages = pick_pages(it->second);
    const bool writable = random_.one_in(2);
    Command command;
    command.verb = Verb::protect;
    command.flags = writable ? FL_PROTECT_WRITE : 0;
    // To the kernel, a shared mapping of what was opened read-only is a private one.
    command.plain = pick_plain(it->second) && it->second.may_write;
    if (it->second.plain && !command.plain) return false;
    aim_at(command, it->second, pages);
    note("protect" + by(command) + " " + describe(pages) + " of " + it->second.describe() +
         (writable ? ", writable" : ", read-only") + " in " + process.name);
    const Reply reply = ask(process, command);
    if (writable && !it->second.may_write) {
      expect(process, reply, -EACCES);
      return true;
    }
    expect(process, reply, 0);
    ModelMapping part = it->second.part(pages.from, pages.to);
    part.writable = writable;
    if (command.plain) it->second.plain = part.plain = true;
    take_out(process, it, pages);
    process.model.mappings[process.model.next_mapping++] = std::move(part);
    return true;
  }

  // Grown, shrunk, moved, moved over another, or moved with the old range kept.
  bool remap(Process& process) {
    const auto it = pick_any(process);
    if (it == process.model.mappings.end()) return false;
    const Pages pages = pick_pages(it->second);
    ModelMapping moved = it->second.part(pages.from, pages.to);
    const std::size_t old_pages = moved.pages;
    const std::size_t most = moved.object->bytes.size() / kPage - moved.first;
    Command command;
    command.verb = Verb::remap;
    command.plain = pick_plain(it->second);
    command.flags = FL_REMAP_MAYMOVE;
    aim_at(command, it->second, pages);
    auto over = process.model.mappings.end();
    Pages replaced{0, 0};
    switch (random_.below(4)) {
      case 0:
        moved.pages = random_.between(1, most);
        break;
      case 1:
        if (process.model.mappings.size() >= kMostMappings) return false;
        command.flags |= FL_REMAP_DONTUNMAP;
        break;
      default:
        over = pick_any(process);
        if (over == it) return false;
        moved.pages = std::min(random_.between(1, most), over->second.pages);
        replaced.from = random_.below(over->second.pages - moved.pages + 1);
        replaced.to = replaced.from + moved.pages;
        command.flags |= FL_REMAP_FIXED;
        command.target = over->second.address + replaced.from * kPage;
    }
    command.offset = moved.size();
    const bool keeps = (command.flags & FL_REMAP_DONTUNMAP) != 0;
    note("remap" + by(command) + " " + describe(pages) + " of " + it->second.describe() + " to " +
         std::to_string(moved.pages) + " pages" + (keeps ? ", keeping it" : "") +
         (replaced.to == 0 ? ""
                           : ", over " + describe(replaced) + " of " + over->second.describe()) +
         " in " + process.name);
    const Reply reply = ask(process, command);
    expect(process, reply, 0);
    moved.address = reply.value;
    moved.plain = command.plain;
    std::erase_if(moved.own, [&](const auto& own) { return own.first >= moved.pages; });
    if (replaced.to != 0) take_out(process, over, replaced);
    if (keeps) {
      for (std::size_t page = pages.from; page < pages.to; ++page) it->second.own.erase(page);
      it->second.plain = it->second.plain || command.plain;
      if (command.plain) make_known(process, it->second, pages.from);
    } else {
      take_out(process, it, {pages.from, pages.from + old_pages});
    }
    if (command.plain && moved.pages > old_pages) make_known(process, moved, old_pages);
    check_own(process, moved, moved.pages);
    process.model.mappings[process.model.next_mapping++] = std::move(moved);
    return true;
  }

  // The daemon learns of it by a fault. Before that it has forgotten an object that the process
  // does not have open with the last mapping that it knows, see docs/limits.md.
  void make_known(const Process& process, const ModelMapping& mapping, std::size_t page) {
    Command command;
    command.verb = Verb::load;
    command.address = mapping.address + page * kPage;
    command.length = 1;
    expect(process, ask(process, command), 0);
  }

  bool advise(Process& process) {
    ModelMapping* const mapping = pick(process, [](const ModelMapping& m) { return !m.plain; });
    if (mapping == nullptr) return false;
    const Pages pages = pick_pages(*mapping);
    Command command;
    command.verb = Verb::advise;
    command.flags = static_cast<std::uint32_t>(random_.below(FL_ADVICE_COLD + 1));
    aim_at(command, *mapping, pages);
    note("advise " + std::to_string(command.flags) + " about " + describe(pages) + " of " +
         mapping->describe() + " in " + process.name);
    const Reply reply = ask(process, command);
    // Too many are under way still.
    if (command.flags != FL_ADVICE_WILL_NEED || reply.result != -EUSERS) expect(process, reply, 0);
    return true;
  }

  bool populate(Process& process) {
    ModelMapping* const mapping = pick(process, [](const ModelMapping& m) { return !m.plain; });
    if (mapping == nullptr) return false;
    const Pages pages = pick_pages(*mapping);
    Command command;
    command.verb = Verb::populate;
    command.flags = mapping->writable && random_.one_in(2) ? FL_POPULATE_WRITE : 0;
    aim_at(command, *mapping, pages);
    note("populate " + describe(pages) + " of " + mapping->describe() +
         (command.flags != 0 ? " for writing" : "") + " in " + process.name);
    expect(process, ask(process, command), 0);
    const bool copies = mapping->is_private && command.flags != 0;
    check_own(process, *mapping, copies ? 0 : mapping->pages);
    return true;
  }

  // --- bytes

  Range pick_range(const ModelMapping& mapping) {
    const auto from = [&](std::size_t offset, std::size_t count) {
      return Range{offset, std::min(count, mapping.size() - offset)};
    };
    const std::size_t page = random_.below(mapping.pages);
    const std::size_t within = random_.below(kPage);
    switch (random_.below(8)) {
      case 0:
        return from(page * kPage, mapping.size());
      case 1:
        return from(0, mapping.size());
      case 2:  // a byte of every page, upwards
        return {page * kPage + within, mapping.pages - page, static_cast<std::int64_t>(kPage)};
      case 3:  // and downwards
        return {page * kPage + within, page + 1, -static_cast<std::int64_t>(kPage)};
      case 4:
      case 5:
        return from(page * kPage + within, random_.between(1, 3 * kPage));
      default:
        return from(page * kPage + within, random_.between(1, 64));
    }
  }

  static std::string describe(const Range& range) {
    return std::to_string(range.count) + " bytes from " + std::to_string(range.offset) +
           (range.stride == 1 ? "" : ", stride " + std::to_string(range.stride));
  }

  // Picks how, and fills the command in.
  Command access(const ModelMapping& mapping, const Range& range, Verb directly, Verb in_kernel) {
    Command command;
    command.address = mapping.address + range.offset;
    command.length = range.count;
    command.stride = range.stride;
    command.verb = directly;
    if (range.stride == 1 && random_.one_in(3)) {
      command.verb = in_kernel;
      command.flags = range.count <= kMostThroughPipe && random_.one_in(2) ? 1 : 0;
    }
    return command;
  }

  bool load(Process& process) {
    ModelMapping* const mapping = pick(process, [](const ModelMapping&) { return true; });
    if (mapping == nullptr) return false;
    const Range range = pick_range(*mapping);
    load(process, *mapping, range, access(*mapping, range, Verb::load, Verb::send));
    return true;
  }

  void load(Process& process, ModelMapping& mapping, const Range& range, const Command& command) {
    const bool in_kernel = command.verb == Verb::send;
    note((in_kernel ? "send " : "load ") + describe(range) + " of " + mapping.describe() + " in " +
         process.name);
    const Reply reply = ask(process, command);
    expect(process, reply, in_kernel ? static_cast<std::int64_t>(range.count) : 0);
    const auto seen = scratch_.of(process.slot);
    for (std::size_t i = 0; i < range.count; ++i) {
      if (seen[i] != mapping.read(range.at(i))) differs(process, mapping, range, i);
    }
    check_own(process, mapping, mapping.pages);
  }

  [[noreturn]] void differs(const Process& process, const ModelMapping& mapping, const Range& range,
                            std::size_t i) const {
    const auto seen = scratch_.of(process.slot);
    std::size_t wrong = 0;
    std::ostringstream expected;
    std::ostringstream got;
    for (std::size_t k = i; k < range.count; ++k) {
      if (seen[k] != mapping.read(range.at(k))) ++wrong;
      if (k >= i + 16) continue;
      expected << std::hex << std::setw(3) << std::to_integer<int>(mapping.read(range.at(k)));
      got << std::hex << std::setw(3) << std::to_integer<int>(seen[k]);
    }
    const std::size_t offset = range.at(i);
    std::ostringstream text;
    text << "mapping " << mapping.describe() << " at 0x" << std::hex << mapping.address << std::dec
         << ", offset " << offset << " (page " << offset / kPage << ", "
         << (mapping.own.contains(offset / kPage) ? "its own" : "the object's") << "): expected"
         << expected.str() << ", seen" << got.str() << "; " << wrong << " bytes differ";
    fail(process, text.str());
  }

  bool store(Process& process) {
    ModelMapping* const mapping = pick(process, [](const ModelMapping&) { return true; });
    if (mapping == nullptr) return false;
    const Range range = pick_range(*mapping);
    Command command = access(*mapping, range, Verb::store, Verb::receive);
    if (!mapping->writable) command.verb = Verb::receive;  // a store would be its end
    if (!mapping->writable && range.stride != 1) return false;
    if (!mapping->writable && random_.one_in(2)) {
      command.verb = Verb::try_to_store;
      command.address = command.address / sizeof(Word) * sizeof(Word);
      note("try to store into " + mapping->describe() + " in " + process.name);
      expect(process, ask(process, command), -EFAULT);
      return true;
    }
    const bool in_kernel = command.verb == Verb::receive;
    const auto data = scratch_.of(process.slot).first(range.count);
    random_.fill(data);
    note((in_kernel ? "receive " : "store ") + describe(range) + " into " + mapping->describe() +
         " in " + process.name);
    const Reply reply = ask(process, command);
    if (!mapping->writable) {
      expect(process, reply, -EFAULT);
      check_own(process, *mapping, mapping->pages);
      return true;
    }
    expect(process, reply, in_kernel ? static_cast<std::int64_t>(range.count) : 0);
    for (std::size_t i = 0; i < range.count; ++i) mapping->write(range.at(i), data[i]);
    const std::size_t lowest = std::min(range.at(0), range.at(range.count - 1)) / kPage;
    check_own(process, *mapping, mapping->is_private ? lowest + 1 : mapping->pages);
    check_own_beyond(process, mapping);
    return true;
  }

  // Until the daemon has ended what it began to answer this process with.
  void wait_for_answers(const Process& process) const {
    const bool ended = eventually([&] {
      const auto answer = daemon_.ask(wire::AdminQuery::spaces);
      const auto& spaces = answer["spaces"];
      return std::none_of(spaces.begin(), spaces.end(), [&](const auto& space) {
        return space["pid"] == process.pid && space["answering"] != 0;
      });
    });
    if (!ended) fail(process, "is being answered without an end");
  }

  // What protect cut for this model may be one mapping for the daemon still, which copies ahead of
  // a sequential writer to its end.
  void check_own_beyond(Process& process, const ModelMapping* mapping) {
    while (mapping != nullptr && mapping->is_private) {
      ModelMapping* next = nullptr;
      for (auto& [id, other] : process.model.mappings) {
        if (other.is_private && other.object == mapping->object &&
            other.address == mapping->address + mapping->size() &&
            other.first == mapping->first + mapping->pages) {
          next = &other;
        }
      }
      if (next != nullptr) check_own(process, *next, 0);
      mapping = next;
    }
  }

  // A bit for each page that is mapped and no page of an object's, see proc_pid_pagemap(5).
  static std::uint64_t own_pages(const Process& process, const ModelMapping& mapping) {
    constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
    constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;
    const std::string path = "/proc/" + std::to_string(process.pid) + "/pagemap";
    const UniqueFd map{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    std::array<std::uint64_t, kMostPages> entries{};
    const std::size_t bytes = mapping.pages * sizeof(std::uint64_t);
    if (::pread(map.get(), entries.data(), bytes,
                static_cast<off_t>(mapping.address / kPage * sizeof(std::uint64_t))) !=
        static_cast<ssize_t>(bytes)) {
      throw Mismatch("reading " + path + ": " + std::strerror(errno));
    }
    std::uint64_t own = 0;
    for (std::size_t i = 0; i < mapping.pages; ++i) {
      if ((entries.at(i) & (kPresent | kOfFile)) == kPresent) own |= std::uint64_t{1} << i;
    }
    return own;
  }

  // Which pages the kernel says are the process's own. The daemon may copy some ahead of a
  // sequential writer, from the object as it is now, at may_copy or later; nothing else makes a
  // page private.
  void check_own(const Process& process, ModelMapping& mapping, std::size_t may_copy) const {
    // The writer goes on as soon as its own page is there, while the daemon may be copying still.
    if (may_copy < mapping.pages) wait_for_answers(process);
    const std::uint64_t own = own_pages(process, mapping);
    for (std::size_t page = 0; page < mapping.pages; ++page) {
      if ((own >> page & 1) == 0 || mapping.own.contains(page)) continue;
      if (page < may_copy) {
        fail(process, "page " + std::to_string(page) + " of " + mapping.describe() +
                          " became the process's own without a write");
      }
      mapping.make_own(page);
    }
  }

  // All that the process sees.
  void verify(Process& process) {
    for (auto& [id, mapping] : process.model.mappings) {
      const Range range{0, mapping.size()};
      load(process, mapping, range, access(mapping, range, Verb::load, Verb::send));
    }
  }

  const Daemon& daemon_;
  fl_client* client_;
  Random random_;
  Scratch scratch_;
  std::set<std::size_t> free_slots_;
  std::vector<Process> processes_;
  std::vector<std::shared_ptr<ModelObject>> linked_;
  std::size_t workers_ = 0;
  std::size_t objects_ = 0;
  std::size_t operations_ = 0;
  std::uint64_t digest_ = 0xcbf29ce484222325;
  std::deque<std::string> history_;
};

// The daemon as it was before the workers came, and nothing that it could not do.
void expect_as_before(const Daemon& daemon, std::size_t spaces, std::size_t descriptors) {
  EXPECT_TRUE(eventually([&] {
    return daemon.open_descriptors() <= descriptors && spaces_in(daemon) == spaces;
  })) << daemon.open_descriptors()
      << " descriptors, " << descriptors << " before; " << spaces_in(daemon) << " spaces, "
      << spaces << " before";
  EXPECT_EQ(daemon.ask(wire::AdminQuery::objects)["objects"].size(), 0U);
  EXPECT_EQ(daemon.log().find("[error]"), std::string::npos) << daemon.log();
}

using Model = SystemTest;

TEST_F(Model, ProcessesSeeWhatTheModelSees) {
  constexpr std::size_t kOperations = 10'000;
  const std::uint64_t seed = announce_seed();
  const std::size_t descriptors = daemon_.open_descriptors();
  const std::size_t spaces = spaces_in(daemon_);
  {
    Conductor conductor(daemon_, client_, seed);
    try {
      while (conductor.operations() < kOperations) conductor.step();
      conductor.finish();
    } catch (const Mismatch& mismatch) {
      FAIL() << "seed " << seed << ", " << mismatch.what() << "\nthe last operations:\n"
             << conductor.history();
    }
    std::cout << conductor.operations() << " operations, digest " << std::hex << conductor.digest()
              << std::dec << std::endl;
  }
  expect_as_before(daemon_, spaces, descriptors);
}

// --- lanes

constexpr std::size_t kLanes = 16;

// What all of them start from: an object, and what was in it before anybody wrote.
struct LaneObject {
  const char* name;
  bool written_by_all;  // through shared mappings, each in its lane
  Bytes initial;
};

// A byte as the owner of a lane writes it: it tells whose it is.
std::byte lane_byte(std::size_t lane, std::size_t count) {
  return static_cast<std::byte>(lane << 4 | (1 + count % 15));
}

class LaneWorker {
 public:
  LaneWorker(std::string socket, fl_client* inherited, const std::vector<LaneObject>& objects,
             std::atomic<std::size_t>& next_lane, std::size_t lane, std::uint64_t seed)
      : socket_(std::move(socket)),
        client_(inherited),
        objects_(objects),
        next_lane_(next_lane),
        seed_(seed),
        lane_(lane),
        random_(seed + lane_) {
    for (const LaneObject& object : objects_) written_.emplace_back(object.initial.size() / kLanes);
  }

  // The exit code of the process.
  int run(std::size_t steps) {
    constexpr unsigned kAtMostSeconds = 60;  // a fault that nobody answers ends here
    ::alarm(kAtMostSeconds);
    survive_stores();
    try {
      if (lane_ % 2 == 0) require(fl_connect(respelled(socket_, 1).c_str(), &client_));
      for (const LaneObject& object : objects_) {
        require(fl_object_open(client_, object.name, FL_READ_WRITE, &handles_.emplace_back()));
      }
      for (step_ = 0; step_ < steps; ++step_) one_step();
      for (View& view : views_) check(view, 0, view.memory.size());
    } catch (const Mismatch& mismatch) {
      complain("step " + std::to_string(step_) + ": " + mismatch.what());
      return 1;
    }
    int code = 0;
    for (const pid_t child : children_) {
      Outcome outcome;
      if (::waitpid(child, &outcome.status, 0) != child || !outcome.exited(0)) {
        std::ostringstream text;
        text << "a child " << outcome;
        complain(text.str());
        code = 2;
      }
    }
    return code;
  }

 private:
  static constexpr std::size_t kMostViews = 6;

  struct View {
    std::span<std::byte> memory;
    std::size_t object = 0;
    std::size_t first = 0;  // byte of the object
    bool is_private = false;
    std::map<std::size_t, Bytes> own;  // by page: as it was after this process's last write
  };

  static void require(int result) {
    if (result != 0) throw Mismatch(fl_last_error());
  }

  // In one piece, because others may complain at the same time.
  void complain(const std::string& what) const {
    std::cerr << "seed " + std::to_string(seed_) + ", lane " + std::to_string(lane_) + ", " + what +
                     "\n"
              << std::flush;
  }

  void one_step() {
    const std::size_t draw = random_.below(100);
    if (views_.empty() || (draw < 8 && views_.size() < kMostViews)) return map();
    const std::size_t index = random_.below(views_.size());
    View& view = views_[index];
    if (draw < 12) {
      require(fl_unmap(client_, view.memory.data(), view.memory.size()));
      views_.erase(views_.begin() + static_cast<std::ptrdiff_t>(index));
    } else if (draw < 17) {
      discard(view);
    } else if (draw < 19) {
      fork();
    } else if (draw < 22) {
      check(view, 0, view.memory.size());
    } else if (draw < 34) {
      operate(view, draw);
    } else if (draw < 62) {
      const std::size_t offset = random_.below(view.memory.size());
      check(view, offset, std::min(random_.between(1, kPage), view.memory.size() - offset));
    } else if (draw < 66) {  // upwards, page after page
      for (std::size_t page = random_.below(pages_of(view)); page < pages_of(view); ++page) {
        write(view, page * kPage + random_.below(kPage));
      }
    } else {
      write(view, random_.below(view.memory.size()));
    }
  }

  static std::size_t pages_of(const View& view) { return view.memory.size() / kPage; }

  void map() {
    View view;
    view.object = random_.below(objects_.size());
    view.is_private = !objects_[view.object].written_by_all || random_.one_in(2);
    const std::size_t pages = objects_[view.object].initial.size() / kPage;
    const std::size_t first = random_.one_in(2) ? 0 : random_.below(pages);
    const std::size_t length = random_.between(1, pages - first) * kPage;
    view.first = first * kPage;
    void* address = nullptr;
    require(fl_map(handles_[view.object], view.first, length,
                   (view.is_private ? FL_MAP_PRIVATE : FL_MAP_SHARED) | FL_MAP_WRITE, &address));
    view.memory = {static_cast<std::byte*>(address), length};
    views_.push_back(std::move(view));
  }

  void discard(View& view) {
    const std::size_t from = random_.below(pages_of(view));
    const std::size_t to = random_.between(from + 1, pages_of(view));
    if (::madvise(view.memory.data() + from * kPage, (to - from) * kPage, MADV_DONTNEED) != 0) {
      throw Mismatch("madvise");
    }
    for (std::size_t page = from; page < to; ++page) view.own.erase(page);
  }

  void operate(View& view, std::size_t draw) {
    if (draw < 24) return protect(view);
    if (draw < 26) return move(view);
    if (draw < 28) return resize(view);
    if (draw < 29) return replace(view);
    if (draw < 31) return discard_what_nobody_writes();
    const auto part = pages(view);
    if (draw < 32) {
      const auto advice = static_cast<std::uint32_t>(random_.below(FL_ADVICE_COLD + 1));
      const int result = fl_advise(client_, part.data(), part.size(), advice);
      if (advice != FL_ADVICE_WILL_NEED || result != -EUSERS) require(result);
    } else if (draw < 33) {
      require(fl_populate(client_, part.data(), part.size(),
                          random_.one_in(2) ? FL_POPULATE_WRITE : 0));
    } else {
      require(fl_discard(client_, part.data(), part.size(), FL_DISCARD_COPIES));
      forget_own(view, part);
    }
  }

  // Some of the view's pages.
  std::span<std::byte> pages(const View& view) {
    const std::size_t from = random_.below(pages_of(view));
    const std::size_t count = random_.between(1, pages_of(view) - from);
    return view.memory.subspan(from * kPage, count * kPage);
  }
  static void forget_own(View& view, std::span<std::byte> part) {
    const auto from = static_cast<std::size_t>(part.data() - view.memory.data()) / kPage;
    for (std::size_t page = from; page < from + part.size() / kPage; ++page) view.own.erase(page);
  }

  // Whoever writes meanwhile gets SIGSEGV, and it can be written as before afterwards.
  void protect(const View& view) {
    const auto part = pages(view);
    const bool plain = random_.one_in(2);
    const auto set = [&](bool writable) {
      const int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
      require(plain
                  ? ::mprotect(part.data(), part.size(), access)
                  : fl_protect(client_, part.data(), part.size(), writable ? FL_PROTECT_WRITE : 0));
    };
    set(false);
    const std::size_t at = random_.below(part.size() / sizeof(Word)) * sizeof(Word);
    if (try_to_store(part.data() + at) != -EFAULT) throw Mismatch("a store to read-only memory");
    set(true);
  }

  // With what is its own, to another address.
  void move(View& view) {
    void* const reserved =
        ::mmap(nullptr, view.memory.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved == MAP_FAILED) throw Mismatch("mmap");
    void* to = reserved;
    require(fl_remap(client_, view.memory.data(), view.memory.size(), view.memory.size(),
                     FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &to));
    view.memory = {static_cast<std::byte*>(to), view.memory.size()};
  }

  void resize(View& view) {
    const std::size_t most = objects_[view.object].initial.size() - view.first;
    const std::size_t length = random_.between(1, most / kPage) * kPage;
    void* to = nullptr;
    require(
        fl_remap(client_, view.memory.data(), view.memory.size(), length, FL_REMAP_MAYMOVE, &to));
    view.memory = {static_cast<std::byte*>(to), length};
    std::erase_if(view.own, [&](const auto& own) { return own.first >= length / kPage; });
  }

  // By the same once more, of which it has written nothing.
  void replace(View& view) {
    void* at = view.memory.data();
    require(fl_map(handles_[view.object], view.first, view.memory.size(),
                   (view.is_private ? FL_MAP_PRIVATE : FL_MAP_SHARED) | FL_MAP_WRITE | FL_MAP_FIXED,
                   &at));
    view.own.clear();
  }

  // Its file has the same again, so nobody sees that anything was discarded.
  void discard_what_nobody_writes() {
    for (std::size_t i = 0; i < objects_.size(); ++i) {
      if (objects_[i].written_by_all) continue;
      const std::size_t all = objects_[i].initial.size() / kPage;
      const std::size_t from = random_.below(all);
      const std::size_t length = random_.between(1, all - from) * kPage;
      void* at = nullptr;
      require(fl_map(handles_[i], from * kPage, length, FL_MAP_SHARED | FL_MAP_WRITE, &at));
      require(random_.one_in(2) ? ::madvise(at, length, MADV_REMOVE)
                                : fl_discard(client_, at, length, FL_DISCARD_CONTENT));
      require(fl_unmap(client_, at, length));
    }
  }

  void fork() {
    const std::size_t lane = next_lane_.fetch_add(1);
    if (lane >= kLanes) return;
    const pid_t child = ::fork();
    if (child < 0) throw Mismatch("fork");
    if (child != 0) return children_.push_back(child);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(60);  // a fork child has none
    children_.clear();
    lane_ = lane;
    random_ = Random(seed_ + lane);
    // Nobody has written in its lane yet.
    for (Bytes& written : written_) std::fill(written.begin(), written.end(), std::byte{0});
    is_fork_child_ = true;
  }

  void put(std::byte* memory, std::byte value) {
    if (random_.one_in(4)) {
      if (receive_into(memory, std::span(&value, 1), random_.one_in(2)) != 1) {
        throw Mismatch("read(2) into the mapping");
      }
    } else {
      *static_cast<volatile std::byte*>(memory) = value;
    }
  }

  void write(View& view, std::size_t offset) {
    if (!view.is_private) {
      offset = offset / kLanes * kLanes + lane_;
      const std::byte value = lane_byte(lane_, ++count_);
      put(view.memory.data() + offset, value);
      written_[view.object][(view.first + offset) / kLanes] = value;
      return;
    }
    const auto value = static_cast<std::byte>(random_.number());
    put(view.memory.data() + offset, value);
    const std::size_t page = offset / kPage;
    const auto memory = view.memory.subspan(page * kPage, kPage);
    auto own = view.own.find(page);
    if (own == view.own.end()) {
      // What the object held at that moment only the page itself tells; it must be something that
      // the object did hold, and nothing changes it from now on.
      own = view.own.emplace(page, Bytes(memory.begin(), memory.end())).first;
      for (std::size_t i = 0; i < kPage; ++i) {
        if (page * kPage + i != offset) check_byte(view, page * kPage + i, own->second[i], false);
      }
    }
    own->second[offset % kPage] = value;
    if (memory[offset % kPage] != value) differs(view, offset, memory[offset % kPage], "own write");
  }

  void check(View& view, std::size_t offset, std::size_t count) {
    Bytes seen(count);
    if (random_.one_in(3)) {
      if (send_from(view.memory.data() + offset, count, count <= kMostThroughPipe, seen) !=
          static_cast<std::int64_t>(count)) {
        throw Mismatch("write(2) from the mapping");
      }
    } else {
      std::memcpy(seen.data(), view.memory.data() + offset, count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto own = view.own.find((offset + i) / kPage);
      if (own == view.own.end()) {
        check_byte(view, offset + i, seen[i], !view.is_private);
      } else if (seen[i] != own->second[(offset + i) % kPage]) {
        differs(view, offset + i, seen[i], "page of its own");
      }
    }
  }

  // A byte of the object: what it was at first, or what the owner of its lane wrote. exactly: what
  // this worker wrote last to its own lane. (A private page may be a copy that was made ahead.)
  void check_byte(const View& view, std::size_t offset, std::byte seen, bool exactly) const {
    const LaneObject& object = objects_[view.object];
    const std::size_t at = view.first + offset;
    const std::size_t lane = at % kLanes;
    const std::byte initial = object.initial[at];
    const std::byte mine = written_[view.object][at / kLanes];
    if (lane == lane_ && exactly) {
      const std::byte expected = mine == std::byte{0} ? initial : mine;
      if (seen != expected) differs(view, offset, seen, "own lane");
      return;
    }
    if (seen == initial) return;
    const bool of_owner =
        (seen >> 4) == static_cast<std::byte>(lane) && (seen & std::byte{15}) != std::byte{0};
    if (!object.written_by_all || !of_owner) differs(view, offset, seen, "lane of another");
  }

  [[noreturn]] void differs(const View& view, std::size_t offset, std::byte seen,
                            const char* what) const {
    const LaneObject& object = objects_[view.object];
    const std::size_t at = view.first + offset;
    const auto own = view.own.find(offset / kPage);
    std::ostringstream text;
    text << (is_fork_child_ ? "fork child, " : "") << (view.is_private ? "private" : "shared")
         << " view of " << object.name << ", page " << at / kPage << " byte " << at % kPage << " ("
         << what << "): seen " << std::to_integer<int>(seen) << ", at first "
         << std::to_integer<int>(object.initial[at]) << ", last written in its lane "
         << std::to_integer<int>(written_[view.object][at / kLanes]);
    if (own != view.own.end()) {
      text << ", own copy " << std::to_integer<int>(own->second[offset % kPage]);
    }
    throw Mismatch(text.str());
  }

  std::string socket_;
  fl_client* client_;
  const std::vector<LaneObject>& objects_;
  std::atomic<std::size_t>& next_lane_;
  std::uint64_t seed_;
  std::size_t lane_;
  Random random_;
  std::vector<fl_object*> handles_;
  std::vector<Bytes> written_;  // by object and group of lanes: the last byte in this lane, or 0
  std::vector<View> views_;
  std::vector<pid_t> children_;
  std::size_t count_ = 0;
  std::size_t step_ = 0;
  bool is_fork_child_ = false;
};

TEST_F(Model, WorkersAtOnceEachSeeTheirLanesAndNoTornPage) {
  constexpr std::size_t kRounds = 8;
  constexpr std::size_t kStarters = 5;
  constexpr std::size_t kSteps = 250;
  const std::uint64_t seed = announce_seed();
  const std::size_t descriptors = daemon_.open_descriptors();
  const std::size_t spaces = spaces_in(daemon_);
  void* const shared =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* const next_lane = static_cast<std::atomic<std::size_t>*>(shared);
  static_assert(std::atomic<std::size_t>::is_always_lock_free);

  for (std::size_t round = 0; round < kRounds && !HasFailure(); ++round) {
    // Fresh objects each round, so that their pages are absent when all come.
    const PatternFile mixed_file(48 * kPage);
    const PatternFile pure_file(63 * kPage + 1234);
    std::vector<LaneObject> objects{{"zero", true, Bytes(32 * kPage)},
                                    {"mixed", true, mixed_file.bytes()},
                                    {"pure", false, pure_file.bytes()}};
    objects[2].initial.resize(64 * kPage);
    std::array handles{create(client_, 32 * kPage, "zero"),
                       create_from(client_, mixed_file.fd(), 0, "mixed"),
                       create_from(client_, pure_file.fd(), 0, "pure")};
    // Each has its own before any of them forks, however late it starts.
    new (next_lane) std::atomic<std::size_t>(kStarters);
    std::vector<Child> workers;
    Gate start;
    for (std::size_t i = 0; i < kStarters; ++i) {
      workers.emplace_back([&, lane = i] {
        if (!start.pass()) return 3;
        return LaneWorker(daemon_.socket(), client_, objects, *next_lane, lane,
                          seed + round * kLanes)
            .run(kSteps);
      });
    }
    for (std::size_t i = 0; i < kStarters; ++i) start.open();
    for (Child& worker : workers) {
      const Outcome outcome = worker.wait();
      EXPECT_TRUE(outcome.exited(0)) << outcome << ", round " << round << " of seed " << seed;
    }
    for (std::size_t i = 0; i < objects.size(); ++i) {
      EXPECT_EQ(fl_object_close(handles.at(i).release()), 0) << fl_last_error();
      EXPECT_EQ(fl_object_unlink(client_, objects[i].name), 0) << fl_last_error();
    }
  }
  ::munmap(shared, kPage);
  expect_as_before(daemon_, spaces, descriptors);
}

}  // namespace
}  // namespace faultline::testing
