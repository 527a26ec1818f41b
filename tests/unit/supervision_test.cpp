// What the service manager is told, and when it is told nothing: with a manager and workers that
// the test plays itself.
#include "daemon/server/supervision.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "faultline/wire/unique_fd.hpp"

namespace faultline::server {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kWithin{500};
constexpr milliseconds kTick = kWithin / Supervision::kTicks;

class SupervisionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
    manager_ = UniqueFd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    ASSERT_EQ(::bind(manager_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0)
        << std::strerror(errno);
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
    ::setenv("WATCHDOG_USEC", std::to_string(std::chrono::microseconds(kWithin).count()).c_str(),
             1);
    auto mailbox = kernel::Mailbox::create();
    ASSERT_TRUE(mailbox);
    mailbox_ = std::move(*mailbox);
    pulse_ = std::make_shared<kernel::Pulse>(mailbox_, "a worker");
    pulse_->begin();
  }
  void TearDown() override {
    ::unsetenv("NOTIFY_SOCKET");
    ::unsetenv("WATCHDOG_USEC");
    std::filesystem::remove(path_);
  }

  Supervision supervision() {
    return Supervision{control_,
                       {[this] {
                          return std::vector<kernel::WatchedThread>{{pulse_, 0}};
                        },
                        [this] { return status_; }}};
  }
  // Lets the clock run, with a worker that reads its letters, or one that does not.
  void run_for(milliseconds time, bool worker_works) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      control_.run_one_until(std::min(end, std::chrono::steady_clock::now() + kTick / 10));
      if (!worker_works) continue;
      for (auto& letter : mailbox_->take()) letter();
    }
  }
  // What came since it was asked last.
  struct Heard {
    int alive = 0;
    std::vector<std::string> status;
  };
  Heard heard() {
    Heard all;
    std::array<char, 512> text{};
    ssize_t got = 0;
    while ((got = ::recv(manager_.get(), text.data(), text.size(), 0)) > 0) {
      const std::string message(text.data(), static_cast<std::size_t>(got));
      if (message == "WATCHDOG=1") ++all.alive;
      if (message.starts_with("STATUS=")) all.status.push_back(message.substr(7));
    }
    return all;
  }

  const std::string path_ =
      (std::filesystem::temp_directory_path() / ("faultline-notify-" + std::to_string(::getpid())))
          .string();
  UniqueFd manager_;
  boost::asio::io_context control_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  std::shared_ptr<kernel::Pulse> pulse_;
  std::string status_ = "as it began";
};

TEST_F(SupervisionTest, SaysThatItIsAliveWhileWorkersWork) {
  Supervision supervision = this->supervision();
  supervision.start();
  run_for(3 * kWithin, true);
  EXPECT_GE(heard().alive, 3) << "at least once an interval";
  supervision.stop();
}

TEST_F(SupervisionTest, IsSilentOverAWorkerThatIsStuckAndSpeaksAgainWhenItGoesOn) {
  Supervision supervision = this->supervision();
  supervision.start();
  run_for(4 * kTick, false);  // it has been found out by now
  (void)heard();
  run_for(2 * kWithin, false);
  EXPECT_EQ(heard().alive, 0);
  run_for(kWithin, true);
  EXPECT_GE(heard().alive, 1);
  supervision.stop();
}

TEST_F(SupervisionTest, TellsTheStatusWhenItHasChanged) {
  Supervision supervision = this->supervision();
  supervision.start();
  run_for(3 * kTick, true);
  EXPECT_EQ(heard().status, std::vector<std::string>{"as it began"});
  status_ = "another";
  run_for(kWithin + 2 * kTick, true);
  EXPECT_EQ(heard().status, std::vector<std::string>{"another"});
  supervision.stop();
}

TEST_F(SupervisionTest, DoesNothingWhereNobodyListens) {
  ::unsetenv("NOTIFY_SOCKET");
  Supervision supervision = this->supervision();
  supervision.start();
  EXPECT_EQ(control_.run(), 0U) << "no clock runs";
}

}  // namespace
}  // namespace faultline::server
