// Many faults at once: what one of them waits for holds up nobody who does not need it, one client
// does not take what is another's, and each is counted once.
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/system/racing.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kMark{0x5c};

// A file whose reads are answered only once it is told to: the only file of a FUSE file system,
// mounted over a plain one.
class HeldFile {
 public:
  HeldFile(const std::filesystem::path& directory, std::size_t bytes)
      : path_((directory / "held").string()),
        bytes_(bytes),
        device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK)),
        shared_(new (::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                            0)) Shared) {
    std::ofstream{path_}.flush();
    const std::string options =
        "fd=" + std::to_string(device_.get()) + ",rootmode=100000,user_id=0,group_id=0,allow_other";
    mounted_ = device_ && ::mount("held", path_.c_str(), "fuse.held", MS_NOSUID | MS_NODEV,
                                  options.c_str()) == 0;
    // A process of its own, whose end ends every read that waits, whatever becomes of this one.
    if (mounted_) server_.emplace([this] { return serve(); });
    device_.reset();
  }
  HeldFile(const HeldFile&) = delete;
  HeldFile& operator=(const HeldFile&) = delete;
  ~HeldFile() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    server_.reset();
    ::munmap(shared_, kPage);
  }

  [[nodiscard]] bool mounted() const { return mounted_; }
  [[nodiscard]] UniqueFd open() const { return UniqueFd{::open(path_.c_str(), O_RDONLY)}; }
  [[nodiscard]] bool is_asked_for_content() const { return shared_->reads > 0; }
  void release() { shared_->released = true; }

 private:
  struct Shared {
    std::atomic<bool> released{false};
    std::atomic<std::uint64_t> reads{0};
  };

  // Until the file system is unmounted.
  int serve() {
    std::vector<std::byte> buffer(std::size_t{1} << 20);
    std::vector<std::pair<std::uint64_t, std::size_t>> held;  // reads: their id, and how much
    for (;;) {
      pollfd readable{device_.get(), POLLIN, 0};
      (void)::poll(&readable, 1, 5);
      if (shared_->released) {
        for (const auto& [id, size] : held) {
          answer(id, 0, std::vector<std::byte>(size, kMark));
        }
        held.clear();
      }
      const ssize_t got = ::read(device_.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == ENODEV) return 0;
      if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) continue;
      fuse_in_header header{};
      std::memcpy(&header, buffer.data(), sizeof(header));
      if (header.opcode == FUSE_READ) {
        fuse_read_in request{};
        std::memcpy(&request, buffer.data() + sizeof(header), sizeof(request));
        const std::size_t left = request.offset < bytes_ ? bytes_ - request.offset : 0;
        held.emplace_back(header.unique, std::min<std::size_t>(request.size, left));
        ++shared_->reads;
      } else {
        carry_out(header);
      }
    }
  }

  void carry_out(const fuse_in_header& header) {
    switch (header.opcode) {
      case FUSE_INIT: {
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = FUSE_KERNEL_MINOR_VERSION;
        out.max_write = 4096;
        return answer(header.unique, out);
      }
      case FUSE_GETATTR: {
        fuse_attr_out out{};
        out.attr.ino = FUSE_ROOT_ID;
        out.attr.size = bytes_;
        out.attr.mode = S_IFREG | 0644;
        out.attr.nlink = 1;
        return answer(header.unique, out);
      }
      case FUSE_OPEN: {
        fuse_open_out out{};
        out.open_flags = FOPEN_DIRECT_IO;
        return answer(header.unique, out);
      }
      case FUSE_FLUSH:
      case FUSE_RELEASE:
        return answer(header.unique, 0, {});
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        return;
      default:
        return answer(header.unique, -ENOSYS, {});
    }
  }

  template <typename Out>
  void answer(std::uint64_t id, const Out& out) const {
    const auto bytes = std::as_bytes(std::span(&out, 1));
    answer(id, 0, std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  void answer(std::uint64_t id, int error, const std::vector<std::byte>& body) const {
    fuse_out_header header{};
    header.len = static_cast<std::uint32_t>(sizeof(header) + body.size());
    header.error = error;
    header.unique = id;
    std::vector<std::byte> packet(header.len);
    std::memcpy(packet.data(), &header, sizeof(header));
    std::copy(body.begin(), body.end(), packet.begin() + sizeof(header));
    // Whoever asked may have gone: ENOENT.
    [[maybe_unused]] const ssize_t sent = ::write(device_.get(), packet.data(), packet.size());
  }

  std::string path_;
  std::size_t bytes_;
  UniqueFd device_;
  bool mounted_ = false;
  Shared* shared_;
  std::optional<Child> server_;
};

// One worker or several: who waits for a file does not wait in a worker.
class Parallel : public ::testing::TestWithParam<const char*> {
 protected:
  Daemon daemon_{{"--workers", GetParam()}};
};
INSTANTIATE_TEST_SUITE_P(Workers, Parallel, ::testing::Values("1", "4"),
                         [](const auto& of) { return "Of" + std::string(of.param); });

// Threads that wait for a file that does not answer, and another of the same process, with
// pages of a file and of none: it is served all the while, and so are they once the file answers.
TEST_P(Parallel, AFileThatDoesNotAnswerHoldsUpNoOtherFaultOfTheSpace) {
  constexpr std::size_t kPages = 64;
  Watchdog watchdog;
  HeldFile held(daemon_.directory(), kPages * kPage);
  if (!held.mounted()) GTEST_SKIP() << "SKIPPED: no FUSE to be had: " << std::strerror(errno);
  const Client client = connect(daemon_.socket());
  const UniqueFd slow_file = held.open();
  ASSERT_TRUE(slow_file) << std::strerror(errno);
  const Object slow_object = create_from(client, slow_file.get());
  ASSERT_TRUE(slow_object);
  const auto slow = map(slow_object, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const PatternFile file(kPages * kPage);
  const auto fast = map(create_from(client, file.fd()), kPages * kPage, FL_MAP_PRIVATE);
  const auto zeroes =
      map(create(client, kPages * kPage), kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE);

  std::atomic<int> served{0};
  std::vector<std::thread> waiting;
  for (std::size_t i = 0; i < 6; ++i) {
    waiting.emplace_back([&, i] {
      const std::size_t page = i * 8;
      if (i % 2 == 0) slow[page * kPage] = kMark;
      EXPECT_EQ(slow[page * kPage], kMark);
      ++served;
    });
  }
  EXPECT_TRUE(eventually([&] { return held.is_asked_for_content(); }, std::chrono::seconds(20)));
  const auto waiting_faults = [&]() -> std::size_t {
    return daemon_.ask(wire::AdminQuery::spaces)["spaces"][0]["waiting_faults"];
  };
  EXPECT_TRUE(eventually([&] { return waiting_faults() == 6; }, std::chrono::seconds(20)))
      << waiting_faults();

  Watchdog::Thread& watched = watchdog.watch("the thread that needs no file");
  for (int round = 0; round < 20; ++round) {
    for (std::size_t page = 0; page < kPages; ++page) {
      watched.does("faulting", &fast[page * kPage]);
      ASSERT_EQ(fast[page * kPage], file.bytes()[page * kPage]);
      zeroes[page * kPage] = kMark;
    }
    for (const auto memory : {fast, zeroes}) {
      ASSERT_EQ(::madvise(memory.data(), memory.size(), MADV_DONTNEED), 0);
    }
  }
  EXPECT_EQ(served, 0) << "the file has not answered";
  watched.does("waiting for the file");
  held.release();
  for (std::thread& thread : waiting) thread.join();
  watched.rests();
  EXPECT_EQ(served, 6);
  EXPECT_EQ(waiting_faults(), 0U);
  for (std::size_t page = 0; page < kPages; ++page) EXPECT_EQ(slow[page * kPage + 5], kMark);
}

// Each in an area of its own of one mapping, page after page, with one page a fault: every page is
// right, and is one fault, in every place where faults are counted.
TEST_P(Parallel, FaultsOfFourThreadsInOneMappingAreCountedOnceEach) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kEach = 192;
  constexpr std::size_t kPages = kThreads * kEach;
  Watchdog watchdog;
  const Client client = connect(daemon_.socket());
  const auto in_four = [&](const std::function<void(std::size_t)>& of_page) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i, &watched = watchdog.watch("thread " + std::to_string(i))] {
        for (std::size_t page = i * kEach; page < (i + 1) * kEach; ++page) {
          watched.does("faulting in a page");
          of_page(page);
        }
        watched.rests();
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  const auto totals = [&] { return daemon_.ask(wire::AdminQuery::status)["status"]["faults"]; };
  const auto sum = [](const nlohmann::json& faults) {
    return faults["missing"].get<std::uint64_t>() + faults["minor"].get<std::uint64_t>();
  };

  for (const std::uint32_t sharing : {FL_MAP_PRIVATE, FL_MAP_SHARED}) {
    const PatternFile file(kPages * kPage);
    const auto memory = map(create_from(client, file.fd()), kPages * kPage, sharing | FL_MAP_WRITE);
    ASSERT_EQ(fl_advise(client, memory.data(), memory.size(), FL_ADVICE_RANDOM), 0);
    const nlohmann::json before = totals();
    fl_stats process_before{};
    ASSERT_EQ(fl_process_stats(client, &process_before), 0);
    std::atomic<std::size_t> wrong{0};
    in_four([&](std::size_t page) {
      if (memory[page * kPage + 1] != file.bytes()[page * kPage + 1]) ++wrong;
    });
    in_four([&](std::size_t page) {
      memory[page * kPage] = kMark;
      if (memory[page * kPage + 1] != file.bytes()[page * kPage + 1]) ++wrong;
    });
    EXPECT_EQ(wrong, 0U);
    const bool is_private = sharing == FL_MAP_PRIVATE;
    const std::size_t broken = is_private ? kPages : 0;
    // Through a shared mapping the first store to a page that a file has is a fault as well.
    const std::size_t written = kPages;
    const fl_stats stats = stats_of(client, memory.data());
    EXPECT_EQ(stats.missing_faults + stats.minor_faults, kPages);
    EXPECT_EQ(stats.wp_faults, written);
    EXPECT_EQ(stats.write_faults, written);
    EXPECT_EQ(stats.breaks, broken);
    EXPECT_EQ(stats.pages_mapped, kPages);
    EXPECT_EQ(stats.pages_copied, 0U);
    fl_stats process{};
    ASSERT_EQ(fl_process_stats(client, &process), 0);
    EXPECT_EQ(process.missing_faults + process.minor_faults - process_before.missing_faults -
                  process_before.minor_faults,
              kPages);
    EXPECT_EQ(process.wp_faults - process_before.wp_faults, written);
    const nlohmann::json after = totals();
    EXPECT_EQ(sum(after) - sum(before), kPages);
    EXPECT_EQ(
        after["write_protect"].get<std::uint64_t>() - before["write_protect"].get<std::uint64_t>(),
        written);
    EXPECT_EQ(after["writes"].get<std::uint64_t>() - before["writes"].get<std::uint64_t>(),
              written);
    EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
  }
}

// --- between clients

// What processes of a test count in.
class SharedCounter {
 public:
  SharedCounter()
      : count_(new (::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                           0)) std::atomic<std::uint64_t>(0)) {}
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;
  ~SharedCounter() { ::munmap(count_, kPage); }
  std::atomic<std::uint64_t>& operator*() const { return *count_; }

 private:
  std::atomic<std::uint64_t>* count_;
};

// Faults as fast as it can, until it is killed.
[[noreturn]] void fault_for_ever(std::span<std::byte> memory, std::atomic<std::uint64_t>& count) {
  for (;;) {
    for (std::size_t page = 0; page < memory.size() / kPage; ++page) {
      memory[page * kPage] = kMark;
      ++count;
    }
    if (::madvise(memory.data(), memory.size(), MADV_DONTNEED) != 0) ::_exit(1);
  }
}

int faults_with(const std::string& socket, std::size_t threads, std::atomic<std::uint64_t>& count) {
  constexpr std::size_t kEach = 16;
  const Client client = connect(socket);
  const auto memory = map(create(client, threads * kEach * kPage), threads * kEach * kPage,
                          FL_MAP_SHARED | FL_MAP_WRITE);
  if (fl_advise(client, memory.data(), memory.size(), FL_ADVICE_RANDOM) != 0) return 1;
  std::vector<std::thread> others;
  for (std::size_t i = 0; i < threads; ++i) {
    others.emplace_back(
        [&, i] { fault_for_ever(memory.subspan(i * kEach * kPage, kEach * kPage), count); });
  }
  for (std::thread& other : others) other.join();
  return 0;
}

int computes_with(std::size_t threads, std::atomic<std::uint64_t>& count) {
  std::vector<std::thread> all;
  for (std::size_t i = 0; i < threads; ++i) {
    all.emplace_back([&] {
      for (;;) ++count;
    });
  }
  for (std::thread& thread : all) thread.join();
  return 0;
}

// One client with eight threads that do nothing but fault, and one of the same user with a single
// thread, which gets at least a quarter of what it has while every processor computes. It
// is enough that this shows in one measurement of several: others use the machine too.
TEST(ParallelClients, AGreedyClientLeavesAnotherItsShare) {
  constexpr std::size_t kGreedy = 8;
  constexpr std::chrono::milliseconds kMeasured(150);
  const Daemon daemon;
  const SharedCounter modest_count;
  const SharedCounter other_count;
  const Child modest([&] { return faults_with(daemon.socket(), 1, *modest_count); });
  const auto rate_beside = [&](const std::function<int()>& other) {
    *other_count = 0;
    const Child beside(other);
    EXPECT_TRUE(eventually([&] { return *other_count > 1000; }, std::chrono::seconds(20)));
    const std::uint64_t before = *modest_count;
    const auto start = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(kMeasured);  // what is measured is what happens meanwhile
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    return static_cast<double>(*modest_count - before) / took.count();
  };
  double best = 0;
  EXPECT_TRUE(eventually(
      [&] {
        const double alone = rate_beside(
            [&] { return computes_with(std::thread::hardware_concurrency(), *other_count); });
        const double shared =
            rate_beside([&] { return faults_with(daemon.socket(), kGreedy, *other_count); });
        best = std::max(best, shared / std::max(alone, 1.0));
        return alone > 0 && best >= 0.25;
      },
      std::chrono::seconds(20)))
      << best << " of its rate is left to it at best";
  std::cout << "left to it: " << best << " of its rate beside a busy process" << std::endl;
}

}  // namespace
}  // namespace faultline::testing
