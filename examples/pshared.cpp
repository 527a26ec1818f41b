// A pthread mutex and condition variables, process-shared and otherwise as in any program, placed
// in an object: one process hands out numbers, four others take them, each through a mapping of its
// own.
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <faultline/faultline.hpp>
#include <new>
#include <string>
#include <system_error>

namespace {

constexpr std::size_t kTakers = 4;
constexpr std::uint64_t kNumbers = 20'000;

// What the processes share. The mutex guards all that follows it.
struct Exchange {
  Exchange() {
    pthread_mutexattr_t mutex_attributes;
    pthread_mutexattr_init(&mutex_attributes);
    pthread_mutexattr_setpshared(&mutex_attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&mutex, &mutex_attributes);
    pthread_mutexattr_destroy(&mutex_attributes);
    pthread_condattr_t condition_attributes;
    pthread_condattr_init(&condition_attributes);
    pthread_condattr_setpshared(&condition_attributes, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&filled, &condition_attributes);
    pthread_cond_init(&emptied, &condition_attributes);
    pthread_condattr_destroy(&condition_attributes);
  }

  void put(std::uint64_t number) {
    pthread_mutex_lock(&mutex);
    while (count == slots.size()) pthread_cond_wait(&emptied, &mutex);
    slots.at((first + count++) % slots.size()) = number;
    pthread_cond_signal(&filled);
    pthread_mutex_unlock(&mutex);
  }
  std::uint64_t take() {
    pthread_mutex_lock(&mutex);
    while (count == 0) pthread_cond_wait(&filled, &mutex);
    const std::uint64_t number = slots.at(first);
    first = (first + 1) % slots.size();
    --count;
    pthread_cond_signal(&emptied);
    pthread_mutex_unlock(&mutex);
    return number;
  }
  void report(std::uint64_t numbers, std::uint64_t their_sum) {
    pthread_mutex_lock(&mutex);
    taken += numbers;
    sum += their_sum;
    pthread_mutex_unlock(&mutex);
  }

  pthread_mutex_t mutex{};
  pthread_cond_t filled{};
  pthread_cond_t emptied{};
  std::array<std::uint64_t, 16> slots{};
  std::size_t first = 0;
  std::size_t count = 0;
  std::uint64_t taken = 0;
  std::uint64_t sum = 0;
};

void put_numbers(Exchange& exchange) {
  for (std::uint64_t number = 1; number <= kNumbers; ++number) exchange.put(number);
  for (std::size_t i = 0; i < kTakers; ++i) exchange.put(0);
}

void take_numbers(Exchange& exchange) {
  std::uint64_t taken = 0;
  std::uint64_t sum = 0;
  while (const std::uint64_t number = exchange.take()) {
    ++taken;
    sum += number;
  }
  exchange.report(taken, sum);
  std::printf("process %d, mapped at %p: took %llu numbers\n", ::getpid(),
              static_cast<void*>(&exchange), static_cast<unsigned long long>(taken));
}

// Another process, which knows the object by its name alone.
void start(const std::string& name, void (*body)(Exchange&)) {
  const pid_t pid = ::fork();
  if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (pid > 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int code = 0;
  try {
    const auto client = faultline::client::connect();
    const auto mapping = client.open(name).map(faultline::sharing::shared);
    body(mapping.as<Exchange>()[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pshared: %s\n", error.what());
    code = 1;
  }
  std::fflush(stdout);
  ::_exit(code);
}

// Whether all ended well. Where one does not, the others may wait for it for ever: they are left
// behind, and end with this process.
bool all_end_well(std::size_t processes) {
  for (; processes > 0; --processes) {
    int status = 0;
    if (::wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return false;
  }
  return true;
}

// A named object, as long as this lives.
class Named {
 public:
  explicit Named(const faultline::client& client)
      : client_(client),
        name_("pshared." + std::to_string(::getpid())),
        object_(client.create({.name = name_, .size = sizeof(Exchange)})) {}
  Named(const Named&) = delete;
  Named& operator=(const Named&) = delete;
  ~Named() {
    try {
      client_.unlink(name_);
    } catch (const faultline::error& error) {
      std::fprintf(stderr, "pshared: %s\n", error.what());
    }
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const faultline::object& object() const { return object_; }

 private:
  const faultline::client& client_;
  std::string name_;
  faultline::object object_;
};

int run() {
  const auto client = faultline::client::connect();
  const Named named(client);
  const auto mapping = named.object().map(faultline::sharing::shared);
  auto& exchange = *new (mapping.data()) Exchange;
  std::printf("a pthread mutex and two condition variables in \"%s\", mapped at %p\n",
              named.name().c_str(), static_cast<void*>(mapping.data()));
  std::fflush(stdout);

  start(named.name(), &put_numbers);
  for (std::size_t i = 0; i < kTakers; ++i) start(named.name(), &take_numbers);
  const bool ended = all_end_well(1 + kTakers);
  const bool right = exchange.taken == kNumbers && exchange.sum == kNumbers * (kNumbers + 1) / 2;
  std::printf("%llu numbers put, %llu taken: %s\n", static_cast<unsigned long long>(kNumbers),
              static_cast<unsigned long long>(exchange.taken),
              right ? "each once" : "NOT EACH ONCE");
  return ended && right ? 0 : 1;
}

}  // namespace

int main() try { return run(); } catch (const std::exception& error) {
  std::fprintf(stderr, "pshared: %s\n", error.what());
  return 1;
}
