#include "tests/system/harness.hpp"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "tests/places.hpp"

namespace faultline::testing {

namespace fs = std::filesystem;

namespace {

fs::path make_directory() {
  std::string name = (fs::temp_directory_path() / "faultline-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp: " << std::strerror(errno);
  return name;
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  return address;
}

}  // namespace

// --- the daemon

Daemon::Daemon(std::vector<std::string> options, uid_t uid)
    : directory_(make_directory()), socket_((directory_ / "run" / "faultlined.sock").string()) {
  if (uid != 0) {
    EXPECT_EQ(::chown(directory_.c_str(), uid, uid), 0) << std::strerror(errno);
  } else {
    ::chmod(directory_.c_str(), 0755);
  }
  // The daemon says "ready" as it would to systemd, see sd_notify(3).
  const UniqueFd notify{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  const std::string notify_path = (directory_ / "notify").string();
  const sockaddr_un address = address_of(notify_path);
  EXPECT_EQ(::bind(notify.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
      << std::strerror(errno);
  ::chmod(notify_path.c_str(), 0666);

  options.insert(options.begin(), {FAULTLINED_BINARY, "--socket", socket_});
  std::vector<char*> arguments;
  for (std::string& option : options) arguments.push_back(option.data());
  arguments.push_back(nullptr);
  const std::string log_path = (directory_ / "log").string();
  pid_ = ::fork();
  if (pid_ == 0) {
    const int log = ::open(log_path.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0666);
    ::dup2(log, STDOUT_FILENO);
    ::dup2(log, STDERR_FILENO);
    ::setenv("NOTIFY_SOCKET", notify_path.c_str(), 1);
    if (uid != 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
                     ::setresuid(uid, uid, uid) != 0)) {
      ::_exit(126);
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a change of uid takes it back, prctl(2)
    ::execv(FAULTLINED_BINARY, arguments.data());
    ::_exit(127);
  }
  constexpr int kStartWithinMs = 20'000;
  pollfd readable{notify.get(), POLLIN, 0};
  ready_ = ::poll(&readable, 1, kStartWithinMs) == 1;
  EXPECT_TRUE(ready_) << "faultlined did not start:\n" << log();
}

Daemon::~Daemon() {
  const int status = stop();
  if (status != -1) {
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << Outcome{status} << "\n" << log();
  }
  if (::testing::Test::HasFailure()) std::cerr << "daemon's log:\n" << log() << std::endl;
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

int Daemon::stop() {
  const pid_t pid = std::exchange(pid_, -1);
  if (pid <= 0) return -1;
  ::kill(pid, SIGTERM);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

void Daemon::pause() const {
  EXPECT_EQ(::kill(pid_, SIGSTOP), 0);
  siginfo_t stopped{};
  EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED), 0);
}

void Daemon::resume() const {
  EXPECT_EQ(::kill(pid_, SIGCONT), 0);
}

std::string Daemon::log() const {
  std::ifstream in(directory_ / "log");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

nlohmann::json Daemon::ask(wire::AdminQuery query, pid_t pid) const {
  const UniqueFd fd{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  const sockaddr_un address = address_of(socket_);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    ADD_FAILURE() << "connect: " << std::strerror(errno);
    return {};
  }
  wire::RequestHeader header;
  header.op = wire::Op::hello;
  header.body_size = sizeof(wire::HelloRequest);
  wire::Packet packet;
  EXPECT_EQ(wire::send_packet(fd.get(), wire::join(header, wire::HelloRequest{}), {}), 0);
  EXPECT_EQ(wire::receive_packet(fd.get(), packet), 0);
  header.op = wire::Op::admin;
  header.body_size = sizeof(wire::AdminRequest);
  const wire::AdminRequest request{query, static_cast<std::uint32_t>(pid)};
  EXPECT_EQ(wire::send_packet(fd.get(), wire::join(header, request), {}), 0);
  EXPECT_EQ(wire::receive_packet(fd.get(), packet), 0);
  wire::ReplyHeader reply;
  std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
  wire::AdminReply body;
  if (reply.status != 0 || packet.fds.size() != 1 ||
      !wire::read_body<wire::ReplyHeader>(packet.bytes, body)) {
    ADD_FAILURE() << "admin query: " << reply.detail.data();
    return {};
  }
  std::string text(body.json_bytes, '\0');
  EXPECT_EQ(::pread(packet.fds.front().get(), text.data(), text.size(), 0),
            static_cast<ssize_t>(text.size()));
  return nlohmann::json::parse(text);
}

std::size_t Daemon::open_descriptors() const {
  const fs::directory_iterator fds("/proc/" + std::to_string(pid_) + "/fd");
  return static_cast<std::size_t>(std::distance(begin(fds), end(fds)));
}

std::string Daemon::describe_descriptors() const {
  std::string text;
  std::error_code ignored;
  for (const auto& fd : fs::directory_iterator("/proc/" + std::to_string(pid_) + "/fd")) {
    text += fd.path().filename().string() + " " + fs::read_symlink(fd, ignored).string() + "\n";
  }
  return text;
}

// --- processes

bool Outcome::exited(int code) const {
  return WIFEXITED(status) && WEXITSTATUS(status) == code;
}
bool Outcome::killed_by(int signal) const {
  return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  if (WIFEXITED(outcome.status)) return out << "exited with " << WEXITSTATUS(outcome.status);
  if (WIFSIGNALED(outcome.status))
    return out << "killed by " << ::strsignal(WTERMSIG(outcome.status));
  return out << "wait status " << outcome.status;
}

Child::Child(const std::function<int()>& body) : pid_(::fork()) {
  if (pid_ != 0) {
    EXPECT_GT(pid_, 0) << "fork: " << std::strerror(errno);
    return;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int code = 99;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::cerr << "child: " << error.what() << std::endl;
  }
  if (::testing::Test::HasFailure() && code == 0) code = 98;
  std::cout.flush();
  std::cerr.flush();
  ::_exit(code);
}

Child::Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

Child::~Child() {
  if (pid_ <= 0) return;
  kill(SIGKILL);
  wait();
}

void Child::kill(int signal) const {
  ::kill(pid_, signal);
}

Outcome Child::wait() {
  Outcome outcome;
  const pid_t pid = std::exchange(pid_, -1);
  while (::waitpid(pid, &outcome.status, 0) < 0 && errno == EINTR) {
  }
  return outcome;
}

Gate::Gate() {
  std::array<int, 2> fds{};
  EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0) << std::strerror(errno);
  read_ = UniqueFd{fds[0]};
  write_ = UniqueFd{fds[1]};
}

void Gate::open() const {
  EXPECT_EQ(::write(write_.get(), "x", 1), 1) << std::strerror(errno);
}

bool Gate::pass() const {
  char byte = 0;
  return ::read(read_.get(), &byte, 1) == 1;
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds within) {
  const auto give_up = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

// --- the client side

Client connect(const std::string& socket) {
  fl_client* client = nullptr;
  const int result = fl_connect(socket.c_str(), &client);
  EXPECT_EQ(result, 0) << fl_last_error();
  return Client{client};
}

Object create(fl_client* client, std::size_t bytes, const char* name, std::uint32_t mode,
              std::uint32_t flags) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.page_size = kPage;
  spec.name = name;
  spec.size = bytes;
  spec.mode = mode;
  spec.flags = flags;
  fl_object* object = nullptr;
  const int result = fl_object_create(client, &spec, &object);
  EXPECT_EQ(result, 0) << fl_last_error();
  return Object{object};
}

Object create_from(fl_client* client, int file, std::size_t bytes, const char* name) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.page_size = kPage;
  spec.name = name;
  spec.size = bytes;
  spec.mode = 0600;
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file;
  fl_object* object = nullptr;
  const int result = fl_object_create(client, &spec, &object);
  EXPECT_EQ(result, 0) << fl_last_error();
  return Object{object};
}

std::span<std::byte> map(fl_object* object, std::size_t bytes, std::uint32_t flags,
                         std::uint64_t offset) {
  void* address = nullptr;
  const int result = fl_map(object, offset, bytes, flags, &address);
  EXPECT_EQ(result, 0) << fl_last_error();
  if (result != 0) return {};
  return {static_cast<std::byte*>(address), bytes};
}

fl_stats stats_of(fl_client* client, const void* address) {
  fl_stats stats{};
  EXPECT_EQ(fl_mapping_stats(client, address, &stats), 0) << fl_last_error();
  return stats;
}

void expect_refused(int code, const std::string& words, const std::function<int()>& call) {
  ASSERT_EQ(fl_connect(nullptr, nullptr), -EINVAL);  // another failure, with words of its own
  const std::string before = fl_last_error();
  EXPECT_EQ(call(), -code) << "expected: " << words << "\nsaid: " << fl_last_error();
  EXPECT_NE(fl_last_error(), before) << "no words for: " << words;
  EXPECT_NE(std::string(fl_last_error()).find(words), std::string::npos) << fl_last_error();
}

PatternFile::PatternFile(std::size_t bytes)
    : fd_(::memfd_create("pattern", MFD_CLOEXEC)), bytes_(bytes) {
  std::uint64_t state = 0x9e3779b97f4a7c15;
  for (std::byte& byte : bytes_) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<std::byte>(state);
  }
  EXPECT_EQ(::pwrite(fd_.get(), bytes_.data(), bytes, 0), static_cast<ssize_t>(bytes));
}

void PatternFile::truncate(std::size_t bytes) const {
  EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(bytes)), 0) << std::strerror(errno);
}

void SystemTest::SetUp() {
  ASSERT_TRUE(daemon_.ready());
  client_ = connect(daemon_.socket());
  ASSERT_TRUE(client_);
}

void SystemTest::TearDown() {
  client_.reset();
}

}  // namespace faultline::testing
