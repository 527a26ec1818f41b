// N workers edit one file, each in a private copy-on-write view of its own, while another process
// goes on reading it shared. At the end every view, and the object, is checked byte for byte, and a
// table shows what the sharing saved.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <faultline/faultline.hpp>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPage = 4096;
constexpr std::uintmax_t kLargestDefault = 256U << 20;

// What a process tells the parent when it is done.
struct Report {
  fl_stats stats{};
  std::uint64_t wrong_bytes = 0;
  std::uint64_t passes = 0;
};

class Pipe {
 public:
  Pipe() {
    if (::pipe(ends_.data()) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_reader();
    close_writer();
  }
  [[nodiscard]] int reader() const { return ends_[0]; }
  [[nodiscard]] int writer() const { return ends_[1]; }
  void close_reader() { close(ends_[0]); }
  void close_writer() { close(ends_[1]); }

 private:
  static void close(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
  std::array<int, 2> ends_{-1, -1};
};

std::string default_file() {
  fs::path largest;
  std::uintmax_t size = 0;
  for (const char* directory :
       {"/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/bin"}) {
    std::error_code ignored;
    for (fs::recursive_directory_iterator
             it(directory, fs::directory_options::skip_permission_denied, ignored),
         end;
         it != end; it.increment(ignored)) {
      if (ignored || !it->is_regular_file(ignored) || it->is_symlink(ignored)) continue;
      const std::uintmax_t candidate = it->file_size(ignored);
      if (candidate <= kLargestDefault && candidate > size &&
          ::access(it->path().c_str(), R_OK) == 0) {
        size = candidate;
        largest = it->path();
      }
    }
  }
  return largest.string();
}

std::vector<std::byte> read_whole(int fd, std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::size_t got = 0;
  while (got < size) {
    const ssize_t n = ::pread(fd, bytes.data() + got, size - got, static_cast<off_t>(got));
    if (n <= 0)
      throw std::system_error(n < 0 ? errno : EIO, std::generic_category(), "reading the file");
    got += static_cast<std::size_t>(n);
  }
  return bytes;
}

// Worker w changes one page in every `every` of them, beginning at its own, in the middle of the
// page.
bool edits(unsigned worker, std::size_t page, unsigned every) {
  return page % every == worker % every;
}

std::byte edited(std::byte original, unsigned worker) {
  return original ^ static_cast<std::byte>(0x80U | (worker & 0x7fU));
}

Report work(const faultline::client& client, const faultline::object& object, unsigned worker,
            unsigned every, const std::vector<std::byte>& original) {
  const auto view = object.map(faultline::sharing::private_copy);
  const std::size_t pages = view.size() / kPage;
  const auto bytes = view.bytes();
  const auto at = [](std::size_t page) { return page * kPage + kPage / 2; };
  for (std::size_t page = 0; page < pages; ++page) {
    if (edits(worker, page, every)) bytes[at(page)] = edited(bytes[at(page)], worker);
  }
  Report report;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::byte expected = i < original.size() ? original[i] : std::byte{0};
    if (i % kPage == kPage / 2 && edits(worker, i / kPage, every))
      expected = edited(expected, worker);
    report.wrong_bytes += bytes[i] != expected ? 1U : 0U;
  }
  report.stats = client.stats();
  return report;
}

// Goes over the object through a shared read-only mapping until the pipe is closed.
Report watch(const faultline::client& client, const faultline::object& object, int until,
             const std::vector<std::byte>& original) {
  const auto shared = object.map(faultline::sharing::shared, faultline::protection::read);
  Report report;
  ::fcntl(until, F_SETFL, O_NONBLOCK);
  char byte = 0;
  bool last = false;
  while (!last) {
    last = ::read(until, &byte, 1) == 0;  // one whole pass after the workers ended
    if (std::memcmp(shared.data(), original.data(), original.size()) != 0) ++report.wrong_bytes;
    ++report.passes;
  }
  report.stats = client.stats();
  return report;
}

// Takes the object's name away as soon as every process has the object open, so that it goes with
// them.
class SharedObject {
 public:
  SharedObject(const faultline::client& client, int file)
      : client_(client),
        name_("cow_workers." + std::to_string(::getpid())),
        object_(client.create({.name = name_, .file_fd = file})) {}
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;
  ~SharedObject() {
    try {
      if (!unlinked_) client_.unlink(name_);
    } catch (const faultline::error& error) {
      std::cerr << "cow_workers: " << error.what() << '\n';
    }
  }
  // In a child. What the parent has open is of use there only where the daemon is told of forks; by
  // its name the object opens with every daemon.
  [[nodiscard]] faultline::object open_in_child() {
    auto object = client_.open(name_);
    opened_.close_reader();
    opened_.close_writer();
    return object;
  }
  // In the parent, when it started the last child.
  void unlink_when_all_have_it() {
    opened_.close_writer();
    char none = 0;
    while (::read(opened_.reader(), &none, 1) < 0 && errno == EINTR) {
    }
    client_.unlink(name_);
    unlinked_ = true;
  }
  [[nodiscard]] const faultline::object& get() const { return object_; }

 private:
  const faultline::client& client_;
  std::string name_;
  faultline::object object_;
  Pipe opened_;  // at its end when every child has closed it
  bool unlinked_ = false;
};

template <typename Body>
pid_t start(int answer, Body body) {
  (void)std::fflush(stdout);  // or the child would print what is still in there once more
  const pid_t pid = ::fork();
  if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid > 0) return pid;
  int code = 0;
  try {
    const Report report = body();
    if (::write(answer, &report, sizeof(report)) != sizeof(report)) code = 1;
  } catch (const std::exception& error) {
    std::cerr << "cow_workers: " << error.what() << '\n';
    code = 1;
  }
  ::_exit(code);
}

std::optional<Report> collect(pid_t pid, int answer) {
  Report report;
  const bool whole = ::read(answer, &report, sizeof(report)) == sizeof(report);
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (!whole || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return report;
}

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.1f}", static_cast<double>(bytes) / (1 << 20));
}

// No report: the process failed, and said why.
void print_row(const std::string& who, const std::optional<Report>& reported) {
  if (!reported) {
    fmt::print("{:<10} failed\n", who);
    return;
  }
  const Report& report = *reported;
  fmt::print("{:<10} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}  {}\n", who,
             mib(report.stats.shared_bytes), mib(report.stats.private_bytes),
             report.stats.missing_faults, report.stats.minor_faults, report.stats.wp_faults,
             report.stats.pages_copied, report.wrong_bytes == 0 ? "right" : "WRONG");
}

int run(const std::string& file, unsigned workers, unsigned every) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "opening " + file);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || info.st_size == 0) throw std::runtime_error(file + " is empty");
  const std::vector<std::byte> original = read_whole(fd, static_cast<std::size_t>(info.st_size));

  const auto client = faultline::client::connect();
  SharedObject object(client, fd);
  fmt::print("{}: {} MiB; {} workers, each changing one page in {}, and one reader\n\n", file,
             mib(original.size()), workers, every);

  Pipe stop;
  Pipe watched;
  const pid_t watcher = start(watched.writer(), [&] {
    stop.close_writer();
    return watch(client, object.open_in_child(), stop.reader(), original);
  });
  std::vector<std::unique_ptr<Pipe>> answers;
  std::vector<pid_t> pids;
  for (unsigned w = 0; w < workers; ++w) {
    answers.push_back(std::make_unique<Pipe>());
    pids.push_back(start(answers.back()->writer(), [&] {
      stop.close_writer();
      return work(client, object.open_in_child(), w, every, original);
    }));
    answers.back()->close_writer();
  }
  watched.close_writer();
  object.unlink_when_all_have_it();

  fmt::print("{:<10} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}\n", "process", "shared MiB",
             "private MiB", "missing", "minor", "wp", "copied");
  bool right = true;
  unsigned failed = 0;
  std::uint64_t private_bytes = 0;
  for (unsigned w = 0; w < workers; ++w) {
    const auto report = collect(pids[w], answers[w]->reader());
    print_row("worker " + std::to_string(w), report);
    failed += report ? 0U : 1U;
    right = right && (!report || report->wrong_bytes == 0);
    if (report) private_bytes += report->stats.private_bytes;
  }
  stop.close_writer();
  const auto seen = collect(watcher, watched.reader());
  print_row("reader", seen);
  failed += seen ? 0U : 1U;
  right = right && (!seen || seen->wrong_bytes == 0);

  const fl_object_info object_info = object.get().info();
  const auto shared = object.get().map(faultline::sharing::shared, faultline::protection::read);
  const bool object_right = std::memcmp(shared.data(), original.data(), original.size()) == 0;
  right = right && object_right;
  const std::uint64_t used = object_info.resident_bytes + private_bytes;
  fmt::print("\nthe object: {}, {} MiB in memory once for all; the reader made {} passes\n",
             object_right ? "unchanged" : "CHANGED", mib(object_info.resident_bytes),
             seen ? seen->passes : 0);
  fmt::print("memory: {} MiB, where {} plain copies take {} MiB\n", mib(used), workers + 1,
             mib(original.size() * (workers + 1)));
  if (!right) fmt::print("WRONG CONTENT\n");
  if (failed != 0) fmt::print("{} process{} failed\n", failed, failed == 1 ? "" : "es");
  if (right && failed == 0) fmt::print("every byte is right\n");
  return right && failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Forked workers edit private views of one file while another process reads it.",
               "cow_workers"};
  std::string file;
  unsigned workers = 4;
  unsigned every = 16;
  app.add_option("file", file, "a file to work on; by default a large one of this system");
  app.add_option("-w,--workers", workers, "how many")
      ->check(CLI::Range(1U, 64U))
      ->capture_default_str();
  app.add_option("-e,--every", every, "each worker changes one page in this many")
      ->check(CLI::Range(1U, 1U << 20))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(file.empty() ? default_file() : file, workers, every);
  } catch (const std::exception& error) {
    std::cerr << "cow_workers: " << error.what() << '\n';
    return 1;
  }
}
