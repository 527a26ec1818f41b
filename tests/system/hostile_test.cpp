// Clients that break the protocol, lie or misuse what they are given harm nobody but themselves.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

#include "tests/system/harness.hpp"
#include "tests/system/hostile.hpp"
#include "tests/system/huge_pages.hpp"
#include "tests/unit/holes.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

using wire::Op;

// A hostile child that is neither served nor refused ends by SIGALRM.
constexpr unsigned kChildWithinSeconds = 20;

// --- packets

TEST_F(Hostile, BytesThatAreNoRequestEndTheConnection) {
  std::vector<std::byte> garbage(300);
  for (std::size_t i = 0; i < garbage.size(); ++i) garbage[i] = static_cast<std::byte>(i * 37 + 1);
  for (const std::size_t size : {0U, 1U, 3U, 12U, 23U, 24U, 25U, 300U}) {
    {
      const Raw raw(socket());
      EXPECT_TRUE(raw.exchange(std::span(garbage).first(size)).closed()) << size;
    }
    expect_unharmed(std::to_string(size) + " bytes of garbage");
  }
}

TEST_F(Hostile, HalfAHeaderEndsTheConnection) {
  const auto hello =
      wire::join(header_of(Op::hello, sizeof(wire::HelloRequest)), wire::HelloRequest{});
  for (std::size_t size = 0; size < sizeof(wire::RequestHeader); size += 4) {
    const Raw raw(socket());
    EXPECT_TRUE(raw.exchange(std::span(hello).first(size)).closed()) << size;
  }
  expect_unharmed("short headers");
}

TEST_F(Hostile, WrongMagicEndsTheConnection) {
  {
    const Raw raw(socket());
    auto header = header_of(Op::hello, sizeof(wire::HelloRequest));
    header.magic ^= 1;
    EXPECT_TRUE(raw.exchange(wire::join(header, wire::HelloRequest{})).closed());
  }
  expect_unharmed("wrong magic");
}

TEST_F(Hostile, AnotherVersionIsRefusedInWords) {
  for (const unsigned version : {0U, wire::kVersion + 1U, 0xffffU}) {
    {
      const Raw raw(socket());
      auto header = header_of(Op::hello, sizeof(wire::HelloRequest));
      header.version = static_cast<std::uint16_t>(version);
      header.cookie = 77;
      const Answer answer = raw.exchange(wire::join(header, wire::HelloRequest{}));
      EXPECT_TRUE(answer.refused_with(EPROTO)) << answer;
      EXPECT_EQ(answer.header.cookie, 77U);
      EXPECT_NE(std::string(answer.header.detail.data()).find("version"), std::string::npos);
    }
    expect_unharmed("version " + std::to_string(version));
  }
}

TEST_F(Hostile, ABodySizeThatLiesEndsTheConnection) {
  for (const std::uint32_t lie : {0U, 1U, 7U, 9U, 4096U, 0x7fff'ffffU, 0xffff'ffffU}) {
    {
      const Raw raw(socket());
      auto header = header_of(Op::hello, sizeof(wire::HelloRequest));
      header.body_size = lie;
      EXPECT_TRUE(raw.exchange(wire::join(header, wire::HelloRequest{})).closed()) << lie;
    }
    expect_unharmed("body_size " + std::to_string(lie));
  }
}

TEST_F(Hostile, ABodyOfTheWrongLengthIsMalformed) {
  {
    const Attached session(socket());
    for (const Op op :
         {Op::object_create, Op::object_open, Op::object_stat, Op::object_unlink, Op::object_close,
          Op::map, Op::mapping_stats, Op::admin, Op::protect, Op::advise, Op::rediscover,
          Op::populate, Op::job_progress, Op::job_free, Op::wake}) {
      const std::array<std::byte, 3> body{};
      const Answer answer = session->call(op, body);
      EXPECT_TRUE(answer.refused_with(EPROTO)) << static_cast<int>(op) << ": " << answer;
    }
  }
  expect_unharmed("bodies of three bytes");
}

TEST_F(Hostile, AnOversizePacketEndsTheConnection) {
  for (const std::size_t size : {wire::kMaxPacket + 1, std::size_t{60'000}}) {
    {
      const Raw raw(socket());
      std::vector<std::byte> bytes(size);
      const auto header = header_of(Op::hello, size - sizeof(wire::RequestHeader));
      std::memcpy(bytes.data(), &header, sizeof(header));
      const UniqueFd extra{::eventfd(0, EFD_CLOEXEC)};
      const std::array fds{extra.get()};
      EXPECT_TRUE(raw.exchange(bytes, fds).closed()) << size;
    }
    expect_unharmed(std::to_string(size) + " bytes");
  }
}

TEST_F(Hostile, RequestsBeforeHelloAreRefused) {
  {
    const Raw raw(socket());
    for (const Op op : {Op::attach_new, Op::attach_forked, Op::object_create, Op::object_open,
                        Op::object_stat, Op::object_unlink, Op::object_close, Op::map,
                        Op::mapping_stats, Op::process_stats, Op::admin, Op::protect, Op::advise,
                        Op::rediscover, Op::populate, Op::job_progress, Op::job_free}) {
      EXPECT_TRUE(raw.call(op).refused_with(EPROTO)) << static_cast<int>(op);
    }
  }
  expect_unharmed("requests before hello");
}

TEST_F(Hostile, RequestsBeforeAttachingAreRefused) {
  {
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    EXPECT_TRUE(raw.call(Op::object_create, wire::ObjectCreateRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::object_open, wire::ObjectOpenRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::object_stat, wire::HandleRequest{1}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::object_unlink, wire::UnlinkRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::object_close, wire::HandleRequest{1}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::map, wire::MapRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::mapping_stats, wire::MappingStatsRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::process_stats).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::protect, wire::ProtectRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::advise, wire::AdviseRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::rediscover, wire::RediscoverRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::populate, wire::PopulateRequest{}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::job_progress, wire::JobRequest{1}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::job_free, wire::JobRequest{1}).refused_with(ENOTCONN));
  }
  expect_unharmed("requests before attaching");
}

TEST_F(Hostile, UnknownOperationsAndQueriesAreRefused) {
  {
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    for (const unsigned op : {0U, 31U, 255U, 0xffffU}) {
      EXPECT_TRUE(raw.call(static_cast<Op>(op)).refused_with(EOPNOTSUPP)) << op;
    }
    for (const std::uint32_t query : {0U, 9U, 0xffff'ffffU}) {
      const wire::AdminRequest request{static_cast<wire::AdminQuery>(query), 0};
      EXPECT_TRUE(raw.call(Op::admin, request).refused_with(EINVAL)) << query;
    }
    wire::AdminRequest wrong{wire::AdminQuery::spaces, 0};
    wrong.flags = ~wire::kAdminNoResidency;
    EXPECT_TRUE(raw.call(Op::admin, wrong).refused_with(EINVAL));
    wrong = {wire::AdminQuery::map, 0, 12345};
    EXPECT_TRUE(raw.call(Op::admin, wrong).refused_with(ENOENT));
    wrong.object_name.fill('x');
    EXPECT_TRUE(raw.call(Op::admin, wrong).refused_with(EPROTO)) << "a name without an end";
    for (const std::uint32_t kind : {0U, 4U, 0xffff'ffffU}) {
      const wire::WordKey key{static_cast<wire::KeyKind>(kind), 0, 1, 0};
      EXPECT_TRUE(raw.call(Op::wake, wire::WakeRequest{key, 1, 0}).refused_with(EINVAL)) << kind;
    }
    const wire::WordKey frame{wire::KeyKind::frame, 0, 1, 0};
    EXPECT_TRUE(raw.call(Op::wake, wire::WakeRequest{frame, 0, 0}).refused_with(EINVAL));
    EXPECT_TRUE(raw.call(Op::wake, wire::WakeRequest{frame, 1, 1}).refused_with(EPROTO));
    const wire::AdminRequest nobody{wire::AdminQuery::vmas, 0xffff'fff0U};
    EXPECT_TRUE(raw.call(Op::admin, nobody).refused_with(ESRCH));
  }
  expect_unharmed("unknown operations");
}

// --- descriptors

TEST_F(Hostile, TooManyDescriptorsEndTheConnectionAndAreClosed) {
  const auto hello =
      wire::join(header_of(Op::hello, sizeof(wire::HelloRequest)), wire::HelloRequest{});
  for (const std::size_t count : {wire::kMaxFds + 1, std::size_t{253}}) {
    {
      const Raw raw(socket());
      const UniqueFd one{::eventfd(0, EFD_CLOEXEC)};
      const std::vector<int> fds(count, one.get());
      EXPECT_TRUE(raw.exchange(hello, fds).closed()) << count;
    }
    expect_unharmed(std::to_string(count) + " descriptors");
  }
}

TEST_F(Hostile, DescriptorsThatNobodyAskedForAreClosed) {
  {
    const Attached session(socket());
    const UniqueFd one{::eventfd(0, EFD_CLOEXEC)};
    const std::array fds{one.get(), one.get()};
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(session->call(Op::hello, wire::HelloRequest{}, fds).transport, 0);
      EXPECT_TRUE(session->call(Op::object_stat, wire::HandleRequest{9}, fds).refused());
      EXPECT_TRUE(session->call(Op::object_create, wire::ObjectCreateRequest{}, fds).refused());
    }
    EXPECT_LT(daemon_.open_descriptors(), descriptors_ + 10);
  }
  expect_unharmed("descriptors that nobody asked for");
}

TEST_F(Hostile, ADescriptorThatIsDueAndMissingIsMalformed) {
  {
    const Memory beacon(kPage);
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    EXPECT_TRUE(
        raw.call(Op::attach_new, wire::AttachNewRequest{beacon.address()}).refused_with(EPROTO));
    const UniqueFd one = make_userfaultfd();
    const std::array two{one.get(), one.get()};
    EXPECT_TRUE(raw.call(Op::attach_new, wire::AttachNewRequest{beacon.address()}, two)
                    .refused_with(EPROTO));
    const Attached session(socket());
    wire::ObjectCreateRequest request;
    request.size = kPage;
    request.flags = wire::kObjectFromFile;
    EXPECT_TRUE(session->call(Op::object_create, request).refused_with(EPROTO));
  }
  expect_unharmed("missing descriptors");
}

TEST_F(Hostile, WhatIsNoUserfaultfdIsRefused) {
  std::array<int, 2> pipe_ends{};
  ASSERT_EQ(::pipe2(pipe_ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end{pipe_ends[0]};
  const UniqueFd write_end{pipe_ends[1]};
  const UniqueFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  const UniqueFd event{::eventfd(0, EFD_CLOEXEC)};
  const UniqueFd path_only{::open("/", O_PATH | O_CLOEXEC)};
  const UniqueFd memfd{::memfd_create("anon_inode:[userfaultfd]", MFD_CLOEXEC)};
  const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  for (const UniqueFd* fd : {&read_end, &write_end, &null, &event, &path_only, &memfd, &device}) {
    if (!fd->valid()) continue;  // no such device here
    {
      const Memory beacon(kPage);
      const Raw raw(socket());
      EXPECT_EQ(raw.hello().header.status, 0);
      const Answer answer = raw.attach(fd->get(), beacon.address());
      EXPECT_TRUE(answer.refused_with(EBADF)) << answer;
      const UniqueFd good = make_userfaultfd();
      EXPECT_EQ(raw.attach(good.get(), beacon.address()).header.status, 0)
          << "the session may try again";
    }
    expect_unharmed("a wrong descriptor");
  }
}

TEST_F(Hostile, AnInitialisedUserfaultfdIsRefused) {
  {
    const Memory beacon(kPage);
    const UniqueFd used = make_userfaultfd();
    uffdio_api api{UFFD_API, 0, 0};
    ASSERT_EQ(::ioctl(used.get(), UFFDIO_API, &api), 0);
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    const Answer answer = raw.attach(used.get(), beacon.address());
    EXPECT_TRUE(answer.refused_with(EBUSY)) << answer;
  }
  expect_unharmed("an initialised userfaultfd");
}

TEST_F(Hostile, OneUserfaultfdServesOneSession) {
  {
    const Memory first_beacon(kPage);
    const Memory second_beacon(kPage);
    const UniqueFd userfaultfd = make_userfaultfd();
    const Raw first(socket());
    const Raw second(socket());
    EXPECT_EQ(first.hello().header.status, 0);
    EXPECT_EQ(second.hello().header.status, 0);
    EXPECT_EQ(first.attach(userfaultfd.get(), first_beacon.address()).header.status, 0);
    EXPECT_TRUE(second.attach(userfaultfd.get(), second_beacon.address()).refused_with(EBUSY));
  }
  expect_unharmed("one userfaultfd sent twice");
}

TEST_F(Hostile, ABeaconThatIsNoPageIsRefused) {
  const UniqueFd binary{::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
  void* const text = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, binary.get(), 0);
  ASSERT_NE(text, MAP_FAILED);
  const Memory page(2 * kPage);
  void* const hole = ::mmap(hint_for_holes(), kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_EQ(::munmap(hole, kPage), 0);
  const std::uint64_t unmapped = number(hole);
  for (const std::uint64_t beacon :
       {std::uint64_t{0}, page.address() + 1, page.address() + kPage / 2, unmapped, number(text),
        std::uint64_t{1} << 47, ~std::uint64_t{0} - kPage + 1}) {
    {
      const Raw raw(socket());
      EXPECT_EQ(raw.hello().header.status, 0);
      const UniqueFd userfaultfd = make_userfaultfd();
      const Answer answer = raw.attach(userfaultfd.get(), beacon);
      EXPECT_TRUE(answer.refused()) << std::hex << beacon << ": " << answer;
    }
    expect_unharmed("beacon " + std::to_string(beacon));
  }
  ::munmap(text, kPage);
}

TEST_F(Hostile, ABeaconInSharedMemoryHarmsNobody) {
  EXPECT_FALSE(in_child([&] {
                 ::alarm(kChildWithinSeconds);
                 const UniqueFd memfd{::memfd_create("beacon", MFD_CLOEXEC)};
                 if (::ftruncate(memfd.get(), kPage) != 0) return 1;
                 const Memory beacon(kPage, MAP_SHARED, memfd.get());
                 const Raw raw(socket());
                 (void)raw.hello();
                 const UniqueFd userfaultfd = make_userfaultfd();
                 (void)raw.attach(userfaultfd.get(), beacon.address());
                 return touch(*beacon.data());
               }).killed_by(SIGALRM));
  expect_unharmed("a beacon in shared memory");
}

TEST_F(Hostile, AttachingTwiceIsRefused) {
  {
    const Attached session(socket());
    const Memory beacon(kPage);
    const UniqueFd userfaultfd = make_userfaultfd();
    EXPECT_TRUE(session->attach(userfaultfd.get(), beacon.address()).refused_with(EISCONN));
    EXPECT_TRUE(session->call(Op::attach_forked, wire::AttachForkedRequest{}).refused());
  }
  expect_unharmed("attaching twice");
}

TEST_F(Hostile, AMadeUpCookieOpensNothing) {
  {
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    std::mt19937_64 random(announce_seed());
    for (int i = 0; i < 200; ++i) {
      wire::AttachForkedRequest request;  // all zero at first
      if (i > 0) {
        for (auto& byte : request.cookie) byte = static_cast<std::uint8_t>(random());
      }
      EXPECT_TRUE(raw.call(Op::attach_forked, request).refused_with(ENOENT));
    }
  }
  expect_unharmed("made-up cookies");
}

// The descriptor of another address space, given by its owner: the daemon serves that one, and
// outlives it.
TEST_F(Hostile, TheUserfaultfdOfAnotherProcess) {
  for (const bool dies_first : {true, false}) {
    {
      std::array<int, 2> ends{};
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
      const UniqueFd mine{ends[0]};
      UniqueFd its{ends[1]};
      Child child([&] {
        const Memory beacon(kPage);
        const UniqueFd userfaultfd = make_userfaultfd();
        const std::uint64_t address = beacon.address();
        const std::array fds{userfaultfd.get()};
        if (wire::send_packet(its.get(), bytes_of(address), fds) != 0) return 1;
        ::pause();
        return 0;
      });
      its.reset();
      wire::Packet packet;
      ASSERT_EQ(wire::receive_packet(mine.get(), packet), 0);
      ASSERT_EQ(packet.fds.size(), 1U);
      std::uint64_t beacon = 0;
      std::memcpy(&beacon, packet.bytes.data(), sizeof(beacon));
      const auto end_child = [&] {
        child.kill(SIGKILL);
        child.wait();
      };
      if (dies_first) end_child();
      const Raw raw(socket());
      EXPECT_EQ(raw.hello().header.status, 0);
      const Answer attached = raw.attach(packet.fds.front().get(), beacon);
      if (dies_first) {
        EXPECT_TRUE(attached.refused()) << attached;
      } else {
        EXPECT_EQ(attached.transport, 0);
        // Its own memory is not in that address space, and so cannot be mapped.
        wire::ObjectCreateRequest create;
        create.size = kPage;
        const Answer created = raw.call(Op::object_create, create);
        const Memory memory(kPage, MAP_SHARED | MAP_ANONYMOUS);
        wire::MapRequest request;
        request.handle = created.body<wire::ObjectReply>().handle;
        request.address = memory.address();
        request.length = kPage;
        request.flags = wire::kMapShared;
        EXPECT_TRUE(raw.call(Op::map, request).refused());
        end_child();
        EXPECT_TRUE(raw.call(Op::map, request).refused());
        EXPECT_EQ(raw.call(Op::process_stats).transport, 0);
        EXPECT_EQ(raw.call(Op::mapping_stats, wire::MappingStatsRequest{beacon}).transport, 0);
      }
    }
    expect_unharmed("the userfaultfd of another process");
  }
}

// A user without rights, whose session is in the name of a process that has become another user's:
// it had connected for this one, and then executed a program that belongs to root.
class Disguised {
 public:
  Disguised(const std::string& socket, std::string program)
      : program_(std::move(program)), userfaultfd_(make_userfaultfd()) {
    EXPECT_EQ(::setresgid(kNobody, kNobody, kNobody), 0) << std::strerror(errno);
    EXPECT_EQ(::setresuid(kNobody, kNobody, kNobody), 0) << std::strerror(errno);
    EXPECT_EQ(::prctl(PR_SET_DUMPABLE, 1), 0) << std::strerror(errno);
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    const UniqueFd mine{ends[0]};
    const UniqueFd its{ends[1]};
    victim_.emplace([&] { return attach_and_become_root(socket, its.get()); });
    wire::Packet packet;
    EXPECT_EQ(wire::receive_packet(mine.get(), packet), 0);
    EXPECT_EQ(packet.fds.size(), 1U);
    if (!packet.fds.empty()) session_.emplace(std::move(packet.fds.front()));
    EXPECT_TRUE(eventually([this] { return victim_is_root(); }));
  }

  // What is said to be resident in a mapping beside this very program, where a program that is
  // loaded at random may well have its own.
  [[nodiscard]] std::uint64_t resident(bool above) const {
    wire::ObjectCreateRequest create;
    create.size = kMuch;
    Answer created = session_->call(Op::object_create, create);
    EXPECT_EQ(created.header.status, 0) << created;
    const std::uint64_t image = ::getauxval(AT_PHDR) / kPage * kPage;
    const std::uint64_t start = above ? image + kBeside : image - kBeside - kMuch;
    void* const there = ::mmap(reinterpret_cast<void*>(start), kMuch, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
                               created.packet.fds.at(0).get(), 0);
    EXPECT_NE(there, MAP_FAILED) << std::strerror(errno);
    wire::MapRequest request;
    request.handle = created.body<wire::ObjectReply>().handle;
    request.address = start;
    request.length = kMuch;
    request.flags = wire::kMapPrivate | wire::kMapWrite;
    const Answer mapped = session_->call(Op::map, request);
    EXPECT_EQ(mapped.header.status, 0) << mapped;
    const Answer stats = session_->call(Op::mapping_stats, wire::MappingStatsRequest{start});
    EXPECT_EQ(stats.header.status, 0) << stats;
    const Answer all = session_->call(Op::process_stats);
    EXPECT_EQ(all.header.status, 0) << all;
    return stats.body<wire::Stats>().resident_bytes + all.body<wire::Stats>().resident_bytes;
  }

 private:
  static constexpr uid_t kNobody = 65534;
  static constexpr std::uint64_t kMuch = std::uint64_t{2} << 40;
  static constexpr std::uint64_t kBeside = std::uint64_t{8} << 30;

  int attach_and_become_root(const std::string& socket, int pass_on) {
    const Raw raw(socket);
    (void)raw.hello();
    const Answer attached = raw.attach(userfaultfd_.get(), beacon_.address());
    if (attached.header.status != 0) return 2;
    const std::array fds{raw.socket()};
    if (wire::send_packet(pass_on, bytes_of(kMark), fds) != 0) return 3;
    ::execl(program_.c_str(), "sleep", "1000", nullptr);
    return 4;
  }
  [[nodiscard]] bool victim_is_root() const {
    std::ifstream status("/proc/" + std::to_string(victim_->pid()) + "/status");
    std::string line;
    while (std::getline(status, line)) {
      if (line.rfind("Uid:\t65534\t0\t", 0) == 0) return true;
    }
    return false;
  }

  const std::string program_;
  UniqueFd userfaultfd_;
  Memory beacon_{kPage};
  std::optional<Child> victim_;
  std::optional<Raw> session_;
};

// The daemon may look into every process; what it tells a client of one must be what that client
// may know. Where a program of root's has its memory is not.
TEST_F(Hostile, AProcessThatBecameAnotherUsersIsNotLookedInto) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer leaves no room for so large a mapping beside the program";
#endif
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: a program that makes its user root takes root";
  const std::string program = daemon_.directory() / "sleep";
  std::filesystem::copy_file("/bin/sleep", program);
  ASSERT_EQ(::chmod(program.c_str(), 04755), 0) << std::strerror(errno);
  ASSERT_EQ(::chmod(daemon_.directory().c_str(), 0755), 0) << std::strerror(errno);
  const Outcome outcome = in_child([&] {
    const Disguised disguised(socket(), program);
    if (::testing::Test::HasFailure()) return 1;
    EXPECT_EQ(disguised.resident(false), 0U) << "and this process touched nothing";
    EXPECT_EQ(disguised.resident(true), 0U) << "and this process touched nothing";
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_TRUE(bystander_.served());
}

// --- objects and mappings

TEST_F(Hostile, HandlesThatDoNotExistAreRefused) {
  {
    Attached session(socket());
    const wire::ObjectReply object = session.create(kPage);
    for (const std::uint64_t handle :
         {std::uint64_t{0}, object.handle + 1, object.handle - 1, ~std::uint64_t{0}}) {
      EXPECT_TRUE(session->call(Op::object_stat, wire::HandleRequest{handle}).refused_with(EBADF));
      EXPECT_TRUE(session->call(Op::object_close, wire::HandleRequest{handle}).refused_with(EBADF));
      wire::MapRequest request;
      request.handle = handle;
      request.address = 0x1000'0000;
      request.length = kPage;
      request.flags = wire::kMapShared;
      EXPECT_TRUE(session->call(Op::map, request).refused_with(EBADF));
    }
    EXPECT_EQ(session->call(Op::object_close, wire::HandleRequest{object.handle}).header.status, 0);
    EXPECT_TRUE(
        session->call(Op::object_close, wire::HandleRequest{object.handle}).refused_with(EBADF));
  }
  expect_unharmed("made-up handles");
}

TEST_F(Hostile, RangesThatAreNotTheObjectsAreRefused) {
  {
    Attached session(socket());
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(8 * kPage, {}, -1, &memfd);
    const Memory good(16 * kPage, MAP_SHARED, memfd.get());
    constexpr std::uint64_t kTop = std::numeric_limits<std::uint64_t>::max() - kPage + 1;
    struct Lie {
      const char* what = nullptr;
      std::uint64_t address = 0;
      std::uint64_t length = 0;
      std::uint64_t offset = 0;
      std::uint32_t flags = wire::kMapShared;
    };
    const std::uint64_t at = good.address();
    for (const Lie& lie : {
             Lie{"nothing", at, 0, 0},
             Lie{"an odd address", at + 8, kPage, 0},
             Lie{"an odd length", at, kPage + 1, 0},
             Lie{"an odd offset", at, kPage, 100},
             Lie{"address 0", 0, kPage, 0},
             Lie{"the last page there is", kTop, kPage, 0},
             Lie{"an address that wraps", kTop, 2 * kPage, 0},
             Lie{"a kernel address", 0xffff'8000'0000'0000, kPage, 0},
             Lie{"a length that wraps", at, kTop, 0},
             Lie{"a length past the object", at, 9 * kPage, 0},
             Lie{"an offset past the object", at, kPage, 8 * kPage},
             Lie{"an offset that wraps", at, 2 * kPage, kTop},
             Lie{"offset and length past the object", at, 5 * kPage, 4 * kPage},
             Lie{"no kind", at, kPage, 0, 0},
             Lie{"both kinds", at, kPage, 0, wire::kMapShared | wire::kMapPrivate},
             Lie{"a flag that is none", at, kPage, 0, wire::kMapShared | 0x80},
         }) {
      wire::MapRequest request;
      request.handle = object.handle;
      request.address = lie.address;
      request.length = lie.length;
      request.object_offset = lie.offset;
      request.flags = lie.flags;
      const Answer answer = session->call(Op::map, request);
      EXPECT_TRUE(answer.refused_with(EINVAL)) << lie.what << ": " << answer;
    }
  }
  expect_unharmed("ranges that lie");
}

TEST_F(Hostile, MemoryThatIsNotSharedMemoryIsRefused) {
  {
    Attached session(socket());
    const wire::ObjectReply object = session.create(8 * kPage);
    const UniqueFd binary{::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
    void* const text = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, binary.get(), 0);
    ASSERT_NE(text, MAP_FAILED);
    const Memory anonymous(8 * kPage);
    std::uint64_t unmapped = 0;
    { unmapped = Memory(8 * kPage).address(); }
    int on_stack = 0;
    for (const std::uint64_t address : {anonymous.address(), unmapped, number(text),
                                        number(&on_stack) & ~(kPage - 1), std::uint64_t{kPage}}) {
      wire::MapRequest request;
      request.handle = object.handle;
      request.address = address;
      request.length = kPage;
      for (const std::uint32_t flags :
           {wire::kMapShared, wire::kMapPrivate, wire::kMapPrivate | wire::kMapWrite}) {
        request.flags = flags;
        const Answer answer = session->call(Op::map, request);
        EXPECT_TRUE(answer.refused()) << std::hex << address << ": " << answer;
      }
    }
    anonymous.data()[0] = kMark;
    ::munmap(text, kPage);
  }
  expect_unharmed("memory that is not shared memory");
}

// Shared memory, but not the object's: who maps that gets what it asked for, and its faults end.
TEST_F(Hostile, TheMemoryOfAnotherFileHarmsNobody) {
  const PatternFile file(8 * kPage);
  for (const std::uint32_t flags : {wire::kMapShared, wire::kMapShared | wire::kMapWrite,
                                    wire::kMapPrivate, wire::kMapPrivate | wire::kMapWrite}) {
    for (const bool from_file : {false, true}) {
      const Outcome outcome = in_child([&] {
        ::alarm(kChildWithinSeconds);
        Attached session(socket());
        const wire::ObjectReply object = session.create(8 * kPage, {}, from_file ? file.fd() : -1);
        const UniqueFd other{::memfd_create("other", MFD_CLOEXEC)};
        if (::ftruncate(other.get(), 8 * kPage) != 0) return 1;
        const Memory memory(8 * kPage, MAP_SHARED, other.get());
        wire::MapRequest request;
        request.handle = object.handle;
        request.address = memory.address();
        request.length = 8 * kPage;
        request.flags = flags;
        if (session->call(Op::map, request).refused()) return 0;
        touch(memory.data()[3 * kPage]);
        memory.data()[5 * kPage] = kMark;
        return 0;
      });
      EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGBUS)) << outcome;
      expect_unharmed("the memory of another file");
    }
  }
}

// Reads one page of memory that it says is the named object's, and is not.
Outcome lie_about(const std::string& socket, const char* name) {
  return in_child([&] {
    ::alarm(kChildWithinSeconds);
    Attached session(socket);
    const wire::ObjectReply object = session.open(name, wire::Access::read_only);
    const UniqueFd other{::memfd_create("other", MFD_CLOEXEC)};
    if (::ftruncate(other.get(), static_cast<off_t>(object.size)) != 0) return 1;
    const Memory memory(object.size, MAP_SHARED, other.get());
    wire::MapRequest request;
    request.handle = object.handle;
    request.address = memory.address();
    request.length = object.size;
    request.flags = wire::kMapShared;
    if (session->call(Op::map, request).refused()) return 0;
    return touch(*memory.data());
  });
}

TEST_F(Hostile, AReaderThatLiesDoesNotUndoWritesToAFilesObject) {
  {
    const PatternFile file(kPage);
    const Client client = connect(socket());
    const Object object = create_from(client, file.fd(), 0, "victim");
    const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    const std::byte written = ~file.bytes()[0];
    shared[0] = written;
    const Outcome outcome = lie_about(socket(), "victim");
    EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGBUS)) << outcome;
    EXPECT_EQ(shared[0], written) << "a reader made the daemon read the file again";
    EXPECT_EQ(fl_object_unlink(client, "victim"), 0) << fl_last_error();
    fl_unmap(client, shared.data(), shared.size());
  }
  expect_unharmed("a reader that lies");
}

TEST_F(Hostile, AReaderThatLiesDoesNotHideWritesToAnEmptyObject) {
  {
    const Client client = connect(socket());
    const Object object = create(client, kPage, "victim", 0644);
    const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    shared[0] = kMark;
    const Outcome outcome = lie_about(socket(), "victim");
    EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGBUS)) << outcome;
    const auto view = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    view[1] = kMark;
    EXPECT_EQ(view[0], kMark) << "a private copy was made of zeroes";
    EXPECT_EQ(fl_object_unlink(client, "victim"), 0) << fl_last_error();
    fl_unmap(client, view.data(), view.size());
    fl_unmap(client, shared.data(), shared.size());
  }
  expect_unharmed("a reader that lies");
}

// Memory of pages of one size, in the name of an object of pages of the other: whoever lies so is
// not served for ever.
TEST_F(Hostile, MemoryOfPagesOfAnotherSizeHarmsNobody) {
  const HugePages pool(16);
  if (!pool.there()) GTEST_SKIP() << "SKIPPED: pages of 2 MiB cannot be had (vm.nr_hugepages)";
  for (const bool object_is_huge : {true, false}) {
    for (const std::uint32_t flags :
         {wire::kMapShared | wire::kMapWrite, wire::kMapPrivate | wire::kMapWrite}) {
      const Outcome outcome = in_child([&] {
        ::alarm(kChildWithinSeconds);
        Attached session(socket());
        wire::ObjectCreateRequest create;
        create.size = 2 * kHuge;
        create.page_size = object_is_huge ? kHuge : kPage;
        const Answer created = session->call(Op::object_create, create);
        EXPECT_EQ(created.header.status, 0) << created;
        const UniqueFd other{
            ::memfd_create("other", MFD_CLOEXEC | (object_is_huge ? 0 : MFD_HUGETLB | 21U << 26))};
        if (::ftruncate(other.get(), 4 * kHuge) != 0) return 1;
        // Beside it is memory of nobody's, where a whole page may have to be.
        const Memory memory(4 * kHuge, MAP_PRIVATE, other.get());
        wire::MapRequest request;
        request.handle = created.body<wire::ObjectReply>().handle;
        request.address = (memory.address() + kHuge - 1) / kHuge * kHuge;
        request.length = 2 * kHuge;
        request.flags = flags;
        if (session->call(Op::map, request).refused()) return 0;
        auto* const start = memory.data() + (request.address - memory.address());
        ::munmap(start + kHuge + kHuge / 2, object_is_huge ? kHuge / 4 : 0);
        start[kHuge + kPage] = kMark;
        touch(start[7 * kPage]);
        return 0;
      });
      EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGBUS))
          << outcome << (object_is_huge ? ": small pages" : ": huge pages") << ", flags " << flags;
      expect_unharmed("memory of pages of another size");
    }
  }
}

// Requests about parts of a huge page, which the library would refuse by itself.
TEST_F(Hostile, RangesThatCutAHugePageAreRefused) {
  const HugePages pool(16);
  if (!pool.there()) GTEST_SKIP() << "SKIPPED: pages of 2 MiB cannot be had (vm.nr_hugepages)";
  {
    Attached session(socket());
    wire::ObjectCreateRequest create;
    create.size = 4 * kHuge;
    create.page_size = kHuge;
    const Answer created = session->call(Op::object_create, create);
    ASSERT_EQ(created.header.status, 0) << created;
    const Memory memory(4 * kHuge, MAP_SHARED, created.packet.fds.front().get());
    wire::MapRequest map;
    map.handle = created.body<wire::ObjectReply>().handle;
    map.address = memory.address();
    map.length = 4 * kHuge;
    map.flags = wire::kMapShared | wire::kMapWrite;
    const auto refused = [&](Op op, const auto& request) {
      const Answer answer = session->call(op, request);
      EXPECT_TRUE(answer.refused_with(EINVAL)) << static_cast<int>(op) << ": " << answer;
    };
    for (const auto& [offset, from, length] :
         {std::tuple{kPage, std::size_t{0}, kHuge}, std::tuple{std::size_t{0}, kPage, kHuge},
          std::tuple{std::size_t{0}, std::size_t{0}, kHuge + kPage}}) {
      wire::MapRequest wrong = map;
      wrong.address += offset;
      wrong.object_offset = from;
      wrong.length = length;
      refused(Op::map, wrong);
    }
    ASSERT_EQ(session->call(Op::map, map).header.status, 0);
    for (const auto& [offset, length] :
         {std::pair{std::size_t{0}, kPage}, std::pair{kPage, kHuge},
          std::pair{kHuge, 2 * kHuge - kPage}, std::pair{kHuge + kPage, kPage}}) {
      const std::uint64_t at = memory.address() + offset;
      refused(Op::protect, wire::ProtectRequest{at, length, 0});
      refused(Op::advise, wire::AdviseRequest{at, length, wire::Advice::random});
      refused(Op::populate, wire::PopulateRequest{at, length});
    }
    const auto mappings = daemon_.ask(wire::AdminQuery::vmas, ::getpid());
    EXPECT_EQ(mappings["vmas"].size(), 1U) << mappings.dump(1);
    memory.data()[3 * kHuge] = kMark;
  }
  expect_unharmed("ranges that cut a huge page");
}

// A writer may tear pages out of the object's memfd; what it had there is lost, and nothing else.
TEST_F(Hostile, PagesTornOutOfAnObjectComeBack) {
  const Outcome outcome = in_child([&] {
    ::alarm(kChildWithinSeconds);
    const Client client = connect(socket());
    const Object object = create(client, 64 * kPage);
    const auto shared = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    for (int round = 0; round < 50; ++round) {
      for (std::size_t page = 0; page < 64; ++page) shared[page * kPage] = kMark;
      if (::fallocate(fl_object_fd(object), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      64 * kPage) != 0) {
        return 1;
      }
      if (shared[7 * kPage] != std::byte{0}) return 2;
    }
    return 0;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  expect_unharmed("holes in an object");
}

TEST_F(Hostile, ObjectRequestsThatLieAreRefused) {
  {
    const Attached session(socket());
    const auto refused = [&](int error, auto change) {
      wire::ObjectCreateRequest request;
      request.size = kPage;
      change(request);
      const Answer answer = session->call(Op::object_create, request);
      EXPECT_TRUE(answer.refused_with(error)) << std::strerror(error) << ", not " << answer;
    };
    refused(EINVAL, [](auto& r) { r.size = 0; });
    refused(EFBIG, [](auto& r) { r.size = ~std::uint64_t{0}; });
    refused(EFBIG, [](auto& r) { r.size = std::uint64_t{1} << 63; });
    refused(EINVAL, [](auto& r) { r.flags = 4; });
    refused(EINVAL, [](auto& r) { r.mode = 07777; });
    refused(EINVAL, [](auto& r) { r.page_size = 1; });
    refused(EINVAL, [](auto& r) { r.page_size = 3U << 20; });
    refused(EINVAL, [](auto& r) { r.page_size = 1U << 30; });
    refused(EINVAL, [](auto& r) { r.file_offset = kPage; });
    wire::ObjectOpenRequest open;
    for (const std::uint32_t access : {0U, 3U, 0xffff'ffffU}) {
      open.access = static_cast<wire::Access>(access);
      EXPECT_TRUE(session->call(Op::object_open, open).refused_with(EINVAL)) << access;
    }
  }
  expect_unharmed("object requests that lie");
}

TEST_F(Hostile, OddNamesAreRefused) {
  {
    const Attached session(socket());
    const auto everywhere = [&](const wire::Name& name, const char* what) {
      wire::ObjectCreateRequest create;
      create.size = kPage;
      create.name = name;
      EXPECT_TRUE(session->call(Op::object_create, create).refused_with(EINVAL)) << what;
      wire::ObjectOpenRequest open;
      open.access = wire::Access::read_only;
      open.name = name;
      EXPECT_TRUE(session->call(Op::object_open, open).refused_with(EINVAL)) << what;
      EXPECT_TRUE(session->call(Op::object_unlink, wire::UnlinkRequest{name}).refused()) << what;
    };
    wire::Name endless;
    endless.fill('a');
    everywhere(endless, "a name without an end");
    for (const char* text : {"a/b", "../x", ".hidden", "a b", "a\nb", "a\x1b[2J", "\xff\xfe", "%s",
                             "a\"b", "\xc3\xa9"}) {
      wire::Name name{};
      std::string_view(text).copy(name.data(), wire::kMaxName);
      everywhere(name, text);
    }
    for (int byte = 1; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 ||
          std::string_view("._:@+-").find(c) != std::string_view::npos) {
        continue;
      }
      everywhere(wire::Name{'a', c, 'b'}, "an odd byte");
    }
  }
  expect_unharmed("odd names");
}

TEST_F(Hostile, ANameWithBytesBehindItsEndIsRefused) {
  {
    Attached session(socket());
    wire::ObjectCreateRequest create;
    create.size = kPage;
    create.name = {'a', '\0', 'b'};
    const Answer answer = session->call(Op::object_create, create);
    EXPECT_TRUE(answer.refused_with(EINVAL)) << answer;
    if (answer.header.status == 0) {
      EXPECT_EQ(session.unlink("a").header.status, 0);
    }
  }
  expect_unharmed("a name with bytes behind its end");
}

TEST_F(Hostile, AnObjectMadeOfAnObjectsOwnMemory) {
  const Outcome outcome = in_child([&] {
    ::alarm(kChildWithinSeconds);
    const Client client = connect(socket());
    const Object object = create(client, 16 * kPage);
    const auto below = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    below[kPage] = kMark;
    const auto above =
        map(create_from(client, fl_object_fd(object)), 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    return above[kPage] == kMark && above[9 * kPage] == std::byte{0} ? 0 : 1;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  expect_unharmed("an object made of an object");
}

// --- behaviour

TEST_F(Hostile, AClientThatNeverReadsItsRepliesStopsOnlyItself) {
  {
    std::vector<Raw> sessions;
    for (int i = 0; i < 8; ++i) {
      Raw& raw = sessions.emplace_back(socket());
      EXPECT_EQ(raw.hello().header.status, 0);
      // Every reply carries a descriptor.
      const wire::AdminRequest query{wire::AdminQuery::status, 0};
      const auto request = wire::join(header_of(Op::admin, sizeof(query)), query);
      // Full, and full still when the daemon has had its time to read on.
      EXPECT_TRUE(eventually([&] {
        int error = 0;
        while (error == 0) error = raw.send(request, {}, MSG_DONTWAIT);
        EXPECT_EQ(error, EAGAIN);
        ::poll(nullptr, 0, 20);
        return raw.send(request, {}, MSG_DONTWAIT) == EAGAIN;
      }));
      EXPECT_TRUE(bystander_.served());
    }
    EXPECT_LT(daemon_.open_descriptors(), descriptors_ + 100);
    EXPECT_EQ(daemon_.ask(wire::AdminQuery::status)["status"]["pid"], daemon_.pid());
    // One that reads at last gets every reply, in order.
    for (int i = 0; i < 20; ++i) {
      const Answer answer = sessions.front().receive();
      EXPECT_EQ(answer.header.status, 0) << answer;
      EXPECT_EQ(answer.packet.fds.size(), 1U);
    }
  }
  expect_unharmed("a client that never reads");
}

TEST_F(Hostile, ClosingWhileTheDaemonAnswers) {
  constexpr std::size_t kSessions = 200;
  const PatternFile file(4 * kPage);
  // A page each: a session whose reply nobody awaits may be attached when the next one begins.
  const Memory beacons(kSessions * kPage);
  for (std::size_t i = 0; i < kSessions; ++i) {
    const UniqueFd userfaultfd = make_userfaultfd();
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    const std::array fds{userfaultfd.get()};
    const wire::AttachNewRequest attach{beacons.address() + i * kPage};
    EXPECT_EQ(raw.send(wire::join(header_of(Op::attach_new, sizeof(attach)), attach), fds), 0);
    if (i % 2 == 0) continue;
    EXPECT_EQ(raw.receive().header.status, 0);
    wire::ObjectCreateRequest create;
    create.flags = wire::kObjectFromFile;
    const std::array files{file.fd()};
    EXPECT_EQ(raw.send(wire::join(header_of(Op::object_create, sizeof(create)), create), files), 0);
  }
  expect_unharmed("200 sessions closed before their reply");
}

TEST_F(Hostile, TwoThousandQuickConnections) {
  for (int i = 0; i < 2000; ++i) {
    const Raw raw(socket());
    if (i % 2 == 0) (void)raw.send(bytes_of(header_of(Op::hello, 0)));
  }
  expect_unharmed("2000 quick connections");
}

TEST_F(Hostile, NamedObjectsOutliveTheirMakerAndAreNotItsDescriptors) {
  {
    Attached maker(socket());
    (void)maker.create(kPage, "left-behind");
  }
  {
    Attached finder(socket());
    (void)finder.open("left-behind", wire::Access::read_only);
    EXPECT_EQ(finder.unlink("left-behind").header.status, 0);
    EXPECT_TRUE(finder.unlink("left-behind").refused_with(ENOENT));
  }
  expect_unharmed("an object left behind");
}

// --- very many, very large

class HostileOnOneWorker : public Hostile {
 protected:
  HostileOnOneWorker() : Hostile({"--workers", "1"}) {}
};

// A process that faults without a pause, and knows how long it had to wait at most.
class Pulse {
 public:
  explicit Pulse(const std::string& socket)
      : memory_(kPage, MAP_SHARED | MAP_ANONYMOUS),
        state_(new (memory_.data()) State),
        child_([&] { return live(socket); }) {
    EXPECT_TRUE(beats_on());
  }
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;
  ~Pulse() = default;

  // That it was served a hundred times more, whatever happened before.
  [[nodiscard]] bool beats_on() const {
    const std::uint64_t now = state_->beats;
    return eventually([&] { return state_->beats > now + 100; }, std::chrono::seconds(20));
  }
  [[nodiscard]] std::chrono::nanoseconds longest() const {
    return std::chrono::nanoseconds(state_->longest.load());
  }
  void forget() const { state_->longest = 0; }

 private:
  struct State {
    std::atomic<std::uint64_t> beats{0};
    std::atomic<std::int64_t> longest{0};
  };

  int live(const std::string& socket) const {
    const Client client = connect(socket);
    const auto view = map(create(client, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    for (;;) {
      const auto start = std::chrono::steady_clock::now();
      view[0] = kMark;
      const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - start;
      if (took.count() > state_->longest) state_->longest = took.count();
      ++state_->beats;
      if (::madvise(view.data(), kPage, MADV_DONTNEED) != 0) return 1;
    }
  }

  Memory memory_;
  State* state_;
  Child child_;
};

wire::MapRequest map_request(const wire::ObjectReply& object, std::uint64_t address,
                             std::uint64_t length, std::uint64_t offset) {
  wire::MapRequest request;
  request.handle = object.handle;
  request.address = address;
  request.length = length;
  request.object_offset = offset;
  request.flags = wire::kMapPrivate | wire::kMapWrite;
  return request;
}

// One mapping of the kernel's, as many of the daemon's as it allows.
TEST_F(HostileOnOneWorker, UnmappingVeryManyMappingsAtOnceKeepsNobodyWaiting) {
  constexpr std::size_t kPages = 60'000;
  {
    const Pulse pulse(socket());
    Attached session(socket());
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(kPages * kPage, {}, -1, &memfd);
    const Memory memory(kPages * kPage, MAP_PRIVATE, memfd.get());
    for (std::size_t page = 0; page < kPages; ++page) {
      const auto request =
          map_request(object, memory.address() + page * kPage, kPage, page * kPage);
      ASSERT_EQ(session->call(Op::map, request).header.status, 0) << page;
    }
    pulse.forget();
    ASSERT_EQ(::munmap(memory.data(), kPages / 2 * kPage), 0) << std::strerror(errno);
    EXPECT_TRUE(pulse.beats_on());
    EXPECT_LT(pulse.longest(), std::chrono::milliseconds(500));
  }
  expect_unharmed("60000 mappings");
}

// Many threads that raise events without a pause, of which the kernel holds each until it was read.
TEST_F(HostileOnOneWorker, AStormOfEventsKeepsNobodyWaitingForEver) {
  constexpr std::size_t kThreads = 64;
  {
    const Pulse pulse(socket());
    const Gate raging;
    const Child attacker([&] {
      const Client client = connect(socket());
      const auto view =
          map(create(client, kThreads * kPage), kThreads * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
      std::vector<std::thread> threads;
      for (std::size_t i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
          for (;;) ::madvise(view.data() + i * kPage, kPage, MADV_DONTNEED);
        });
      }
      raging.open();
      for (std::thread& thread : threads) thread.join();
      return 0;
    });
    ASSERT_TRUE(raging.pass());
    EXPECT_TRUE(pulse.beats_on());
  }
  expect_unharmed("a storm of events");
}

// Faults in memory that the client registered itself, and that nobody can supply.
TEST_F(Hostile, FaultsThatNobodyCanAnswerDoNotFillTheLog) {
  constexpr int kFaults = 20'000;
  {
    const Memory beacon(kPage);
    const UniqueFd userfaultfd = make_userfaultfd();
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    ASSERT_EQ(raw.attach(userfaultfd.get(), beacon.address()).header.status, 0);
    const Memory unknown(kPage);
    uffdio_register watch{};
    watch.range = {unknown.address(), kPage};
    watch.mode = UFFDIO_REGISTER_MODE_MISSING;
    ASSERT_EQ(::ioctl(userfaultfd.get(), UFFDIO_REGISTER, &watch), 0) << std::strerror(errno);
    const UniqueFd sink{::memfd_create("sink", MFD_CLOEXEC)};
    for (int i = 0; i < kFaults; ++i) {
      ASSERT_EQ(::pwrite(sink.get(), unknown.data(), 1, 0), -1);  // EFAULT, where code gets SIGBUS
      ASSERT_EQ(::madvise(unknown.data(), kPage, MADV_DONTNEED), 0);
    }
    EXPECT_GT(daemon_.log().size(), 0U);
    EXPECT_LT(daemon_.log().size(), 64U << 10);
  }
  expect_unharmed("faults that nobody can answer");
}

TEST_F(HostileOnOneWorker, AskingAboutHugeMappingsKeepsNobodyWaiting) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIPPED: ThreadSanitizer leaves no room for mappings of terabytes";
#endif
  constexpr std::size_t kHuge = std::size_t{4} << 40;
  {
    const Pulse pulse(socket());
    Attached session(socket());
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(kHuge, {}, -1, &memfd);
    std::vector<std::unique_ptr<Memory>> views;
    for (int i = 0; i < 8; ++i) {
      const Memory& view = *views.emplace_back(
          std::make_unique<Memory>(kHuge, MAP_PRIVATE | MAP_NORESERVE, memfd.get()));
      const auto request = map_request(object, view.address(), kHuge, 0);
      ASSERT_EQ(session->call(Op::map, request).header.status, 0);
      view.data()[0] = kMark;
    }
    pulse.forget();
    EXPECT_EQ(daemon_.ask(wire::AdminQuery::status)["status"]["pid"], daemon_.pid());
    EXPECT_TRUE(pulse.beats_on());
    EXPECT_LT(pulse.longest(), std::chrono::milliseconds(200));
  }
  expect_unharmed("eight mappings of 4 TiB");
}

// --- what is mapped already

// An object of 16 pages, mapped shared in an attached session.
struct MappedSession {
  explicit MappedSession(const std::string& socket, std::uint64_t pages = 16) : session(socket) {
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(pages * kPage, {}, -1, &memfd);
    memory.emplace(pages * kPage, MAP_SHARED | MAP_NORESERVE, memfd.get());
    wire::MapRequest request;
    request.handle = object.handle;
    request.address = memory->address();
    request.length = pages * kPage;
    request.flags = wire::kMapShared | wire::kMapWrite;
    const Answer answer = session->call(Op::map, request);
    EXPECT_EQ(answer.header.status, 0) << answer;
  }
  [[nodiscard]] std::uint64_t start() const { return memory->address(); }
  Answer populate(std::uint64_t length, std::span<const int> fds) const {
    return session->call(Op::populate, wire::PopulateRequest{start(), length}, fds);
  }

  Attached session;
  std::optional<Memory> memory;
};

TEST_F(Hostile, RangesThatNoProcessHasAreNotChanged) {
  {
    const MappedSession mapped(socket());
    const std::uint64_t at = mapped.start();
    constexpr std::uint64_t kTop = std::numeric_limits<std::uint64_t>::max() - kPage + 1;
    struct Lie {
      std::uint64_t address = 0;
      std::uint64_t length = 0;
    };
    for (const Lie& lie :
         {Lie{0, kPage}, Lie{at, 0}, Lie{at + 1, kPage}, Lie{at, kPage + 1}, Lie{at, kPage / 2},
          Lie{at, kTop}, Lie{kTop, kPage}, Lie{kTop, kTop}, Lie{std::uint64_t{1} << 63, kPage},
          Lie{at, std::uint64_t{1} << 63}, Lie{0 - at, 2 * at}}) {
      const auto refused = [&](Op op, const auto& request) {
        const Answer answer = mapped.session->call(op, request);
        EXPECT_TRUE(answer.refused_with(EINVAL))
            << static_cast<int>(op) << " " << lie.address << " " << lie.length << ": " << answer;
      };
      refused(Op::protect, wire::ProtectRequest{lie.address, lie.length});
      refused(Op::advise, wire::AdviseRequest{lie.address, lie.length});
      refused(Op::rediscover, wire::RediscoverRequest{lie.address, lie.length});
      refused(Op::populate, wire::PopulateRequest{lie.address, lie.length});
    }
  }
  expect_unharmed("ranges that nobody has");
}

// Whole pages, but of nothing, or of something and nothing.
TEST_F(Hostile, RangesThatAreNotMappedAreNotChanged) {
  {
    const MappedSession mapped(socket());
    const Memory own(kPage);
    for (const auto& [address, length] :
         {std::pair{own.address(), kPage}, std::pair{mapped.start() + 15 * kPage, 2 * kPage},
          std::pair{mapped.start() - kPage, 2 * kPage}, std::pair{kPage, std::size_t{1} << 46}}) {
      const auto refused = [&, address = address](Op op, const auto& request) {
        EXPECT_TRUE(mapped.session->call(op, request).refused_with(ENOENT))
            << static_cast<int>(op) << " at " << address;
      };
      refused(Op::protect, wire::ProtectRequest{address, length, wire::kProtectWrite});
      refused(Op::advise, wire::AdviseRequest{address, length, wire::Advice::random});
      refused(Op::advise, wire::AdviseRequest{address, length, wire::Advice::cold});
      refused(Op::advise, wire::AdviseRequest{address, length, wire::Advice::page_out});
      refused(Op::discard, wire::DiscardRequest{address, length});
      refused(Op::populate, wire::PopulateRequest{address, length});
    }
    // There is nothing that the daemon could take in.
    const wire::RediscoverRequest nothing{own.address(), kPage};
    EXPECT_TRUE(mapped.session->call(Op::rediscover, nothing).refused_with(ENOENT));
  }
  expect_unharmed("ranges that are not mapped");
}

TEST_F(Hostile, FlagsAndAdviceThatAreNoneAreRefused) {
  {
    const MappedSession mapped(socket());
    const auto refused = [&](Op op, const auto& request) {
      const Answer answer = mapped.session->call(op, request);
      EXPECT_TRUE(answer.refused_with(EINVAL)) << static_cast<int>(op) << ": " << answer;
    };
    for (const std::uint32_t flags : {2U, 3U, 0x8000'0000U, 0xffff'ffffU}) {
      refused(Op::protect, wire::ProtectRequest{mapped.start(), kPage, flags});
      refused(Op::populate, wire::PopulateRequest{mapped.start(), kPage, flags});
    }
    for (const std::uint32_t advice : {3U, 6U, 0xffff'ffffU}) {
      refused(Op::advise,
              wire::AdviseRequest{mapped.start(), kPage, static_cast<wire::Advice>(advice)});
    }
    refused(Op::discard, wire::DiscardRequest{mapped.start() + 1, kPage});
    wire::EvictRequest evict;
    evict.object_id = 1;
    evict.flags = 2;
    refused(Op::evict, evict);
    evict.flags = 0;
    for (const auto& [offset, length] :
         {std::pair{std::uint64_t{1}, std::uint64_t{0}},
          std::pair{std::uint64_t{0}, std::uint64_t{1}},
          std::pair{std::uint64_t{kPage}, ~std::uint64_t{0}},
          std::pair{~std::uint64_t{0}, std::uint64_t{0}},
          std::pair{~std::uint64_t{0} << 12, std::uint64_t{kPage}}}) {
      evict.offset = offset;
      evict.length = length;
      refused(Op::evict, evict);
    }
    refused(Op::protect, wire::ProtectRequest{mapped.start(), kPage, 0, 1});
    refused(Op::advise, wire::AdviseRequest{mapped.start(), kPage, wire::Advice::normal, 1});
    refused(Op::populate, wire::PopulateRequest{mapped.start(), kPage, 0, 1});
  }
  expect_unharmed("flags that are none");
}

TEST_F(Hostile, WhatIsNoEventfdIsNotSignalled) {
  {
    const MappedSession mapped(socket());
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader{ends[0]};
    const UniqueFd writer{ends[1]};
    const UniqueFd named{::memfd_create("anon_inode:[eventfd]", MFD_CLOEXEC)};
    const UniqueFd path{::open("/", O_PATH | O_CLOEXEC)};
    const UniqueFd userfaultfd = make_userfaultfd();
    for (const UniqueFd* wrong : {&reader, &writer, &named, &path, &userfaultfd}) {
      const std::array fds{wrong->get()};
      EXPECT_TRUE(mapped.populate(kPage, fds).refused_with(EBADF)) << wrong->get();
    }
    const UniqueFd event{::eventfd(0, EFD_CLOEXEC)};
    const std::array both{event.get(), event.get()};
    EXPECT_TRUE(mapped.populate(kPage, both).refused_with(EPROTO));
  }
  expect_unharmed("descriptors that are no eventfds");
}

// Full, so that a write would block, and without O_NONBLOCK: the job ends, and the daemon goes on.
TEST_F(Hostile, AnEventfdThatNobodyCouldWriteToHoldsNobodyUp) {
  {
    const MappedSession mapped(socket());
    const UniqueFd full{::eventfd(0, EFD_CLOEXEC)};
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - 1;
    ASSERT_EQ(::write(full.get(), &most, sizeof(most)), static_cast<ssize_t>(sizeof(most)));
    const std::array fds{full.get()};
    for (int i = 0; i < 20; ++i) {
      const Answer started = mapped.populate(16 * kPage, fds);
      ASSERT_EQ(started.header.status, 0) << started;
      const auto job = started.body<wire::PopulateReply>().job;
      EXPECT_TRUE(eventually([&] {
        const Answer asked = mapped.session->call(Op::job_progress, wire::JobRequest{job});
        return asked.body<wire::JobProgressReply>().ended == 1;
      }));
      EXPECT_EQ(mapped.session->call(Op::job_free, wire::JobRequest{job}).header.status, 0);
    }
  }
  expect_unharmed("a full eventfd");
}

TEST_F(Hostile, JobsOfNobodyAndOfOthersAreNotFound) {
  {
    const MappedSession mine(socket());
    const MappedSession other(socket());
    const UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    const std::array fds{event.get()};
    ASSERT_EQ(mine.populate(kPage, fds).header.status, 0);
    const auto job = mine.populate(kPage, fds).body<wire::PopulateReply>().job;
    const auto unknown = [&](const MappedSession& asking, std::uint64_t number) {
      EXPECT_TRUE(
          asking.session->call(Op::job_progress, wire::JobRequest{number}).refused_with(ENOENT));
      EXPECT_TRUE(
          asking.session->call(Op::job_free, wire::JobRequest{number}).refused_with(ENOENT));
    };
    for (const std::uint64_t number : {std::uint64_t{0}, job + 1, ~std::uint64_t{0}}) {
      unknown(mine, number);
    }
    unknown(other, job);
    EXPECT_EQ(mine.session->call(Op::job_free, wire::JobRequest{job}).header.status, 0);
    unknown(mine, job);
    // One that nobody asks about has no number.
    EXPECT_EQ(mine.populate(kPage, {}).body<wire::PopulateReply>().job, 0U);
  }
  expect_unharmed("made-up jobs");
}

// Their eventfds go with them, whether they had ended or not.
TEST_F(Hostile, JobsAreLimitedAndGoWithTheirSession) {
  {
    constexpr std::uint64_t kMuch = std::uint64_t{1} << 18;
    const MappedSession mapped(socket(), kMuch);
    for (int i = 0; i < 64; ++i) {
      const UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
      const std::array fds{event.get()};
      const std::uint64_t length = i % 8 == 7 ? kMuch * kPage : kPage;
      ASSERT_EQ(mapped.populate(length, fds).header.status, 0) << i;
    }
    const UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    const std::array fds{event.get()};
    EXPECT_TRUE(mapped.populate(kPage, fds).refused_with(EUSERS));
    EXPECT_TRUE(mapped.populate(kPage, {}).refused_with(EUSERS));
  }
  expect_unharmed("64 jobs that were never freed");
}

// --- fuzz

class Fuzzer {
 public:
  Fuzzer(std::string socket, std::uint64_t seed)
      : socket_(std::move(socket)), random_(seed), other_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(other_.get(), 64 * kPage), 0);
    arena_.emplace(64 * kPage, MAP_SHARED, other_.get());
  }

  // How many packets were answered, by a reply or by the end of the connection; -1 where one was
  // not.
  int run(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    int packets = 0;
    while (std::chrono::steady_clock::now() < end) {
      Memory beacon(kPage);
      const Raw raw(socket_);
      (void)raw.hello();
      const UniqueFd userfaultfd = make_userfaultfd();
      if (below(4) != 0) (void)raw.attach(userfaultfd.get(), beacon.address());
      for (unsigned left = 1 + below(60); left > 0; --left) {
        std::vector<std::byte> packet = valid_packet();
        mutate(packet);
        const int first = below(2) != 0 ? other_.get() : event_.get();
        const std::array all{first, userfaultfd.get(), other_.get()};
        const unsigned count = below(3) != 0 ? below(2) : below(4);
        const Answer answer = raw.exchange(packet, std::span<const int>(all).first(count));
        ++packets;
        if (answer.closed()) break;
        if (answer.transport != 0) {
          std::cerr << "packet " << packets << ": " << answer << std::endl;
          return -1;
        }
      }
    }
    return packets;
  }

 private:
  unsigned below(unsigned limit) { return static_cast<unsigned>(random_() % limit); }

  template <typename Body>
  static std::vector<std::byte> packed(Op op, const Body& body) {
    const auto bytes = wire::join(header_of(op, sizeof(body)), body);
    return {bytes.begin(), bytes.end()};
  }

  std::uint64_t odd_number() {
    constexpr std::array<std::uint64_t, 8> kOdd{0,
                                                1,
                                                kPage,
                                                kPage - 1,
                                                std::uint64_t{1} << 47,
                                                std::uint64_t{1} << 63,
                                                ~std::uint64_t{0},
                                                ~std::uint64_t{0} - kPage + 1};
    return kOdd.at(below(kOdd.size()));
  }

  std::uint64_t some_page() { return arena_->address() + below(32) * kPage; }
  std::uint64_t some_length() { return (1 + below(32)) * kPage; }

  std::vector<std::byte> valid_packet() {
    wire::Name name{'f', 'u', 'z', 'z', static_cast<char>('a' + below(6))};
    switch (below(19)) {
      case 0:
        return packed(Op::hello, wire::HelloRequest{});
      case 1:
        return packed(Op::attach_new, wire::AttachNewRequest{arena_->address()});
      case 2:
        return packed(Op::attach_forked, wire::AttachForkedRequest{});
      case 3:
      case 4: {
        wire::ObjectCreateRequest request;
        request.size = (1 + below(64)) * kPage;
        request.flags = below(2);
        request.mode = 0644;
        if (below(2) != 0) request.name = name;
        return packed(Op::object_create, request);
      }
      case 5:
        return packed(Op::object_open,
                      wire::ObjectOpenRequest{static_cast<wire::Access>(1 + below(2)), 0, name});
      case 6:
        return packed(Op::object_stat, wire::HandleRequest{below(5)});
      case 7:
        return packed(Op::object_unlink, wire::UnlinkRequest{name});
      case 8:
        return packed(Op::object_close, wire::HandleRequest{below(5)});
      case 9:
      case 10: {
        wire::MapRequest request;
        request.handle = below(5);
        request.address = some_page();
        request.length = some_length();
        request.object_offset = below(4) * kPage;
        request.flags = below(8);
        return packed(Op::map, request);
      }
      case 11:
        return packed(Op::mapping_stats, wire::MappingStatsRequest{arena_->address()});
      case 12:
        return packed(Op::protect, wire::ProtectRequest{some_page(), some_length(), below(3)});
      case 13:
        return packed(Op::advise, wire::AdviseRequest{some_page(), some_length(),
                                                      static_cast<wire::Advice>(below(4))});
      case 14:
        return packed(Op::rediscover, wire::RediscoverRequest{some_page(), some_length()});
      case 15:
        return packed(Op::populate, wire::PopulateRequest{some_page(), some_length(), below(3)});
      case 16:
        return packed(Op::job_progress, wire::JobRequest{below(5)});
      case 17:
        return packed(Op::job_free, wire::JobRequest{below(5)});
      default:
        return packed(Op::admin, wire::AdminRequest{static_cast<wire::AdminQuery>(below(9)),
                                                    static_cast<std::uint32_t>(::getpid()),
                                                    below(3), below(3), below(3000)});
    }
  }

  void mutate(std::vector<std::byte>& packet) {
    constexpr std::size_t kHeader = sizeof(wire::RequestHeader);
    for (unsigned changes = below(4); changes > 0; --changes) {
      switch (below(8)) {
        case 0:  // anywhere, the header too
          packet[random_() % packet.size()] ^= static_cast<std::byte>(1U << below(8));
          break;
        case 1:
          packet.resize(1 + random_() % (2 * wire::kMaxPacket));
          break;
        case 2:
        case 3: {  // a number that is on the edge
          const std::uint64_t odd = odd_number();
          const std::size_t words =
              packet.size() > kHeader ? (packet.size() - kHeader) / sizeof(odd) : 0;
          if (words == 0) break;
          std::memcpy(packet.data() + kHeader + (random_() % words) * sizeof(odd), &odd,
                      sizeof(odd));
          break;
        }
        default:  // the body alone, so that it gets past the first check
          if (packet.size() <= kHeader) break;
          packet[kHeader + random_() % (packet.size() - kHeader)] =
              static_cast<std::byte>(random_());
      }
    }
  }

  std::string socket_;
  std::mt19937_64 random_;
  UniqueFd other_;
  UniqueFd event_{::eventfd(0, EFD_CLOEXEC)};
  std::optional<Memory> arena_;
};

TEST_F(Hostile, RandomPacketsHarmNobody) {
  const std::uint64_t seed = announce_seed();
  const Outcome outcome = in_child([&] {
    ::alarm(60);
    const int packets = Fuzzer(socket(), seed).run(std::chrono::milliseconds(1000));
    std::cout << packets << " packets" << std::endl;
    return packets > 50 ? 0 : 1;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  {
    // Objects that have a name stay, as they should.
    const Attached session(socket());
    const nlohmann::json left = daemon_.ask(wire::AdminQuery::objects);
    for (const auto& object : left["objects"]) {
      const std::string name = object["name"];
      if (!name.empty() && object["linked"]) {
        EXPECT_EQ(session.unlink(name).header.status, 0) << name;
      }
    }
  }
  expect_unharmed("random packets");
}

}  // namespace
}  // namespace faultline::testing
