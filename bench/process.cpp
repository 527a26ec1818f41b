// Starting and ending the processes that a benchmark needs.
#include "bench/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace faultline::bench {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

fs::path make_directory() {
  std::string name = (fs::temp_directory_path() / "faultline-bench-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp");
  return name;
}

void end(pid_t pid, int signal) {
  if (pid <= 0) return;
  ::kill(pid, signal);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

Daemon::Daemon(const std::string& binary, const std::vector<std::string>& arguments)
    : directory_(make_directory()), socket_((directory_ / "run" / "faultlined.sock").string()) {
  // It says "ready" as it would to systemd, see sd_notify(3).
  const UniqueFd notify{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  const std::string notify_path = (directory_ / "notify").string();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  notify_path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  if (::bind(notify.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw_errno("bind " + notify_path);
  }
  const std::string log_path = (directory_ / "log").string();
  pid_ = ::fork();
  if (pid_ < 0) throw_errno("fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = ::open(log_path.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
    ::dup2(log, STDOUT_FILENO);
    ::dup2(log, STDERR_FILENO);
    ::setenv("NOTIFY_SOCKET", notify_path.c_str(), 1);
    std::vector<std::string> line{binary, "--socket", socket_};
    line.insert(line.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : line) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(binary.c_str(), argv.data());
    ::_exit(127);
  }
  constexpr int kStartWithinMs = 20'000;
  constexpr int kLookEveryMs = 50;
  pollfd readable{notify.get(), POLLIN, 0};
  for (int waited = 0; ::poll(&readable, 1, kLookEveryMs) != 1; waited += kLookEveryMs) {
    const bool ended = ::waitpid(pid_, nullptr, WNOHANG) == pid_;
    if (!ended && waited < kStartWithinMs) continue;
    if (ended) pid_ = -1;
    const std::string said = log();
    stop();
    throw std::runtime_error(fmt::format("{} did not start:\n{}", binary, said));
  }
}

Daemon::~Daemon() {
  stop();
}

void Daemon::stop() {
  end(std::exchange(pid_, -1), SIGTERM);
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

std::string Daemon::log() const {
  std::ifstream in(directory_ / "log");
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

Pipe::Pipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw_errno("pipe2");
  read_ = UniqueFd{fds[0]};
  write_ = UniqueFd{fds[1]};
}

void Pipe::put() const {
  if (::write(write_.get(), "x", 1) != 1) throw_errno("writing to a pipe");
}

bool Pipe::get() const {
  char byte = 0;
  return ::read(read_.get(), &byte, 1) == 1;
}

Child::Child(const std::function<void()>& body) : pid_(::fork()) {
  if (pid_ < 0) throw_errno("fork");
  if (pid_ > 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int code = EXIT_FAILURE;
  try {
    body();
    code = EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "child: " << error.what() << std::endl;
  }
  ::_exit(code);
}

Child::Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

Child::~Child() {
  end(pid_, SIGKILL);
}

Echo::Echo()
    : child_([this] {
        there_.close_write();
        back_.close_read();
        while (there_.get()) back_.put();
      }) {
  there_.close_read();
  back_.close_write();
}

void Echo::round_trip() const {
  there_.put();
  if (!back_.get()) throw std::runtime_error("the echoing process is gone");
}

}  // namespace faultline::bench
