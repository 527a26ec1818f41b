// Who may do what: clients without any privilege, users from one another, and a daemon that has no
// more rights than its user.
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <optional>

#include "faultline/pin.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};
constexpr std::byte kTwo{2};
constexpr uid_t kNobody = 65534;
constexpr uid_t kSomebody = 65533;

// What the kernel says of this process.
std::string own_status(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(field + ":\t", 0) == 0) return line.substr(field.size() + 2);
  }
  return "no such field";
}

// For good, with every group and capability gone.
void become(uid_t uid, gid_t gid) {
  ASSERT_EQ(::setgroups(0, nullptr), 0) << std::strerror(errno);
  ASSERT_EQ(::setresgid(gid, gid, gid), 0) << std::strerror(errno);
  ASSERT_EQ(::setresuid(uid, uid, uid), 0) << std::strerror(errno);
  // As a process that was this user's from the start: /proc/self is its own.
  ASSERT_EQ(::prctl(PR_SET_DUMPABLE, 1), 0) << std::strerror(errno);
}

Outcome as(uid_t uid, gid_t gid, const std::function<void()>& body) {
  return in_child([&] {
    become(uid, gid);
    if (!::testing::Test::HasFatalFailure()) body();
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
}
Outcome as(uid_t uid, const std::function<void()>& body) {
  return as(uid, uid, body);
}

// The errno of opening it so; 0 where it opens.
int open_error(fl_client* client, const char* name, std::uint32_t access) {
  fl_object* object = nullptr;
  const int result = fl_object_open(client, name, access, &object);
  EXPECT_EQ(fl_object_close(object), 0);
  return -result;
}

Object open(fl_client* client, const char* name, std::uint32_t access) {
  fl_object* object = nullptr;
  EXPECT_EQ(fl_object_open(client, name, access, &object), 0) << fl_last_error();
  return Object{object};
}

// The errno of opening the file behind a descriptor once more; 0 where that works.
int reopen_error(int fd, int flags) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const UniqueFd again{::open(path.c_str(), flags | O_CLOEXEC)};
  return again ? 0 : errno;
}

bool last_error_has(const std::string& words) {
  return std::string(fl_last_error()).find(words) != std::string::npos;
}

class Privilege : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
    const Outcome reaches = as(
        kNobody, [] { EXPECT_EQ(::access(FAULTLINED_BINARY, X_OK), 0) << std::strerror(errno); });
    ASSERT_TRUE(reaches.exited(0)) << "uid " << kNobody << " cannot reach " << FAULTLINED_BINARY;
  }
};

// --- clients of root's daemon
// ----------------------------------------------------------------------

class PlainUser : public Privilege {
 protected:
  void SetUp() override {
    Privilege::SetUp();
    int allowed = -1;
    std::ifstream("/proc/sys/vm/unprivileged_userfaultfd") >> allowed;
    RecordProperty("vm.unprivileged_userfaultfd", allowed);
    may_make_userfaultfds_ = allowed == 1;
  }
  // As a user who owns nothing and may do nothing.
  void with_client(const std::function<void(fl_client*)>& body) {
    const Outcome outcome = as(kNobody, [&] {
      EXPECT_EQ(own_status("CapEff"), "0000000000000000");
      EXPECT_EQ(own_status("CapPrm"), "0000000000000000");
      EXPECT_EQ(own_status("Groups"), " ");
      const UniqueFd own{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
      EXPECT_EQ(own.valid(), may_make_userfaultfds_) << "without the daemon's help";
      body(connect(daemon_.socket()));
    });
    EXPECT_TRUE(outcome.exited(0)) << outcome;
  }

  const Daemon daemon_;
  bool may_make_userfaultfds_ = false;
};

TEST_F(PlainUser, MapsSharedAndPrivateAndCopiesOnWrite) {
  with_client([](fl_client* client) {
    const PatternFile file(16 * kPage);
    const Object object = create_from(client, file.fd());
    const auto shared = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    const auto view = map(object, 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    EXPECT_EQ(std::memcmp(view.data(), file.bytes().data(), 8 * kPage), 0);
    for (std::size_t page = 0; page < 16; ++page) view[page * kPage] = kOne;
    EXPECT_EQ(std::memcmp(shared.data(), file.bytes().data(), shared.size()), 0);
    shared[0] = kTwo;
    EXPECT_EQ(view[0], kOne);
    const fl_stats stats = stats_of(client, view.data());
    EXPECT_EQ(stats.breaks, 16U);
    EXPECT_EQ(stats.private_bytes, 16 * kPage);
  });
}

TEST_F(PlainUser, ItsForkChildrenAreServed) {
  with_client([](fl_client* client) {
    const PatternFile file(16 * kPage);
    const auto view =
        map(create_from(client, file.fd()), 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    const auto shared = map(create(client, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    EXPECT_TRUE(in_child([&] {
                  if (std::memcmp(view.data(), file.bytes().data(), view.size()) != 0) return 1;
                  view[0] = kOne;
                  shared[0] = kOne;
                  const auto own = map(create(client, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
                  own[0] = kOne;
                  return stats_of(client, view.data()).breaks > 0 ? 0 : 2;
                }).exited(0));
    EXPECT_EQ(view[0], file.bytes()[0]);
    EXPECT_EQ(shared[0], kOne);
  });
}

// Faults that the kernel raises itself are what an unprivileged userfaultfd may not serve.
TEST_F(PlainUser, ReadsFromAFileIntoAMapping) {
  with_client([](fl_client* client) {
    const PatternFile file(16 * kPage);
    for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
      const auto memory = map(create(client, 16 * kPage), 16 * kPage, kind | FL_MAP_WRITE);
      touch(memory[3 * kPage]);
      ASSERT_EQ(::pread(file.fd(), memory.data(), memory.size(), 0),
                static_cast<ssize_t>(memory.size()))
          << std::strerror(errno);
      EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), memory.size()), 0);
    }
  });
}

// The right to a file is in the descriptor, as always; root's daemon adds none to it.
TEST_F(PlainUser, RootsDaemonReadsNoFileThatItsClientMayNot) {
  const std::string path = daemon_.directory() / "secret";
  std::ofstream(path) << "not for everyone";
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  const UniqueFd readable{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  const UniqueFd writable{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  with_client([&](fl_client* client) {
    EXPECT_LT(::open(path.c_str(), O_RDONLY | O_CLOEXEC), 0);
    const UniqueFd path_only{::open(path.c_str(), O_PATH | O_CLOEXEC)};
    ASSERT_TRUE(path_only);
    for (const int fd : {writable.get(), path_only.get()}) {
      fl_object_spec spec{};
      spec.struct_size = sizeof(spec);
      spec.flags = FL_FROM_FILE;
      spec.file_fd = fd;
      fl_object* object = nullptr;
      EXPECT_EQ(fl_object_create(client, &spec, &object), -EBADF) << fl_last_error();
    }
    const auto memory = map(create_from(client, readable.get()), kPage, FL_MAP_SHARED);
    EXPECT_EQ(memory[0], std::byte{'n'}) << "what it was given it may read";
  });
}

// A server that starts as root and drops its rights: what it had stays, as with descriptors.
TEST_F(PlainUser, AChildThatDropsItsRightsKeepsWhatItHadAndGetsNoMore) {
  Client client = connect(daemon_.socket());
  const Object object = create(client, 2 * kPage, "of-root", 0600);
  const auto memory = map(object, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const Outcome outcome = as(kNobody, [&] {
    memory[0] = kOne;
    EXPECT_EQ(open_error(client, "of-root", FL_READ_ONLY), EACCES);
    EXPECT_EQ(fl_object_unlink(client, "of-root"), -EACCES);
    map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE, kPage)[0] = kTwo;
    fl_object_info info{};
    const Object own = create(client, kPage);
    EXPECT_EQ(fl_object_stat(own, &info), 0) << fl_last_error();
    EXPECT_EQ(info.uid, kNobody);
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_EQ(memory[0], kOne);
  EXPECT_EQ(memory[kPage], kTwo);
  EXPECT_EQ(fl_object_unlink(client, "of-root"), 0) << fl_last_error();
}

// --- users among themselves
// ------------------------------------------------------------------------

class Users : public Privilege {
 protected:
  // A named object of nobody's, linked until somebody takes the name away.
  void make(const char* name, std::uint32_t mode) {
    const Outcome outcome = as(kNobody, [&] {
      const Client client = connect(daemon_.socket());
      const Object object = create(client, kPage, name, mode);
      map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE)[0] = kOne;
    });
    ASSERT_TRUE(outcome.exited(0)) << outcome;
  }
  void as_client(uid_t uid, gid_t gid, const std::function<void(fl_client*)>& body) {
    const Outcome outcome = as(uid, gid, [&] { body(connect(daemon_.socket())); });
    EXPECT_TRUE(outcome.exited(0)) << outcome << " as uid " << uid;
  }

  const Daemon daemon_;
};

TEST_F(Users, AnObjectOpensAsItsModeSays) {
  struct Right {
    const char* name;
    std::uint32_t mode;
    int group_reads;  // errno, or 0
    int group_writes;
    int others_read;
    int others_write;
  };
  constexpr std::array kRights = {
      Right{"private", 0600, EACCES, EACCES, EACCES, EACCES},
      Right{"readable", 0644, 0, EACCES, 0, EACCES},
      Right{"writable", 0666, 0, 0, 0, 0},
      Right{"of-the-group", 0660, 0, 0, EACCES, EACCES},
      Right{"not-of-the-group", 0606, EACCES, EACCES, 0, 0},
      Right{"write-only", 0622, EACCES, EACCES, EACCES, EACCES},
  };
  for (const Right& right : kRights) make(right.name, right.mode);
  const auto check = [&](uid_t uid, gid_t gid,
                         const std::function<std::pair<int, int>(Right)>& due) {
    as_client(uid, gid, [&](fl_client* client) {
      for (const Right& right : kRights) {
        const auto [reads, writes] = due(right);
        EXPECT_EQ(open_error(client, right.name, FL_READ_ONLY), reads) << right.name;
        EXPECT_TRUE(reads == 0 || last_error_has(right.name)) << fl_last_error();
        EXPECT_EQ(open_error(client, right.name, FL_READ_WRITE), writes) << right.name;
      }
    });
  };
  const auto everything = [](const Right&) { return std::pair(0, 0); };
  check(kNobody, kNobody, everything);
  check(0, 0, everything);
  check(kSomebody, kNobody,
        [](const Right& r) { return std::pair(r.group_reads, r.group_writes); });
  check(kSomebody, kSomebody,
        [](const Right& r) { return std::pair(r.others_read, r.others_write); });
}

TEST_F(Users, OnlyTheOwnerAndRootTakeANameAway) {
  make("one", 0666);
  make("two", 0666);
  as_client(kSomebody, kNobody, [](fl_client* client) {
    for (const char* name : {"one", "two"}) {
      EXPECT_EQ(fl_object_unlink(client, name), -EACCES);
      EXPECT_TRUE(last_error_has(name)) << fl_last_error();
      EXPECT_EQ(open_error(client, name, FL_READ_WRITE), 0) << "it is still there";
    }
  });
  as_client(kNobody, kNobody,
            [](fl_client* client) { EXPECT_EQ(fl_object_unlink(client, "one"), 0); });
  as_client(0, 0, [](fl_client* client) { EXPECT_EQ(fl_object_unlink(client, "two"), 0); });
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"].size(), 0U);
}

// Not even the object's owner: the memory is root's, who gives it out as the mode says.
TEST_F(Users, AReaderCannotMakeItsDescriptorAWriters) {
  make("readable", 0644);
  for (const uid_t uid : {kNobody, kSomebody}) {
    as_client(uid, uid, [](fl_client* client) {
      const PatternFile own(kPage);
      ASSERT_EQ(reopen_error(own.fd(), O_RDWR), 0) << "what is one's own can be opened again";
      const Object object = open(client, "readable", FL_READ_ONLY);
      const int fd = fl_object_fd(object);
      for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
        EXPECT_EQ(reopen_error(fd, flags), EACCES) << "flags " << flags;
      }
      EXPECT_EQ(::fchmod(fd, 0666), -1);
      EXPECT_EQ(errno, EPERM);
      EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
      void* seen = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0);
      ASSERT_NE(seen, MAP_FAILED) << std::strerror(errno);
      EXPECT_EQ(::mprotect(seen, kPage, PROT_READ | PROT_WRITE), -1);
      EXPECT_EQ(errno, EACCES);
      EXPECT_EQ(map(object, kPage, FL_MAP_SHARED)[0], kOne);
    });
  }
}

TEST_F(Users, AWriterOfAnotherUserWritesTheSamePages) {
  make("writable", 0666);
  as_client(kSomebody, kSomebody, [](fl_client* client) {
    const Object object = open(client, "writable", FL_READ_WRITE);
    const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    EXPECT_EQ(memory[0], kOne);
    memory[1] = kTwo;
  });
  as_client(kNobody, kNobody, [](fl_client* client) {
    EXPECT_EQ(map(open(client, "writable", FL_READ_ONLY), kPage, FL_MAP_SHARED)[1], kTwo);
  });
}

// --- the socket
// ------------------------------------------------------------------------------------

// The errno of connecting; 0 where it works.
int connect_error(const std::string& socket) {
  fl_client* client = nullptr;
  const int result = fl_connect(socket.c_str(), &client);
  EXPECT_EQ(fl_disconnect(client), 0);
  return -result;
}

TEST_F(Privilege, TheSocketsModeSaysWhoGetsIn) {
  const group* const found = ::getgrgid(kNobody);
  ASSERT_NE(found, nullptr) << "every Debian has group nogroup";
  struct Door {
    std::vector<std::string> options;
    int group_gets;
    int others_get;
  };
  for (const Door& door :
       {Door{{"--socket-mode", "0600"}, EACCES, EACCES},
        Door{{"--socket-mode", "0660", "--socket-group", found->gr_name}, 0, EACCES},
        Door{{"--socket-mode", "0666"}, 0, 0}, Door{{}, 0, 0}}) {
    const Daemon daemon(door.options);
    const auto knocks = [&](gid_t gid, int gets) {
      const Outcome outcome = as(kSomebody, gid, [&] {
        EXPECT_EQ(connect_error(daemon.socket()), gets);
        if (gets == 0) return;
        EXPECT_TRUE(last_error_has(daemon.socket())) << fl_last_error();
        EXPECT_TRUE(last_error_has("Permission denied")) << fl_last_error();
      });
      EXPECT_TRUE(outcome.exited(0)) << outcome << "; " << ::testing::PrintToString(door.options);
    };
    knocks(kNobody, door.group_gets);
    knocks(kSomebody, door.others_get);
    EXPECT_EQ(connect_error(daemon.socket()), 0) << "root always gets in";
  }
}

// --- faultctl
// --------------------------------------------------------------------------------------

class Onlooker : public Users {
 protected:
  [[nodiscard]] Ran ctl(const std::string& arguments) const {
    return run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " " + arguments);
  }
  [[nodiscard]] nlohmann::json json(const std::string& command) const {
    const Ran ran = ctl(command + " --json");
    EXPECT_EQ(ran.code, 0) << ran.output;
    return nlohmann::json::parse(ran.output)[command];
  }
  [[nodiscard]] std::vector<std::string> object_names() const {
    std::vector<std::string> names;
    for (const auto& object : json("objects")) names.push_back(object["name"]);
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_F(Onlooker, SeesItsOwnProcessesAndWhatEveryoneMayRead) {
  make("a-secret", 0600);
  make("for-the-group", 0660);
  make("for-readers", 0644);
  Gate ready;
  Gate done;
  Child owner([&] {
    become(kNobody, kNobody);
    const Client client = connect(daemon_.socket());
    const Object object = open(client, "a-secret", FL_READ_WRITE);
    touch(map(object, kPage, FL_MAP_SHARED)[0]);
    const Object unlinked = create(client, kPage, "no-longer-there", 0644);
    EXPECT_EQ(fl_object_unlink(client, "no-longer-there"), 0) << fl_last_error();
    ready.open();
    return done.pass() ? 0 : 1;
  });
  ASSERT_TRUE(ready.pass());
  const std::string pid = std::to_string(owner.pid());
  const std::vector<std::string> all = {"a-secret", "for-readers", "for-the-group",
                                        "no-longer-there"};

  const auto look_as = [&](uid_t uid, const std::function<void()>& look) {
    const Outcome outcome = as(uid, look);
    EXPECT_TRUE(outcome.exited(0)) << outcome << " as uid " << uid;
  };
  for (const uid_t uid : {uid_t{0}, kNobody}) {
    look_as(uid, [&] {
      EXPECT_EQ(object_names(), all);
      ASSERT_EQ(json("spaces").size(), 1U);
      EXPECT_EQ(json("spaces")[0]["pid"], owner.pid());
      EXPECT_EQ(ctl("vmas " + pid).code, 0);
      EXPECT_NE(ctl("vmas " + pid).output.find("a-secret"), std::string::npos);
    });
  }
  look_as(kSomebody, [&] {
    EXPECT_EQ(object_names(), std::vector<std::string>{"for-readers"});
    EXPECT_EQ(json("spaces").size(), 0U);
    EXPECT_EQ(ctl("spaces").output.find(pid), std::string::npos);
    const Ran vmas = ctl("vmas " + pid);
    EXPECT_EQ(vmas.code, 1);
    EXPECT_EQ(vmas.output.find("a-secret"), std::string::npos) << vmas.output;
    const Ran nothing = ctl("vmas " + std::to_string(::getpid()));
    EXPECT_EQ(nothing.code, 1) << "whether there is such a client is not told";
    EXPECT_EQ(json("status")["spaces"], 1) << "how much there is, everybody may know";
    const Client client = connect(daemon_.socket());
    ASSERT_EQ(json("spaces").size(), 1U);
    EXPECT_EQ(json("spaces")[0]["pid"], ::getpid());
  });
  done.open();
  EXPECT_TRUE(owner.wait().exited(0));
}

// --- a user's own daemon
// ---------------------------------------------------------------------------

// Without /dev/userfaultfd and CAP_SYS_PTRACE: the kernel's own accesses are not served, and forks
// are not told.
class OwnDaemon : public Privilege {
 protected:
  void SetUp() override {
    Privilege::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    daemon_.emplace(std::vector<std::string>{}, kNobody);
    ASSERT_TRUE(daemon_->ready());
    const auto status = daemon_->ask(wire::AdminQuery::status)["status"];
    if (status["user_mode_only"] == false || status["fork_events"] == true) {
      GTEST_SKIP() << "SKIPPED: this machine gives every user what these tests do without: "
                   << status.dump();
    }
  }
  void as_user(const std::function<void(fl_client*)>& body) {
    const Outcome outcome = as(kNobody, [&] { body(connect(daemon_->socket())); });
    EXPECT_TRUE(outcome.exited(0)) << outcome;
  }

  std::optional<Daemon> daemon_;
};

TEST_F(OwnDaemon, ServesItsUserAndSaysWhatItCannot) {
  as_user([&](fl_client* client) {
    const PatternFile file(16 * kPage);
    const Object object = create_from(client, file.fd(), 0, "mine");
    const auto shared = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    const auto view = map(object, 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    touch(view[0]);
    view[0] = kOne;
    view[9 * kPage] = kOne;
    shared[9 * kPage] = kTwo;
    EXPECT_EQ(view[9 * kPage], kOne);
    EXPECT_EQ(shared[0], file.bytes()[0]);
    EXPECT_EQ(std::memcmp(view.data() + kPage, file.bytes().data() + kPage, 8 * kPage), 0);
    EXPECT_EQ(stats_of(client, view.data()).private_bytes, 2 * kPage);
    EXPECT_EQ(fl_object_unlink(client, "mine"), 0) << fl_last_error();
    const Ran status = run(FAULTCTL_BINARY " --socket " + daemon_->socket() + " status");
    EXPECT_NE(status.output.find("not served"), std::string::npos) << status.output;
    EXPECT_NE(status.output.find("EFAULT"), std::string::npos) << status.output;
    const Ran check = run(FAULTLINED_BINARY " --check");
    EXPECT_EQ(check.code, 0) << check.output;
    EXPECT_NE(check.output.find("user mode only"), std::string::npos) << check.output;
    EXPECT_NE(check.output.find("CAP_SYS_PTRACE"), std::string::npos) << check.output;
  });
}

TEST_F(OwnDaemon, SystemCallsFailOnPagesThatWereNotTouched) {
  as_user([](fl_client* client) {
    const PatternFile file(4 * kPage);
    for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
      const auto memory = map(create(client, 4 * kPage), 4 * kPage, kind | FL_MAP_WRITE);
      EXPECT_EQ(::pread(file.fd(), memory.data(), memory.size(), 0), -1);
      EXPECT_EQ(errno, EFAULT);
      for (std::size_t page = 0; page < 4; ++page) memory[page * kPage] = kOne;
      EXPECT_EQ(::pread(file.fd(), memory.data(), memory.size(), 0),
                static_cast<ssize_t>(memory.size()))
          << std::strerror(errno);
      EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), memory.size()), 0);
    }
  });
}

// The kernel alone can make up zeroes for a child, so zeroes are all that a child inherits.
TEST_F(OwnDaemon, AForkChildInheritsMemoryOfZeroesAndNothingOfFiles) {
  as_user([](fl_client* client) {
    const PatternFile file(4 * kPage);
    const Object object = create(client, 4 * kPage);
    const auto shared = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    const auto view = map(object, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    const auto of_file = map(create_from(client, file.fd()), 4 * kPage, FL_MAP_SHARED);
    shared[0] = kOne;
    view[kPage] = kOne;
    EXPECT_EQ(of_file[0], file.bytes()[0]);
    EXPECT_TRUE(in_child([&] { return touch(of_file[0]); }).killed_by(SIGSEGV));
    const Outcome outcome = in_child([&] {
      EXPECT_EQ(shared[0], kOne);
      EXPECT_EQ(view[0], kOne);
      EXPECT_EQ(view[kPage], kOne);
      shared[2 * kPage] = kTwo;
      view[kPage] = kTwo;
      fl_pinned pin{};
      EXPECT_EQ(fl_pin(&view[3 * kPage], kPage, FL_PIN_WRITE, &pin), -EFAULT);
      EXPECT_TRUE(last_error_has("knows of no mapping")) << fl_last_error();
      void* address = nullptr;
      EXPECT_EQ(fl_map(object, 0, kPage, FL_MAP_SHARED, &address), -ESTALE);
      EXPECT_TRUE(last_error_has("fork")) << fl_last_error();
      const auto own = map(create_from(client, file.fd()), 4 * kPage, FL_MAP_PRIVATE);
      EXPECT_EQ(std::memcmp(own.data(), file.bytes().data(), own.size()), 0);
      for (const auto& memory : {shared, view, own}) {
        EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
      }
      return 0;
    });
    EXPECT_TRUE(outcome.exited(0)) << outcome;
    EXPECT_EQ(shared[2 * kPage], kTwo);
    EXPECT_EQ(view[kPage], kOne);
    EXPECT_EQ(of_file[3 * kPage], file.bytes()[3 * kPage]);
  });
}

// What is not inherited leaves no hole: else the child's own memory would come to lie there, and go
// when the inherited mapping is given back.
TEST_F(OwnDaemon, TheAddressesOfAFileStayTakenInAForkChild) {
  as_user([&](fl_client* client) {
    const PatternFile file(4 * kPage);
    const auto of_file = map(create_from(client, file.fd()), 4 * kPage, FL_MAP_PRIVATE);
    const auto maps_there = [&] {
      void* there = ::mmap(of_file.data(), of_file.size(), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (there != MAP_FAILED) *static_cast<std::byte*>(there) = kOne;
      return there != MAP_FAILED;
    };
    const Outcome outcome = in_child([&] {
      EXPECT_FALSE(maps_there());
      EXPECT_TRUE(in_child([&] {
                    EXPECT_FALSE(maps_there()) << "nor in a grandchild";
                    return 0;
                  }).exited(0));
      // It can be given back, and nothing else: else there would be memory that nobody fills.
      std::byte* const at = of_file.data();
      void* now = nullptr;
      EXPECT_EQ(fl_protect(client, at, kPage, FL_PROTECT_WRITE), -EINVAL);
      EXPECT_EQ(fl_discard(client, at, kPage, FL_DISCARD_COPIES), -EINVAL);
      EXPECT_EQ(fl_remap(client, at, kPage, kPage, FL_REMAP_MAYMOVE, &now), -EINVAL);
      EXPECT_EQ(fl_advise(client, at, kPage, FL_ADVICE_COLD), -EINVAL);
      EXPECT_EQ(fl_populate(client, at, kPage, 0), -EINVAL);
      EXPECT_EQ(fl_unmap(client, of_file.data(), of_file.size()), 0) << fl_last_error();
      EXPECT_TRUE(maps_there()) << "given back";
      EXPECT_EQ(fl_unmap(client, of_file.data(), of_file.size()), -EINVAL);
      return 0;
    });
    EXPECT_TRUE(outcome.exited(0)) << outcome;
  });
}

// Nothing at all to be had, as in a container whose seccomp profile knows no userfaultfd.
TEST_F(OwnDaemon, WithoutAnyUserfaultfdConnectingSaysSo) {
  const Outcome outcome = as(kNobody, [&] {
    std::array filter = {
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{filter.size(), filter.data()};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0) << std::strerror(errno);
    EXPECT_EQ(connect_error(daemon_->socket()), EPERM);
    EXPECT_TRUE(last_error_has("userfaultfd")) << fl_last_error();
    const Ran check = run(FAULTLINED_BINARY " --check");
    EXPECT_EQ(check.code, 1) << check.output;
    EXPECT_NE(check.output.find("MISSING   userfaultfd"), std::string::npos) << check.output;
    EXPECT_NE(check.output.find("seccomp"), std::string::npos) << check.output;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

TEST_F(OwnDaemon, IsShutToOthersByItsDirectory) {
  const Outcome outcome =
      as(kSomebody, [&] { EXPECT_EQ(connect_error(daemon_->socket()), EACCES); });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

}  // namespace
}  // namespace faultline::testing
