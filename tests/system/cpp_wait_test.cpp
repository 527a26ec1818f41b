// The C++ functions of wait.hpp: what each outcome is told as, time-outs of both clocks, words of
// every size.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <faultline/faultline.hpp>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <thread>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using std::chrono::system_clock;
using Word = std::atomic<std::uint32_t>;

enum class Light : std::uint8_t { red, green };

class CppWait : public ::testing::Test {
 protected:
  template <typename T>
  static std::atomic<T>& word_in(const mapping& memory, std::size_t index = 0) {
    return memory.as<std::atomic<T>>()[index];
  }
  // Sleeps, and is known to wait: it may have slept for another reason before.
  template <typename Waiting>
  void expect_to_wait(const Waiting& waiting) const {
    EXPECT_TRUE(eventually([&] {
      return daemon_.ask(wire::AdminQuery::waiters)["waiters"].size() == 1 && waiting.sleeps();
    }));
  }
  [[nodiscard]] mapping shared() const { return object_.map(sharing::shared); }
  [[nodiscard]] mapping own() const { return object_.map(sharing::private_copy); }

  Daemon daemon_;
  faultline::client client_ = faultline::client::connect(daemon_.socket());
  object object_ = client_.create({.size = kPage});
};

// A wait in a thread of its own.
template <typename Result>
class Waiting {
 public:
  explicit Waiting(std::function<Result()> wait)
      : thread_([this, wait = std::move(wait)] {
          tid_ = ::gettid();
          result_ = wait();
        }) {}
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() {
    if (thread_.joinable()) thread_.join();
  }
  Result result() {
    thread_.join();
    return result_;
  }
  [[nodiscard]] bool sleeps() const {
    std::ifstream stat("/proc/self/task/" + std::to_string(tid_) + "/stat");
    std::string line;
    std::getline(stat, line);
    const auto name_end = line.rfind(')');
    return tid_ != 0 && name_end != std::string::npos && line.substr(name_end + 2, 1) == "S";
  }
  void interrupt(int signal) { (void)::pthread_kill(thread_.native_handle(), signal); }

 private:
  std::atomic<pid_t> tid_{0};
  Result result_{};
  std::thread thread_;
};
using One = Waiting<wait_result>;

bool wakes(const std::function<int()>& wake, int count = 1) {
  return eventually([&] { return wake() == count; });
}

// Words of all sizes, signed, and of an enum are compared whole.
TEST_F(CppWait, WaitsForWordsOfEverySize) {
  const mapping here = shared();
  const mapping there = shared();
  const auto works = [&](auto value, auto other) {
    using T = decltype(value);
    std::atomic<T>& word = word_in<T>(here);
    word = value;
    EXPECT_EQ(wait(word, other), wait_result::value_changed) << sizeof(T);
    One waiting([&] { return wait(word, value); });
    EXPECT_TRUE(wakes([&] { return wake(word_in<T>(there)); })) << sizeof(T);
    EXPECT_EQ(waiting.result(), wait_result::woken);
  };
  works(std::uint8_t{200}, std::uint8_t{100});
  works(std::int16_t{-3}, std::int16_t{3});
  works(std::int32_t{-1}, 1);
  works(std::uint64_t{1} << 40, std::uint64_t{1} << 41);
  works(Light::green, Light::red);
}

// A time that may pass, and a time of either clock, past or to come; none is too long.
TEST_F(CppWait, EndsInTime) {
  const mapping memory = shared();
  Word& word = word_in<std::uint32_t>(memory);
  word = 1;
  const auto began = steady_clock::now();
  EXPECT_EQ(wait_for(word, 1, 20ms), wait_result::timed_out);
  EXPECT_GE(steady_clock::now() - began, 20ms);
  EXPECT_EQ(wait_until(word, 1, began + 40ms), wait_result::timed_out);
  EXPECT_GE(steady_clock::now() - began, 40ms);
  const auto then = system_clock::now() + 20ms;
  EXPECT_EQ(wait_until(word, 1, then), wait_result::timed_out);
  EXPECT_GE(system_clock::now(), then);
  EXPECT_EQ(wait_for(word, 1, -5s), wait_result::timed_out);
  EXPECT_EQ(wait_for(word, 1, 0.5us), wait_result::timed_out);
  EXPECT_EQ(wait_until(word, 1, steady_clock::time_point::min()), wait_result::timed_out);
  EXPECT_EQ(wait_until(word, 1, system_clock::time_point(-1s)), wait_result::timed_out);
  EXPECT_EQ(wait_for(word, 2, std::chrono::hours::max()), wait_result::value_changed);
  EXPECT_EQ(wait_until(word, 2, steady_clock::time_point::max()), wait_result::value_changed);
  EXPECT_EQ(wait_until(word, 2, system_clock::time_point::max()), wait_result::value_changed);
  One waiting([&] { return wait_for(word, 1, std::chrono::hours::max()); });
  EXPECT_TRUE(wakes([&] { return wake(word); }));
  EXPECT_EQ(waiting.result(), wait_result::woken);
}

// What becomes of the word's memory is a result of its own.
TEST_F(CppWait, TellsWhatBecameOfTheMemory) {
  mapping memory = own();
  Word& word = word_in<std::uint32_t>(memory);
  {
    One waiting([&] { return wait(word, 0); });
    expect_to_wait(waiting);
    memory.reset();
    EXPECT_EQ(waiting.result(), wait_result::unmapped);
  }
  memory = own();
  Word& again = word_in<std::uint32_t>(memory);
  again = 1;
  EXPECT_TRUE(eventually([&] { return memory.stats().breaks == 1; }));
  One waiting([&] { return wait(again, 1); });
  expect_to_wait(waiting);
  memory.discard(discard::copies);
  EXPECT_EQ(waiting.result(), wait_result::discarded);
}

// A handler that runs ends a wait that has a time-out.
TEST_F(CppWait, IsInterruptedByASignal) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
  const mapping memory = shared();
  Word& word = word_in<std::uint32_t>(memory);
  One waiting([&] { return wait_for(word, 0, 1h); });
  expect_to_wait(waiting);
  waiting.interrupt(SIGUSR1);
  EXPECT_EQ(waiting.result(), wait_result::interrupted);
}

// Bits choose who is woken.
TEST_F(CppWait, WakesThoseWithABitInCommon) {
  const mapping memory = shared();
  Word& word = word_in<std::uint32_t>(memory);
  One waiting([&] { return wait(word, 0, wait_bits{4}); });
  expect_to_wait(waiting);
  EXPECT_EQ(wake(word, 1, wait_bits{3}), 0);
  EXPECT_TRUE(wakes([&] { return wake_all(word, wait_bits{6}); }));
  EXPECT_EQ(waiting.result(), wait_result::woken);
}

TEST_F(CppWait, MovesThoseWhoWait) {
  const mapping memory = own();
  Word& from = word_in<std::uint32_t>(memory, 0);
  Word& to = word_in<std::uint32_t>(memory, 1);
  from = 1;
  EXPECT_TRUE(eventually([&] { return memory.stats().breaks == 1; }));
  EXPECT_EQ(requeue_if(from, 2, 0, 1, to), std::nullopt);
  One waiting([&] { return wait(from, 1); });
  EXPECT_TRUE(wakes([&] { return requeue_if(from, 1, 0, 1, to).value_or(-1); }));
  EXPECT_EQ(wake(from), 0);
  EXPECT_EQ(requeue(to, 0, 1, from), 1);
  EXPECT_EQ(wake(from), 1);
  EXPECT_EQ(waiting.result(), wait_result::woken);
}

// Which word was woken is told; words may be of different sizes and in different mappings.
TEST_F(CppWait, WaitsForAnyOfSeveralWords) {
  const mapping memory = shared();
  const mapping mine = own();
  auto& first = word_in<std::uint32_t>(memory);
  auto& second = word_in<std::uint64_t>(mine, 1);
  first = 1;
  const std::array words{awaited(first, 1), awaited(second, 0)};
  EXPECT_EQ(wait_any_for(words, 1ms).result, wait_result::timed_out);
  EXPECT_EQ(wait_any_until(words, system_clock::now() + 1ms).result, wait_result::timed_out);
  Waiting<any_result> waiting([&] { return wait_any(words); });
  EXPECT_TRUE(wakes([&] { return wake(second); }));
  EXPECT_EQ(waiting.result(), (any_result{wait_result::woken, 1}));
  const std::array other{awaited(first, 2)};
  EXPECT_EQ(wait_any(other).result, wait_result::value_changed);
}

// What no correct program does is thrown, with its errno and in words.
TEST_F(CppWait, ThrowsMisuse) {
  const auto code_of = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const error& thrown) {
      EXPECT_NE(std::string(thrown.what()), "");
      return thrown.code().value();
    }
    return 0;
  };
  const mapping memory = shared();
  Word& word = word_in<std::uint32_t>(memory);
  const std::array<fl_waiter, 0> none{};
  const std::vector<fl_waiter> too_many(FL_WAITV_MAX + 1, awaited(word, 0));
  EXPECT_EQ(code_of([&] { (void)wait_any(none); }), EINVAL);
  EXPECT_EQ(code_of([&] { (void)wait_any(too_many); }), EINVAL);
  EXPECT_EQ(code_of([&] { (void)wait(word, 0, wait_bits{0}); }), EINVAL);
  EXPECT_EQ(code_of([&] { (void)wake(word, -1); }), EINVAL);
  const Word elsewhere{0};
  EXPECT_EQ(code_of([&] { (void)wake(elsewhere); }), EFAULT);
  EXPECT_EQ(wait(elsewhere, 0), wait_result::unmapped);
}

}  // namespace
}  // namespace faultline::testing
