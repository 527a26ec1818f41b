#include "tests/service/machine.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "tests/places.hpp"

namespace faultline::testing {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::chrono::seconds kBootWithin{60};

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// unshare(1) has one child: process 1.
pid_t only_child_of(pid_t pid) {
  std::istringstream children(
      text_of("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children"));
  pid_t child = -1;
  return children >> child ? child : -1;
}

bool runs_systemd(pid_t pid) {
  return pid > 0 && text_of("/proc/" + std::to_string(pid) + "/comm") == "systemd\n";
}

// From the inside out: a group that has others is not removed.
void remove_groups(const fs::path& group) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(group, ignored)) {
    if (entry.is_directory(ignored)) remove_groups(entry.path());
  }
  (void)::rmdir(group.c_str());
}

}  // namespace

std::string Machine::missing() {
  if (::geteuid() != 0) return "root, to make namespaces";
  const Ran can =
      testing::run("unshare --pid --fork --mount --uts --ipc --cgroup --propagation private true");
  if (can.code != 0) return "namespaces of its own: " + can.output;
  if (!fs::exists("/lib/systemd/systemd")) return "systemd";
  const std::string group = "$(findmnt -n -t cgroup2 -o TARGET | head -n 1)/faultline-probe-$$";
  const Ran grouped = testing::run("mkdir \"" + group + "\" && rmdir \"" + group + "\"");
  if (grouped.code != 0) return "a control group of its own: " + grouped.output;
  return {};
}

Machine::Machine(const fs::path& root, const std::vector<fs::path>& seen) {
  std::string name = (fs::temp_directory_path() / "faultline-machine-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    ADD_FAILURE() << "making a directory for a machine: " << std::strerror(errno);
    return;
  }
  directory_ = name;
  fs::create_directory(directory_ / "machine");
  std::vector<std::string> words{SOURCE_DIRECTORY "/tests/service/boot",
                                 (directory_ / "machine").string(), root.string()};
  for (const fs::path& path : seen) words.push_back(path.string());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const std::string console = (directory_ / "console").string();
  boot_ = ::fork();
  if (boot_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int out = ::open(console.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0666);
    const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(in, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  booted_ = eventually(
      [this] {
        if (::waitpid(boot_, nullptr, WNOHANG) == boot_) boot_ = -1;
        if (boot_ < 0) return true;
        init_ = only_child_of(boot_);
        return runs_systemd(init_) && run("systemctl is-active machine.target").code == 0;
      },
      kBootWithin);
  booted_ = booted_ && boot_ > 0;
  EXPECT_TRUE(booted_) << "the machine did not boot:\n" << this->console();
}

Machine::~Machine() {
  const std::string group = text_of(directory_ / "machine" / "group");
  if (init_ > 0) ::kill(init_, SIGKILL);
  if (boot_ > 0) {
    ::kill(boot_, SIGKILL);
    ::waitpid(boot_, nullptr, 0);
  }
  if (!group.empty()) {
    const fs::path path = group.substr(0, group.find('\n'));
    // Its processes are killed with process 1, and gone a moment later.
    const bool gone = eventually([&] {
      remove_groups(path);
      return !fs::exists(path);
    });
    EXPECT_TRUE(gone) << "processes of the machine are left in " << path << ":\n"
                      << text_of(path / "cgroup.procs");
  }
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

std::string Machine::console() const {
  return text_of(directory_ / "console");
}

std::vector<std::string> Machine::enter() const {
  std::vector<std::string> words{"nsenter",  "--mount", "--uts", "--ipc",   "--pid",
                                 "--cgroup", "--root",  "--wd",  "--target"};
  words.push_back(std::to_string(init_));
  for (const char* word : {"env", "-i", "HOME=/root", "LANG=C.UTF-8", kPath})
    words.emplace_back(word);
  return words;
}

Ran Machine::run(const std::string& command) const {
  std::string line;
  for (const std::string& word : enter()) line += word + " ";
  return testing::run(line + "sh -c " + quoted(command) + " </dev/null");
}

std::string Machine::must(const std::string& command) const {
  const Ran ran = run(command);
  EXPECT_EQ(ran.code, 0) << command << "\n" << ran.output;
  return ran.output;
}

void Machine::write(const fs::path& path, const std::string& text, unsigned mode) const {
  // By the root of its process 1: what is mounted there is seen from here.
  const fs::path outside = "/proc/" + std::to_string(init_) + "/root" + path.string();
  std::error_code error;
  fs::create_directories(outside.parent_path(), error);
  std::ofstream(outside) << text;
  EXPECT_EQ(text_of(outside), text) << "writing " << path << " in the machine";
  EXPECT_EQ(::chmod(outside.c_str(), mode), 0) << std::strerror(errno);
}

}  // namespace faultline::testing
