// A client for machines: makes objects until it may not, or holds memory until it is told to look.
// Usage: service_client make COUNT | hold READY | shrink FILE
//   make  makes COUNT objects at once; prints "made N", and why there were no more
//   hold  writes to a shared and a private mapping, makes the file READY, waits for SIGUSR1,
//         and has exit status 0 where it finds there what it wrote
//   shrink  makes FILE, an object of it, then cuts the file and reads what is gone: SIGBUS
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "faultline/faultline.hpp"

namespace {

constexpr std::size_t kBytes = std::size_t{1} << 20;

int make(std::size_t count) {
  const auto client = faultline::client::connect();
  std::vector<faultline::object> objects;
  try {
    while (objects.size() < count) objects.push_back(client.create({.size = 4096}));
  } catch (const std::exception& error) {
    std::cout << error.what() << '\n';
  }
  std::cout << "made " << objects.size() << '\n';
  return 0;
}

bool holds(std::span<const char> memory, char expected) {
  for (const char c : memory) {
    if (c != expected) return false;
  }
  return true;
}

int hold(const std::string& ready) {
  // Before there are threads, which are to have it blocked too.
  sigset_t go{};
  ::sigemptyset(&go);
  ::sigaddset(&go, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &go, nullptr);
  const auto client = faultline::client::connect();
  const auto object = client.create({.size = kBytes});
  const auto shared = object.map(faultline::sharing::shared);
  const auto own = object.map(faultline::sharing::private_copy);
  std::memset(shared.as<char>().data(), 's', kBytes);
  std::memset(own.as<char>().data(), 'p', kBytes);
  std::ofstream{ready};
  int signal = 0;
  if (::sigwait(&go, &signal) != 0) return 2;
  const bool right = holds(shared.as<char>(), 's') && holds(own.as<char>(), 'p');
  std::cout << (right ? "all is there\n" : "something is LOST\n") << std::flush;
  ::_exit(right ? 0 : 1);  // what it would give back, nobody is there to take
}

int shrink(const std::string& path) {
  const int fd = ::open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, 8192) != 0) return 2;
  const auto client = faultline::client::connect();
  const auto object = client.create({.file_fd = fd});
  const auto mapping = object.map(faultline::sharing::shared);
  if (::ftruncate(fd, 4096) != 0) return 2;
  const volatile char* const bytes = mapping.as<char>().data();
  return bytes[4096] == 0 ? 0 : 1;  // not reached
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 2 && words[0] == "make") return make(std::stoul(words[1]));
  if (words.size() == 2 && words[0] == "hold") return hold(words[1]);
  if (words.size() == 2 && words[0] == "shrink") return shrink(words[1]);
  std::cerr << "usage: service_client make COUNT | hold READY | shrink FILE\n";
  return 2;
}
