#include "tools/faultctl/map.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string_view>

#include "faultline/wire/unique_fd.hpp"
#include "tools/faultctl/map_svg.hpp"
#include "tools/faultctl/map_text.hpp"
#include "tools/faultctl/query.hpp"
#include "tools/faultctl/usage.hpp"

namespace faultline::ctl {

namespace {

std::size_t columns_of_output() {
  constexpr std::size_t kWithoutTerminal = 80;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kWithoutTerminal;
  return size.ws_col;
}

void write_all(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw Refused(errno, "writing the picture to " + path);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Whole, or not at all: under another name beside it first. What is no file is written to as it is,
// and so is what a link leads to: /dev/stdout is one, and must stay one.
void write_file(const std::string& path, const std::string& text) {
  const UniqueFd there{::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY)};
  struct stat itself {};
  struct stat info {};
  if (there && (::lstat(path.c_str(), &itself) != 0 || ::fstat(there.get(), &info) != 0)) {
    throw Refused(errno, "writing the picture to " + path);
  }
  if (there && !S_ISREG(itself.st_mode)) {
    if (S_ISREG(info.st_mode) && ::ftruncate(there.get(), 0) != 0) {
      throw Refused(errno, "writing the picture to " + path);
    }
    return write_all(there.get(), text, path);
  }
  std::string beside = path + ".XXXXXX";
  UniqueFd file{::mkostemp(beside.data(), O_CLOEXEC)};
  if (!file) throw Refused(errno, "writing the picture to " + path);
  try {
    const mode_t mask = ::umask(0);
    (void)::umask(mask);
    constexpr mode_t kEverybody = 0666;
    const mode_t mode = there ? info.st_mode & 07777U : kEverybody & ~mask;
    if (::fchmod(file.get(), mode) != 0) throw Refused(errno, "writing the picture to " + path);
    write_all(file.get(), text, path);
    if (::rename(beside.c_str(), path.c_str()) != 0) {
      throw Refused(errno, "writing the picture to " + path);
    }
  } catch (const Refused&) {
    (void)::unlink(beside.c_str());
    throw;
  }
}

}  // namespace

std::uint32_t buckets_from(const std::string& text) {
  std::uint32_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, number);
  if (code != std::errc{} || stopped != end || number == 0 || number > wire::kMostMapBuckets) {
    throw WrongUsage(fmt::format("--buckets must be 1 to {}, not {}", wire::kMostMapBuckets, text));
  }
  return number;
}

void map(const std::vector<std::string>& socket_paths, const Map& what) {
  wire::AdminRequest request = what.request;
  const bool as_text = !what.svg && !what.as_json;
  if (request.buckets == 0 && as_text) {
    request.buckets = static_cast<std::uint32_t>(
        std::min<std::size_t>(map_cells(columns_of_output()), wire::kMostMapBuckets));
  }
  const nlohmann::json answer = ask(socket_paths, request);
  if (what.as_json) return print(answer.dump(2) + "\n");
  const ObjectMap drawn = ObjectMap::from(answer);
  if (as_text) return print(map_text(drawn));
  const std::string picture = map_svg(drawn);
  if (*what.svg == "-") return print(picture);
  write_file(*what.svg, picture);
}

}  // namespace faultline::ctl
