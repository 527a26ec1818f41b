// Futexes across fork and copy-on-write: a parent and two children wait for words of one page of
// private memory. As long as they share the page they wake each other; a write parts the writer
// from the others. Every line that is printed is a fact that was checked; one that does not hold
// says NO, and the exit status is 1.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <faultline/faultline.hpp>
#include <initializer_list>
#include <stdexcept>

namespace {

using namespace std::chrono_literals;
using faultline::wait_result;
using Word = std::atomic<std::uint32_t>;
using std::chrono::steady_clock;

constexpr std::size_t kPage = 4096;
constexpr auto kAtMost = 10s;      // for what has to happen
constexpr auto kInVain = 200ms;    // for what must not
constexpr std::uint32_t kSet = 7;  // the value of every word that is waited for

enum Who : std::size_t { ann, ben };

// How far the story is, and what the children say: in memory that all three share.
struct Board {
  Word step;
  Word bell;
  std::array<Word, 2> said;
};

// What all of them have. The object has three pages: the board, then two that each process maps
// private as well, and waits for by what the page is.
struct Scene {
  faultline::mapping shared;
  faultline::mapping mine;

  [[nodiscard]] Board& board() const { return shared.as<Board>()[0]; }
  [[nodiscard]] static Word& word_in(const faultline::mapping& memory, std::size_t page) {
    return memory.as<Word>()[page * kPage / sizeof(Word)];
  }
  // Of a page that the parent wrote to before it forked.
  [[nodiscard]] Word& written() const { return word_in(mine, 1); }
  // Of a page that nobody has written to: it is the object's, and everybody sees that.
  [[nodiscard]] Word& clean() const { return word_in(mine, 2); }
  [[nodiscard]] Word& clean_shared() const { return word_in(shared, 2); }
  // Beside those words, in the same pages.
  static void write_beside(Word& word) { (&word)[1] = 1; }
};

bool holds = true;

void fact(bool is_so, const char* text) {
  std::printf("%s %s\n", is_so ? "yes" : "NO ", text);
  (void)std::fflush(stdout);
  holds = holds && is_so;
}

// --- children

void say(Board& board, Who who, std::uint32_t step, wait_result result) {
  Word& said = board.said.at(who);
  said = step << 8 | static_cast<std::uint32_t>(result);
  (void)faultline::wake(said);
}

void await_step(const Board& board, std::uint32_t step) {
  const auto until = steady_clock::now() + kAtMost;
  for (std::uint32_t seen = board.step; seen < step; seen = board.step) {
    if (faultline::wait_until(board.step, seen, until) == wait_result::timed_out) {
      throw std::runtime_error("the parent does not go on");
    }
  }
}

// Until so many were woken.
int wake_until(const Word& word, int count) {
  const auto until = steady_clock::now() + kAtMost;
  int woken = 0;
  while (woken < count && steady_clock::now() < until) woken += faultline::wake_all(word);
  return woken;
}

void play(const Scene& scene, Who who) {
  Board& board = scene.board();
  // 1: the bell is a word of shared memory.
  await_step(board, 1);
  if (who == ben) (void)wake_until(board.bell, 1);
  // 2: the page is private, and still all three have it.
  await_step(board, 2);
  say(board, who, 2, faultline::wait_for(scene.written(), kSet, kAtMost));
  // 3: Ann writes to it, and has one of her own.
  await_step(board, 3);
  if (who == ann) Scene::write_beside(scene.written());
  say(board, who, 3, wait_result::woken);
  await_step(board, 4);
  const auto at_most =
      who == ann ? steady_clock::duration(kInVain) : steady_clock::duration(kAtMost);
  say(board, who, 4, faultline::wait_for(scene.written(), kSet, at_most));
  if (who == ben) return;
  // 5: the other page is the object's until she writes to that, too.
  await_step(board, 5);
  say(board, who, 5, faultline::wait_for(scene.clean(), kSet, kAtMost));
  await_step(board, 6);
  Scene::write_beside(scene.clean());
  say(board, who, 6, faultline::wait_for(scene.clean(), kSet, kInVain));
}

pid_t start(const Scene& scene, Who who) {
  const pid_t pid = ::fork();
  if (pid < 0) throw std::runtime_error("cannot fork");
  if (pid > 0) return pid;
  int code = 0;
  try {
    play(scene, who);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fork_futex, a child: %s\n", error.what());
    code = 1;
  }
  ::_exit(code);
}

// --- the parent

// What a wait of a child's came to.
wait_result hear(const Board& board, Who who, std::uint32_t step) {
  const Word& said = board.said.at(who);
  const auto until = steady_clock::now() + kAtMost;
  for (std::uint32_t seen = said; seen >> 8 != step; seen = said) {
    if (faultline::wait_until(said, seen, until) == wait_result::timed_out) {
      throw std::runtime_error("a child does not answer");
    }
  }
  return static_cast<wait_result>(said & 0xff);
}

void go_on(Board& board, std::uint32_t step) {
  board.step = step;
  (void)faultline::wake_all(board.step);
}

// Wakes again and again until the children have said what their waits came to. Returns how many
// were woken.
int wake_while_they_wait(const Board& board, std::initializer_list<Who> children,
                         std::uint32_t step, const Word& word) {
  const auto has_said = [&](Who who) { return board.said.at(who) >> 8 == step; };
  const auto until = steady_clock::now() + kAtMost;
  int woken = 0;
  while (!std::ranges::all_of(children, has_said) && steady_clock::now() < until) {
    woken += faultline::wake_all(word);
  }
  return woken;
}

void tell(const Scene& scene) {
  Board& board = scene.board();
  go_on(board, 1);
  fact(faultline::wait_for(board.bell, 0, kAtMost) == wait_result::woken,
       "a child wakes its parent at a word of shared memory");

  go_on(board, 2);
  fact(wake_until(scene.written(), 2) == 2,
       "the parent wakes both children at a word of private memory: they share the page");
  fact(hear(board, ann, 2) == wait_result::woken, "Ann says that she was woken");
  fact(hear(board, ben, 2) == wait_result::woken, "so says Ben");

  go_on(board, 3);
  (void)hear(board, ann, 3);
  (void)hear(board, ben, 3);
  fact((&scene.written())[1] == 0, "what Ann writes to the page now, her parent does not see");
  go_on(board, 4);
  fact(wake_while_they_wait(board, {ann, ben}, 4, scene.written()) == 1,
       "the parent's wakes reach one who waits for the word, and not two");
  fact(hear(board, ben, 4) == wait_result::woken, "that is Ben, who has the page still");
  fact(hear(board, ann, 4) == wait_result::timed_out,
       "Ann waits in vain: her word is another since she wrote beside it");

  go_on(board, 5);
  fact(wake_until(scene.clean_shared(), 1) == 1,
       "whoever maps the object shared wakes Ann at a word of a page that she has not written to");
  fact(hear(board, ann, 5) == wait_result::woken, "Ann says that she was woken");
  go_on(board, 6);
  fact(wake_while_they_wait(board, {ann}, 6, scene.clean_shared()) == 0,
       "when she has written to that page, too, nobody is woken there");
  fact(hear(board, ann, 6) == wait_result::timed_out, "Ann waits in vain");
}

int run() {
  const auto client = faultline::client::connect();
  const auto object = client.create({.size = 3 * kPage});
  const Scene scene{object.map(faultline::sharing::shared),
                    object.map(faultline::sharing::private_by_page)};
  scene.clean_shared() = kSet;
  scene.written() = kSet;  // the page is the parent's own from here on
  const std::array pids{start(scene, ann), start(scene, ben)};
  tell(scene);
  bool well = true;
  for (const pid_t pid : pids) {
    int status = 0;
    well = ::waitpid(pid, &status, 0) == pid && status == 0 && well;
  }
  fact(well, "both children ended well");
  return holds ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fork_futex: %s\n", error.what());
    return 1;
  }
}
