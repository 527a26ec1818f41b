// The public interface as a user calls it: what faultline.h and faultline.hpp promise, their errors
// included, and that nothing is left in the daemon when everything was given back.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>
#include <type_traits>

#include "faultline/faultline.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};
constexpr std::byte kTwo{2};

fl_object_spec spec_of(std::uint64_t size, const char* name = nullptr) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.name = name;
  spec.size = size;
  spec.mode = 0600;
  return spec;
}

fl_object_spec spec_from(int file, std::uint64_t size = 0) {
  fl_object_spec spec = spec_of(size);
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file;
  return spec;
}

void expect_create_refused(fl_client* client, const fl_object_spec& spec, int code,
                           const std::string& words) {
  fl_object* object = nullptr;
  expect_refused(code, words, [&] { return fl_object_create(client, &spec, &object); });
  EXPECT_EQ(object, nullptr);
}

void expect_works(fl_client* client) {
  const Object object = create(client, 2 * kPage);
  const auto memory = map(object, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[kPage] = kOne;
  EXPECT_EQ(memory[kPage], kOne);
  EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
}

std::size_t count_of(const Daemon& daemon, wire::AdminQuery query) {
  return daemon.ask(query)[query == wire::AdminQuery::spaces ? "spaces" : "objects"].size();
}

std::uint64_t mappings_of(fl_client* client) {
  fl_stats stats{};
  EXPECT_EQ(fl_process_stats(client, &stats), 0) << fl_last_error();
  return stats.mappings;
}

// Whatever a test had refused, the client works on.
class Api : public SystemTest {
 protected:
  void TearDown() override {
    if (client_ != nullptr) expect_works(client_);
    SystemTest::TearDown();
  }
};

// --- connecting

// A socket file at which no daemon is.
struct StrangeSocket {
  StrangeSocket() {
    EXPECT_NE(::mkdtemp(directory.data()), nullptr) << std::strerror(errno);
    path = directory + "/socket";
  }
  StrangeSocket(const StrangeSocket&) = delete;
  StrangeSocket& operator=(const StrangeSocket&) = delete;
  ~StrangeSocket() { std::filesystem::remove_all(directory); }
  void bind(const std::string& name = "/socket") const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (directory + name).copy(address.sun_path, sizeof(address.sun_path) - 1);
    const auto* const any = reinterpret_cast<const sockaddr*>(&address);
    EXPECT_EQ(::bind(fd.get(), any, sizeof(address)), 0) << std::strerror(errno);
  }

  std::string directory = (std::filesystem::temp_directory_path() / "faultline-XXXXXX").string();
  std::string path;
  UniqueFd fd{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
};

TEST(Connecting, NobodyListeningIsToldApartFromNoSuchSocket) {
  const StrangeSocket socket;
  fl_client* client = nullptr;
  const auto try_it = [&] { return fl_connect(socket.path.c_str(), &client); };
  expect_refused(ENOENT, socket.path, try_it);
  expect_refused(ENOENT, "is faultlined running?", try_it);
  socket.bind();
  expect_refused(ECONNREFUSED, "is faultlined running?", try_it);
  EXPECT_EQ(client, nullptr);
}

TEST(Connecting, APathThatNoSocketCanHaveIsRefused) {
  fl_client* client = nullptr;
  for (const std::string& path : {std::string(), std::string(200, 'x')}) {
    expect_refused(ENAMETOOLONG, "connecting", [&] { return fl_connect(path.c_str(), &client); });
  }
}

// A daemon of another version, or something else altogether.
TEST(Connecting, AStrangeAnswerIsAProtocolError) {
  struct Answer {
    std::uint32_t magic;
    std::int32_t status;
    const char* detail;
    const char* words;
  };
  for (const Answer& answer : {Answer{wire::kMagic, -EPROTO, "speaking version 1 to 2", "1 to 2"},
                               Answer{0x12345678, 0, "", "talking to the faultline daemon"}}) {
    const StrangeSocket socket;
    socket.bind();
    ASSERT_EQ(::listen(socket.fd.get(), 1), 0);
    std::thread stranger([&] {
      const UniqueFd peer{::accept4(socket.fd.get(), nullptr, nullptr, SOCK_CLOEXEC)};
      wire::Packet request;
      EXPECT_EQ(wire::receive_packet(peer.get(), request), 0);
      wire::ReplyHeader reply;
      reply.magic = answer.magic;
      reply.status = answer.status;
      wire::RequestHeader asked;
      std::memcpy(&asked, request.bytes.data(), sizeof(asked));
      reply.cookie = asked.cookie;
      std::string(answer.detail).copy(reply.detail.data(), reply.detail.size() - 1);
      EXPECT_EQ(wire::send_packet(peer.get(), std::as_bytes(std::span(&reply, 1)), {}), 0);
    });
    fl_client* client = nullptr;
    expect_refused(EPROTO, answer.words, [&] { return fl_connect(socket.path.c_str(), &client); });
    stranger.join();
  }
}

TEST(Connecting, LimitsOfTheDaemonsAreToldByName) {
  const Daemon daemon(
      {"--max-sessions-per-user", "1", "--max-objects", "1", "--max-object-bytes", "8192"});
  const Client client = connect(daemon.socket());
  fl_client* second = nullptr;
  // Another path to the same socket is another connection.
  const std::string other = daemon.directory() / "run" / "." / "faultlined.sock";
  expect_refused(EUSERS, "max_sessions_per_user",
                 [&] { return fl_connect(other.c_str(), &second); });
  expect_create_refused(client, spec_of(8193), EFBIG, "max_object_bytes");
  expect_create_refused(client, spec_of(UINT64_MAX), EFBIG, "max_object_bytes");
  const PatternFile file(3 * kPage);
  expect_create_refused(client, spec_from(file.fd()), EFBIG, "max_object_bytes");
  Object largest = create(client, 8192);
  expect_create_refused(client, spec_of(kPage), EUSERS, "max_objects");
  largest.reset();
  expect_works(client);
}

// One process has one connection to one socket; each fl_connect is given back by itself.
TEST(Connecting, TheSamePathIsTheSameConnectionCounted) {
  const Daemon daemon;
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(connect(daemon.socket()));
  EXPECT_EQ(count_of(daemon, wire::AdminQuery::spaces), 1U);
  const auto memory = map(create(clients[0], kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  clients.erase(clients.begin());
  EXPECT_EQ(mappings_of(clients[0]), 1U) << "what one handle made, the others see";
  EXPECT_EQ(fl_unmap(clients[0], memory.data(), memory.size()), 0) << fl_last_error();
  clients.pop_back();
  expect_works(clients[0]);
  clients.pop_back();
  EXPECT_TRUE(eventually([&] { return count_of(daemon, wire::AdminQuery::spaces) == 0; }));
}

TEST(Connecting, WithoutAPathTheEnvironmentTellsTheSocket) {
  const Daemon daemon;
  const auto connects = [](const char* variable, const std::string& value) {
    return in_child([&] {
      ::unsetenv("FAULTLINE_SOCKET");
      ::unsetenv("XDG_RUNTIME_DIR");
      ::setenv(variable, value.c_str(), 1);
      fl_client* client = nullptr;
      EXPECT_EQ(fl_connect(nullptr, &client), 0) << fl_last_error();
      EXPECT_TRUE(client::connect()) << "and in C++";
      return fl_disconnect(client);
    });
  };
  EXPECT_TRUE(connects("FAULTLINE_SOCKET", daemon.socket()).exited(0));
  const auto runtime = daemon.directory() / "runtime";
  std::filesystem::create_directories(runtime / "faultline");
  std::filesystem::create_symlink(daemon.socket(), runtime / "faultline" / "faultlined.sock");
  EXPECT_TRUE(connects("XDG_RUNTIME_DIR", runtime.string()).exited(0));
}

// What a killed daemon leaves behind is no daemon: the system's is the next to be asked.
TEST(Connecting, AStaleSocketOfTheUsersOwnDoesNotHideTheSystemsDaemon) {
  const StrangeSocket stale;
  std::filesystem::create_directories(std::filesystem::path(stale.directory) / "faultline");
  stale.bind("/faultline/faultlined.sock");
  const Outcome outcome = in_child([&] {
    ::unsetenv("FAULTLINE_SOCKET");
    ::setenv("XDG_RUNTIME_DIR", stale.directory.c_str(), 1);
    fl_client* client = nullptr;
    if (fl_connect(nullptr, &client) == 0) return fl_disconnect(client);  // this machine has one
    const std::string words = fl_last_error();
    EXPECT_NE(words.find("/run/faultline/faultlined.sock"), std::string::npos) << words;
    return words.find(stale.directory) == std::string::npos ? 0 : 1;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

TEST(Connecting, ObjectsAndMappingsOutliveTheClient) {
  const Daemon daemon;
  Client client = connect(daemon.socket());
  Object object = create(client, 4 * kPage);
  const auto first = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  client.reset();
  first[0] = kOne;
  const auto second = map(object, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  EXPECT_EQ(second[0], kOne);
  fl_object_info info{};
  EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
  object.reset();
  second[kPage] = kTwo;
  first[2 * kPage] = kTwo;
  EXPECT_EQ(second[2 * kPage], kTwo);
  Client again = connect(daemon.socket());
  EXPECT_EQ(mappings_of(again), 2U) << "the connection was kept by its mappings";
  for (const auto& memory : {first, second}) {
    EXPECT_EQ(fl_unmap(again, memory.data(), memory.size()), 0) << fl_last_error();
  }
  again.reset();
  EXPECT_TRUE(eventually([&] { return count_of(daemon, wire::AdminQuery::spaces) == 0; }));
  EXPECT_TRUE(eventually([&] { return count_of(daemon, wire::AdminQuery::objects) == 0; }));
}

TEST(Connecting, ADaemonThatIsGoneIsABrokenPipeUntilTheNextConnect) {
  Daemon daemon;
  const Client client = connect(daemon.socket());
  const Object object = create(client, kPage);
  EXPECT_EQ(daemon.stop(), 0);
  void* address = nullptr;
  const auto try_map = [&] { return fl_map(object, 0, kPage, FL_MAP_SHARED, &address); };
  expect_refused(EPIPE, daemon.socket(), try_map);
  expect_refused(EPIPE, daemon.socket(), try_map);
  EXPECT_EQ(address, nullptr);
  fl_client* other = nullptr;
  expect_refused(ENOENT, "is faultlined running?",
                 [&] { return fl_connect(daemon.socket().c_str(), &other); });
}

// --- arguments

TEST_F(Api, GivingNothingBackIsAllowed) {
  EXPECT_EQ(fl_disconnect(nullptr), 0);
  EXPECT_EQ(fl_object_close(nullptr), 0);
}

TEST_F(Api, NullWhereSomethingIsNeededIsRefused) {
  Object object = create(client_, kPage);
  const fl_object_spec spec = spec_of(kPage);
  fl_object* out = nullptr;
  fl_object_info info{};
  fl_stats stats{};
  void* address = nullptr;
  const std::vector<std::function<int()>> calls = {
      [&] { return fl_object_create(nullptr, &spec, &out); },
      [&] { return fl_object_create(client_, nullptr, &out); },
      [&] { return fl_object_create(client_, &spec, nullptr); },
      [&] { return fl_object_open(nullptr, "x", FL_READ_ONLY, &out); },
      [&] { return fl_object_open(client_, nullptr, FL_READ_ONLY, &out); },
      [&] { return fl_object_open(client_, "x", FL_READ_ONLY, nullptr); },
      [&] { return fl_object_stat(nullptr, &info); },
      [&] { return fl_object_stat(object, nullptr); },
      [&] { return fl_object_unlink(nullptr, "x"); },
      [&] { return fl_object_unlink(client_, nullptr); },
      [&] { return fl_map(nullptr, 0, kPage, FL_MAP_SHARED, &address); },
      [&] { return fl_map(object, 0, kPage, FL_MAP_SHARED, nullptr); },
      [&] { return fl_unmap(nullptr, &address, kPage); },
      [&] { return fl_mapping_stats(nullptr, &address, &stats); },
      [&] { return fl_mapping_stats(client_, &address, nullptr); },
      [&] { return fl_process_stats(nullptr, &stats); },
      [&] { return fl_process_stats(client_, nullptr); },
  };
  for (const auto& call : calls) expect_refused(EINVAL, "with a null", call);
  EXPECT_EQ(fl_object_fd(nullptr), -EINVAL);
}

TEST_F(Api, WordsAreOfTheThreadThatFailedAndStayUntilItFailsAgain) {
  EXPECT_EQ(fl_object_unlink(client_, "of-this-thread"), -ENOENT);
  std::thread([&] {
    EXPECT_STREQ(fl_last_error(), "") << "nothing has failed here";
    EXPECT_EQ(fl_object_unlink(client_, "of-the-other-thread"), -ENOENT);
  }).join();
  expect_works(client_);
  EXPECT_NE(std::string(fl_last_error()).find("of-this-thread"), std::string::npos)
      << fl_last_error();
}

// --- objects

TEST_F(Api, AnObjectThatCannotBeIsRefused) {
  struct Wrong {
    std::function<void(fl_object_spec&)> with;
    const char* words;
  };
  const std::vector<Wrong> wrongs = {
      {[](fl_object_spec& s) { s.struct_size = 0; }, "struct_size"},
      {[](fl_object_spec& s) { s.struct_size -= 8; }, "struct_size"},
      {[](fl_object_spec& s) { s.size = 0; }, "0 bytes"},
      {[](fl_object_spec& s) { s.flags = 1U << 2; }, "unknown flag"},
      {[](fl_object_spec& s) { s.flags = FL_FROM_FILE | 1U << 31; }, "unknown flag"},
      {[](fl_object_spec& s) { s.mode = 01000; }, "mode"},
      {[](fl_object_spec& s) { s.file_offset = kPage; }, "offset"},
      {[](fl_object_spec& s) { s.page_size = 1; }, "4096"},
      {[](fl_object_spec& s) { s.page_size = 4U << 20; }, "2097152"},
  };
  for (const Wrong& wrong : wrongs) {
    fl_object_spec spec = spec_of(kPage);
    wrong.with(spec);
    expect_create_refused(client_, spec, EINVAL, wrong.words);
  }
  EXPECT_EQ(count_of(daemon_, wire::AdminQuery::objects), 0U);
}

TEST_F(Api, ANameThatNoObjectCanHaveIsRefusedWhereverItIsUsed) {
  const std::string too_long(FL_NAME_MAX + 1, 'n');
  for (const char* name : {"", ".hidden", ".", "a/b", "a b", "a\n", "\xc3\xa9", "a\\", "a\x7f",
                           "a*", "../a", too_long.c_str()}) {
    fl_object* object = nullptr;
    expect_create_refused(client_, spec_of(kPage, name), EINVAL, "nam");
    expect_refused(EINVAL, "nam",
                   [&] { return fl_object_open(client_, name, FL_READ_ONLY, &object); });
    expect_refused(EINVAL, "nam", [&] { return fl_object_unlink(client_, name); });
  }
}

TEST_F(Api, EveryNameThatIsAllowedCanBeUsed) {
  for (const std::string& name :
       {std::string("a"), std::string("9"), std::string("_.:@+-"), std::string("-x"),
        std::string("a..b"), std::string(FL_NAME_MAX, 'n')}) {
    const Object made = create(client_, kPage, name.c_str());
    fl_object* opened = nullptr;
    ASSERT_EQ(fl_object_open(client_, name.c_str(), FL_READ_WRITE, &opened), 0) << fl_last_error();
    const Object object{opened};
    fl_object_info info{};
    EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
    EXPECT_EQ(info.name, name);
    EXPECT_EQ(fl_object_unlink(client_, name.c_str()), 0) << fl_last_error();
  }
}

TEST_F(Api, AFileThatCannotStandBehindAnObjectIsRefused) {
  const PatternFile file(4 * kPage + 1);
  const PatternFile empty(0);
  const std::string path = "/proc/self/fd/" + std::to_string(file.fd());
  const UniqueFd closed{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  const int number = closed.get();
  const UniqueFd write_only{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  const UniqueFd path_only{::open(path.c_str(), O_PATH | O_CLOEXEC)};
  const UniqueFd directory{::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  const UniqueFd device{::open("/dev/zero", O_RDONLY | O_CLOEXEC)};
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd read_end{pipe[0]};
  const UniqueFd write_end{pipe[1]};

  expect_create_refused(client_, spec_from(-1), EBADF, "descriptor -1");
  ::close(number);
  expect_create_refused(client_, spec_from(number), EBADF, "descriptor");
  ASSERT_EQ(::fcntl(file.fd(), F_DUPFD_CLOEXEC, number), number) << "for its owner to close";
  expect_create_refused(client_, spec_from(write_only.get()), EBADF, "not open for reading");
  expect_create_refused(client_, spec_from(path_only.get()), EBADF, "not open for reading");
  expect_create_refused(client_, spec_from(write_end.get()), EBADF, "not open for reading");
  for (const int fd : {directory.get(), device.get(), read_end.get()}) {
    expect_create_refused(client_, spec_from(fd), ENODEV, "not a regular file");
  }
  expect_create_refused(client_, spec_from(empty.fd()), EINVAL, "file of 0 bytes");
  expect_create_refused(client_, spec_from(file.fd(), 4 * kPage + 2), EINVAL, "bytes from a file");
  for (const std::uint64_t offset : {std::uint64_t{1}, kPage - 1, 8 * kPage, ~std::uint64_t{0},
                                     ~std::uint64_t{0} - kPage + 1, std::uint64_t{1} << 63}) {
    fl_object_spec spec = spec_from(file.fd());
    spec.file_offset = offset;
    expect_create_refused(client_, spec, EINVAL, "offset");
  }
  EXPECT_EQ(count_of(daemon_, wire::AdminQuery::objects), 0U);
}

TEST_F(Api, StatTellsWhatTheObjectIs) {
  const PatternFile file(3 * kPage + 5);
  const Object from_file = create_from(client_, file.fd(), 0, "of-a-file");
  const Object anonymous = create(client_, kPage + 1, nullptr, 0);
  fl_object* second = nullptr;
  ASSERT_EQ(fl_object_open(client_, "of-a-file", FL_READ_ONLY, &second), 0) << fl_last_error();
  const Object reader{second};
  const auto memory = map(reader, 4 * kPage, FL_MAP_SHARED);
  touch(memory[3 * kPage]);
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(from_file, &info), 0) << fl_last_error();
  EXPECT_EQ(info.size, 4 * kPage);
  EXPECT_EQ(info.content_size, 3 * kPage + 5);
  EXPECT_EQ(info.resident_bytes, kPage);
  EXPECT_EQ(info.page_size, kPage);
  EXPECT_EQ(info.uid, ::getuid());
  EXPECT_EQ(info.mode, 0600U);
  EXPECT_EQ(info.open_handles, 2U);
  EXPECT_EQ(info.linked, 1U);
  EXPECT_EQ(info.from_file, 1U);
  EXPECT_STREQ(info.name, "of-a-file");
  const std::uint64_t id = info.id;
  ASSERT_EQ(fl_object_stat(anonymous, &info), 0) << fl_last_error();
  EXPECT_NE(info.id, id);
  EXPECT_EQ(info.size, 2 * kPage);
  EXPECT_EQ(info.content_size, kPage + 1);
  EXPECT_EQ(info.mode, 0U);
  EXPECT_EQ(info.linked, 0U);
  EXPECT_EQ(info.from_file, 0U);
  EXPECT_STREQ(info.name, "");
  EXPECT_EQ(fl_object_unlink(client_, "of-a-file"), 0) << fl_last_error();
}

TEST_F(Api, OpeningTellsAbsenceFromNonsense) {
  const Object made = create(client_, kPage, "there");
  fl_object* object = nullptr;
  const auto open = [&](const char* name, std::uint32_t access) {
    return [this, &object, name, access] { return fl_object_open(client_, name, access, &object); };
  };
  expect_refused(ENOENT, "not-there", open("not-there", FL_READ_ONLY));
  for (const std::uint32_t access : {0U, 3U, 4U, ~0U}) {
    expect_refused(EINVAL, "access", open("there", access));
  }
  EXPECT_EQ(object, nullptr);
  expect_create_refused(client_, spec_of(kPage, "there"), EEXIST, "there");
  EXPECT_EQ(fl_object_unlink(client_, "there"), 0) << fl_last_error();
}

TEST_F(Api, AnUnlinkedObjectLivesOnWithoutItsName) {
  Object first = create(client_, kPage, "a-name");
  const auto memory = map(first, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  ASSERT_EQ(fl_object_unlink(client_, "a-name"), 0) << fl_last_error();
  expect_refused(ENOENT, "a-name", [&] { return fl_object_unlink(client_, "a-name"); });
  fl_object* opened = nullptr;
  expect_refused(ENOENT, "a-name",
                 [&] { return fl_object_open(client_, "a-name", FL_READ_ONLY, &opened); });
  const Object second = create(client_, kPage, "a-name");
  const auto other = map(second, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  EXPECT_EQ(other[0], std::byte{0}) << "the name is another object's now";
  EXPECT_EQ(map(first, kPage, FL_MAP_SHARED)[0], kOne);
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(first, &info), 0) << fl_last_error();
  EXPECT_EQ(info.linked, 0U);
  EXPECT_STREQ(info.name, "a-name");
  first.reset();
  EXPECT_EQ(memory[0], kOne);
  EXPECT_EQ(fl_object_unlink(client_, "a-name"), 0) << fl_last_error();
}

TEST_F(Api, ANamedObjectKeepsItsContentWhileNobodyHasItOpen) {
  {
    const Object made = create(client_, kPage, "kept");
    const auto memory = map(made, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    memory[7] = kTwo;
    EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  }
  fl_object* opened = nullptr;
  ASSERT_EQ(fl_object_open(client_, "kept", FL_READ_ONLY, &opened), 0) << fl_last_error();
  EXPECT_EQ(map(Object{opened}, kPage, FL_MAP_SHARED)[7], kTwo);
  EXPECT_EQ(fl_object_unlink(client_, "kept"), 0) << fl_last_error();
}

// The kernel itself keeps a reader from writing, whatever the reader does with the descriptor.
TEST_F(Api, AReadOnlyDescriptorRefusesEveryKindOfWriting) {
  const Object writer = create(client_, kPage, "read-me");
  fl_object* opened = nullptr;
  ASSERT_EQ(fl_object_open(client_, "read-me", FL_READ_ONLY, &opened), 0) << fl_last_error();
  const Object reader{opened};
  const int fd = fl_object_fd(reader);
  EXPECT_EQ(::fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_LT(::pwrite(fd, "x", 1, 0), 0);
  EXPECT_EQ(errno, EBADF);
  EXPECT_LT(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  const auto memory = map(reader, kPage, FL_MAP_SHARED);
  void* address = nullptr;
  expect_refused(EACCES, "read-only",
                 [&] { return fl_map(reader, 0, kPage, FL_MAP_SHARED | FL_MAP_WRITE, &address); });
  const auto view = map(reader, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = kTwo;
  EXPECT_EQ(memory[0], std::byte{0}) << "a private page is the reader's own";
  for (const int any : {fd, fl_object_fd(writer)}) {
    EXPECT_LT(::ftruncate(any, 2 * kPage), 0) << "no size changes under a mapping";
    EXPECT_LT(::ftruncate(any, 0), 0);
    EXPECT_LT(::fcntl(any, F_ADD_SEALS, F_SEAL_WRITE), 0);
  }
  EXPECT_EQ(fl_object_unlink(client_, "read-me"), 0) << fl_last_error();
}

// --- mappings

TEST_F(Api, AMappingThatCannotBeIsRefused) {
  constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;
  constexpr std::uint64_t kLastPage = ~std::uint64_t{0} - kPage + 1;
  struct Wrong {
    std::uint64_t offset;
    std::size_t length;
    std::uint32_t flags;
    const char* words;
  };
  const Object object = create(client_, 4 * kPage);
  for (const Wrong& wrong : {
           Wrong{0, 0, FL_MAP_SHARED, "no bytes"},
           Wrong{0, 1, FL_MAP_SHARED, "multiple"},
           Wrong{0, kPage + 1, FL_MAP_SHARED, "multiple"},
           Wrong{1, kPage, FL_MAP_SHARED, "multiple"},
           Wrong{kPage / 2, kPage, FL_MAP_PRIVATE, "multiple"},
           Wrong{0, 5 * kPage, FL_MAP_SHARED, "past the end"},
           Wrong{4 * kPage, kPage, FL_MAP_SHARED, "past the end"},
           Wrong{kPage, 4 * kPage, FL_MAP_PRIVATE, "past the end"},
           Wrong{kHalf, kPage, FL_MAP_SHARED, "past the end"},
           Wrong{kHalf, kHalf, FL_MAP_SHARED, "past the end"},
           Wrong{kLastPage, kPage, FL_MAP_SHARED, "past the end"},
           Wrong{kLastPage, 2 * kPage, FL_MAP_SHARED, "past the end"},
           Wrong{0, kLastPage, FL_MAP_SHARED, "past the end"},
           Wrong{2 * kPage, kLastPage, FL_MAP_SHARED, "past the end"},
           Wrong{0, kPage, 0, "exactly one"},
           Wrong{0, kPage, FL_MAP_WRITE, "exactly one"},
           Wrong{0, kPage, FL_MAP_SHARED | FL_MAP_PRIVATE, "exactly one"},
           Wrong{0, kPage, FL_MAP_SHARED | FL_MAP_WAIT_BY_PAGE, "without FL_MAP_PRIVATE"},
           Wrong{0, kPage, FL_MAP_SHARED | 1U << 6, "unknown flag"},
           Wrong{0, kPage, FL_MAP_PRIVATE | 1U << 31, "unknown flag"},
       }) {
    void* address = &address;
    expect_refused(EINVAL, wrong.words, [&] {
      return fl_map(object, wrong.offset, wrong.length, wrong.flags, &address);
    });
    EXPECT_EQ(address, nullptr);
  }
  EXPECT_EQ(mappings_of(client_), 0U);
}

TEST_F(Api, AnUnmapThatCannotBeIsRefusedAndChangesNothing) {
  const auto memory = map(create(client_, 2 * kPage), 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  void* own = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const std::size_t to_the_end = 0 - reinterpret_cast<std::uintptr_t>(memory.data());
  struct Wrong {
    void* address;
    std::size_t length;
  };
  for (const Wrong& wrong : {
           Wrong{memory.data(), 0},
           Wrong{memory.data(), 1},
           Wrong{memory.data() + 1, kPage},
           Wrong{memory.data() + kPage, 2 * kPage},
           Wrong{memory.data(), to_the_end},
           Wrong{memory.data(), to_the_end + kPage},
           Wrong{nullptr, kPage},
           Wrong{own, kPage},
       }) {
    expect_refused(EINVAL, "unmapping",
                   [&] { return fl_unmap(client_, wrong.address, wrong.length); });
  }
  *static_cast<std::byte*>(own) = kOne;
  EXPECT_EQ(memory[0], kOne);
  EXPECT_EQ(stats_of(client_, memory.data()).length, 2 * kPage);
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  expect_refused(EINVAL, "unmapping",
                 [&] { return fl_unmap(client_, memory.data(), memory.size()); });
  ::munmap(own, kPage);
}

TEST_F(Api, StatsOfWhatIsNoMappingDoNotExist) {
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  EXPECT_EQ(stats_of(client_, memory.data() + kPage - 1).start,
            reinterpret_cast<std::uintptr_t>(memory.data()));
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  fl_stats stats{};
  for (const void* address :
       {static_cast<const void*>(memory.data()), static_cast<const void*>(&stats),
        static_cast<const void*>(nullptr), reinterpret_cast<const void*>(~std::uintptr_t{0})}) {
    expect_refused(ENOENT, "mapping", [&] { return fl_mapping_stats(client_, address, &stats); });
  }
}

TEST_F(Api, AMappingWithoutItsMiddleIsTwo) {
  const PatternFile file(12 * kPage);
  const Object object = create_from(client_, file.fd());
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    const auto memory = map(object, 12 * kPage, kind | FL_MAP_WRITE);
    touch(memory[0]);
    touch(memory[11 * kPage]);
    ASSERT_EQ(fl_unmap(client_, memory.data() + 4 * kPage, 3 * kPage), 0) << fl_last_error();
    const auto start = reinterpret_cast<std::uintptr_t>(memory.data());
    const fl_stats head = stats_of(client_, memory.data() + 3 * kPage);
    EXPECT_EQ(head.start, start);
    EXPECT_EQ(head.length, 4 * kPage);
    const fl_stats tail = stats_of(client_, memory.data() + 8 * kPage);
    EXPECT_EQ(tail.start, start + 7 * kPage);
    EXPECT_EQ(tail.length, 5 * kPage);
    EXPECT_EQ(mappings_of(client_), 2U);
    for (const std::size_t page : {std::size_t{4}, std::size_t{6}}) {
      EXPECT_TRUE(in_child([&] { return touch(memory[page * kPage]); }).killed_by(SIGSEGV));
      fl_stats none{};
      expect_refused(ENOENT, "mapping", [&] {
        return fl_mapping_stats(client_, memory.data() + page * kPage, &none);
      });
    }
    EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), 4 * kPage), 0);
    EXPECT_EQ(std::memcmp(memory.data() + 7 * kPage, file.bytes().data() + 7 * kPage, 5 * kPage),
              0);
    expect_refused(EINVAL, "unmapping",
                   [&] { return fl_unmap(client_, memory.data(), memory.size()); });
    EXPECT_EQ(fl_unmap(client_, memory.data(), 4 * kPage), 0) << fl_last_error();
    EXPECT_EQ(fl_unmap(client_, memory.data() + 7 * kPage, 5 * kPage), 0) << fl_last_error();
    EXPECT_EQ(mappings_of(client_), 0U);
  }
}

TEST_F(Api, WhatCouldNotBeUnmappedCanBeUnmappedLater) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIPPED: a sanitizer's allocator does not live at the limit of mappings";
#endif
  const Outcome outcome = in_child([&] {
    std::size_t most_mappings = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> most_mappings;
    const Client client = connect(daemon_.socket());
    const auto memory = map(create(client, 3 * kPage), 3 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    memory[kPage] = kOne;
    // Every page a mapping of its own, until there may be no more of them.
    const std::size_t size = 2 * most_mappings * kPage;
    void* const pages =
        ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(pages, MAP_FAILED) << std::strerror(errno);
    auto* page = static_cast<std::byte*>(pages) + kPage;
    while (::mprotect(page, kPage, PROT_READ) == 0) page += 2 * kPage;
    EXPECT_EQ(errno, ENOMEM);
    // Its rest would be one mapping more.
    expect_refused(ENOMEM, "munmap", [&] { return fl_unmap(client, &memory[kPage], kPage); });
    ::munmap(pages, size);
    EXPECT_EQ(memory[kPage], kOne);
    EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
    expect_refused(EINVAL, "unmapping", [&] { return fl_unmap(client, &memory[kPage], kPage); });
    return 0;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

// --- threads

TEST_F(Api, ThreadsMakeUseAndReleaseEverythingAtOnce) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kRounds = 200;
  // As long as a worker sleeps where it has nothing to do: who waits so long was overlooked.
  constexpr std::chrono::milliseconds kOverlooked{150};
  std::atomic<std::size_t> overlooked{0};
  const PatternFile file(8 * kPage);
  const auto work = [&](std::size_t thread) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      const auto began = std::chrono::steady_clock::now();
      const Client client = connect(daemon_.socket());
      const std::string name = "of-" + std::to_string(thread) + (round % 2 == 0 ? "-even" : "-odd");
      const Object object = create(client, 8 * kPage, name.c_str());
      const Object of_file = create_from(client, file.fd());
      const auto shared = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
      const auto view = map(of_file, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
      ASSERT_FALSE(shared.empty() || view.empty());
      const auto mark = static_cast<std::byte>(1 + (thread * kRounds + round) % 255);
      for (std::size_t page = 0; page < 8; ++page) shared[page * kPage + thread] = mark;
      view[thread * kPage] = mark;
      const auto again = map(object, 8 * kPage, FL_MAP_SHARED);
      for (std::size_t page = 0; page < 8; ++page) {
        ASSERT_EQ(again[page * kPage + thread], mark) << "page " << page;
        ASSERT_EQ(again[page * kPage + thread + 1], std::byte{0}) << "page " << page;
      }
      ASSERT_EQ(view[thread * kPage], mark);
      ASSERT_EQ(std::memcmp(view.data() + 4 * kPage, file.bytes().data() + 4 * kPage, 4 * kPage),
                0);
      for (const auto& memory : {shared, view, again}) {
        ASSERT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
      }
      ASSERT_EQ(fl_object_unlink(client, name.c_str()), 0) << fl_last_error();
      if (std::chrono::steady_clock::now() - began > kOverlooked) ++overlooked;
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(overlooked, kThreads * kRounds / 20) << "a busy machine alone makes a few rounds slow";
  EXPECT_EQ(mappings_of(client_), 0U);
  EXPECT_TRUE(eventually([&] { return count_of(daemon_, wire::AdminQuery::objects) == 0; }));
}

// --- C++

template <typename T>
constexpr bool kMoveOnly =
    std::is_nothrow_move_constructible_v<T>&& std::is_nothrow_move_assignable_v<T> &&
    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(kMoveOnly<mapping> && kMoveOnly<object> && kMoveOnly<client>);
static_assert(std::is_base_of_v<std::system_error, error>);

// The errno that the body throws; 0 where it throws nothing.
int thrown(const std::function<void()>& body, const std::string& words) {
  try {
    body();
  } catch (const error& failure) {
    EXPECT_NE(std::string(failure.what()).find(words), std::string::npos) << failure.what();
    EXPECT_EQ(failure.code().category(), std::generic_category());
    return failure.code().value();
  }
  return 0;
}

using Cpp = SystemTest;

TEST_F(Cpp, FailuresAreThrownWithErrnoAndWords) {
  const client daemon = client::connect(daemon_.socket());
  const object table = daemon.create({.name = "table", .size = 2 * kPage});
  const object reader = daemon.open("table", access::read_only);
  EXPECT_EQ(thrown([] { (void)client::connect("/nonexistent/socket"); }, "/nonexistent"), ENOENT);
  EXPECT_EQ(thrown([&] { (void)daemon.open("none"); }, "none"), ENOENT);
  EXPECT_EQ(thrown([&] { (void)daemon.create({.name = "table", .size = 1}); }, "table"), EEXIST);
  EXPECT_EQ(thrown([&] { (void)daemon.create({}); }, "0 bytes"), EINVAL);
  EXPECT_EQ(thrown([&] { daemon.unlink(".table"); }, "name"), EINVAL);
  EXPECT_EQ(thrown([&] { (void)reader.map(sharing::shared); }, "read-only"), EACCES);
  const auto map_at = [&](std::uint64_t offset) {
    return [&table, offset] { (void)table.map(sharing::shared, protection::read, offset); };
  };
  EXPECT_EQ(thrown(map_at(1), "multiple"), EINVAL);
  EXPECT_EQ(thrown(map_at(2 * kPage), "past the end"), EINVAL);
  EXPECT_EQ(thrown(map_at(~std::uint64_t{0} - kPage + 1), "past the end"), EINVAL);
  EXPECT_EQ(thrown(map_at(0), ""), 0);
  daemon.unlink("table");
}

TEST_F(Cpp, AMappingOutlivesItsObjectAndItsClient) {
  const PatternFile file(4 * kPage);
  mapping view;
  EXPECT_FALSE(view);
  {
    const client daemon = client::connect(daemon_.socket());
    view = daemon.create({.file_fd = file.fd(), .file_offset = kPage}).map(sharing::private_copy);
  }
  client_.reset();
  ASSERT_TRUE(view);
  EXPECT_EQ(view.size(), 3 * kPage);
  EXPECT_EQ(std::memcmp(view.data(), file.bytes().data() + kPage, view.size()), 0);
  view.bytes()[0] = kTwo;
  EXPECT_EQ(view.stats().private_bytes, kPage);
  view.reset();
  view.reset();
  EXPECT_FALSE(view);
  EXPECT_TRUE(eventually([&] { return count_of(daemon_, wire::AdminQuery::spaces) == 0; }));
}

TEST_F(Cpp, WhatIsMovedIsOwnedOnce) {
  const client daemon = client::connect(daemon_.socket());
  object first = daemon.create({.size = 2 * kPage});
  object second = std::move(first);
  // What is left is what is tested.
  // NOLINTBEGIN(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_FALSE(first);
  EXPECT_EQ(first.get(), nullptr);
  // NOLINTEND(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  mapping one = second.map(sharing::shared);
  mapping two = second.map(sharing::shared, protection::read, kPage, kPage);
  EXPECT_EQ(daemon.stats().mappings, 2U);
  std::byte* const kept = one.data();
  two = std::move(one);
  EXPECT_FALSE(one);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(two.data(), kept);
  EXPECT_EQ(daemon.stats().mappings, 1U) << "what was assigned over is unmapped";
  mapping& same = two;
  two = std::move(same);
  EXPECT_EQ(two.data(), kept);
  two.bytes()[kPage] = kOne;
  {
    const mapping three{std::move(two)};
    EXPECT_EQ(three.bytes()[kPage], kOne);
  }
  EXPECT_EQ(daemon.stats().mappings, 0U);
  second = daemon.create({.size = kPage});
  // The daemon may keep what was mapped until it knows that no fork is under way.
  EXPECT_TRUE(eventually([&] { return count_of(daemon_, wire::AdminQuery::objects) == 1; }))
      << "the first went";
}

TEST_F(Cpp, AMappingIsSeenAsAnArray) {
  const client daemon = client::connect(daemon_.socket());
  const object table = daemon.create({.name = "numbers", .size = 2 * kPage});
  const mapping writer = table.map(sharing::shared);
  const std::span<std::uint64_t> numbers = writer.as<std::uint64_t>();
  ASSERT_EQ(numbers.size(), 2 * kPage / sizeof(std::uint64_t));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = i * i;
  struct Odd {
    std::array<std::uint8_t, 3> bytes;
  };
  EXPECT_EQ(writer.as<Odd>().size(), 2 * kPage / 3) << "as many as fit";
  const object opened = daemon.open("numbers", access::read_only);
  const mapping reader = opened.map(sharing::shared, protection::read, kPage);
  EXPECT_EQ(reader.size(), kPage);
  const auto tail = reader.as<const std::uint64_t>();
  EXPECT_TRUE(std::equal(tail.begin(), tail.end(), numbers.begin() + kPage / sizeof(tail[0])));
  EXPECT_EQ(opened.info().open_handles, 2U);
  EXPECT_GE(opened.fd(), 0);
  daemon.unlink("numbers");
  EXPECT_EQ(opened.info().linked, 0U);
}

// --- what is left in the daemon

// Everything that the library does, once; 0, or the number of the step that failed.
int use_once(const std::string& socket) {
  fl_client* client = nullptr;
  if (fl_connect(socket.c_str(), &client) != 0) return 1;
  fl_object* object = nullptr;
  const fl_object_spec spec = spec_of(16 * kPage, "used-once");
  if (fl_object_create(client, &spec, &object) != 0) return 2;
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    void* address = nullptr;
    if (fl_map(object, 0, 16 * kPage, kind | FL_MAP_WRITE, &address) != 0) return 3;
    auto* const bytes = static_cast<std::byte*>(address);
    for (std::size_t page = 0; page < 16; page += 3) bytes[page * kPage] = kOne;
    fl_stats stats{};
    if (fl_mapping_stats(client, address, &stats) != 0) return 4;
    if (fl_unmap(client, address, 16 * kPage) != 0) return 5;
  }
  if (fl_object_unlink(client, "used-once") != 0) return 6;
  if (fl_object_close(object) != 0) return 7;
  return fl_disconnect(client) == 0 ? 0 : 8;
}

class Leaks : public ::testing::TestWithParam<bool> {
 protected:
  // In this process, or each in a child of its own.
  void use(int times) const {
    for (int i = 0; i < times; ++i) {
      if (GetParam()) {
        ASSERT_TRUE(in_child([&] { return use_once(daemon_.socket()); }).exited(0)) << "time " << i;
      } else {
        ASSERT_EQ(use_once(daemon_.socket()), 0) << "time " << i << ": " << fl_last_error();
      }
    }
    ASSERT_TRUE(eventually([&] { return count_of(daemon_, wire::AdminQuery::spaces) == 0; }));
  }
  // Exact, unlike VmRSS, which the kernel counts a processor at a time. Without the objects' pages,
  // which are shared memory.
  [[nodiscard]] std::int64_t memory_kib() const {
    std::ifstream rollup("/proc/" + std::to_string(daemon_.pid()) + "/smaps_rollup");
    std::string word;
    while (rollup >> word && word != "Anonymous:") {
    }
    std::int64_t kib = -1;
    rollup >> kib;
    EXPECT_GT(kib, 0) << "no smaps_rollup";
    return kib;
  }
  [[nodiscard]] std::ptrdiff_t memory_ranges() const {
    std::ifstream maps("/proc/" + std::to_string(daemon_.pid()) + "/maps");
    return std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  }

  Daemon daemon_;
};

TEST_P(Leaks, NoDescriptorIsLeftOpen) {
  use(10);
  // Maybe with one that is just being closed, that of the last question.
  const std::size_t before = daemon_.open_descriptors();
  use(300);
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= before; }))
      << before << " before, and now:\n"
      << daemon_.describe_descriptors();
  EXPECT_TRUE(eventually([&] { return count_of(daemon_, wire::AdminQuery::objects) == 0; }));
}

TEST_P(Leaks, TheDaemonsMemoryDoesNotGrow) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIPPED: a sanitizer's allocator keeps what is freed, so that memory grows";
#endif
  constexpr int kTimes = 400;
  constexpr std::int64_t kAllowedKib = 200;  // half a KiB each; less than any buffer of a session
  // What leaks grows in every round. A cache that only filled up under load does so once.
  constexpr int kRounds = 4;
  use(200);
  const std::ptrdiff_t ranges = memory_ranges();
  std::string grown;
  bool kept = false;
  int rounds = 0;
  for (; rounds < kRounds && !kept; ++rounds) {
    const std::int64_t before = memory_kib();
    use(kTimes);
    const std::int64_t grew = memory_kib() - before;
    grown += " " + std::to_string(grew);
    kept = grew < kAllowedKib;
  }
  EXPECT_TRUE(kept) << "grown by" << grown << " KiB, each time";
  EXPECT_LT(memory_ranges() - ranges, rounds * kTimes / 10) << ranges << " ranges before";
}

INSTANTIATE_TEST_SUITE_P(Users, Leaks, ::testing::Values(false, true), [](const auto& user) {
  return user.param ? "ManyProcesses" : "OneProcess";
});

}  // namespace
}  // namespace faultline::testing
