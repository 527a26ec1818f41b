#include "tools/faultctl/top.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <iostream>
#include <memory>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/top_feed.hpp"
#include "tools/faultctl/top_plain.hpp"
#include "tools/faultctl/top_screen.hpp"
#include "tools/faultctl/top_view.hpp"
#include "tools/faultctl/waiting.hpp"

namespace faultline::ctl {

namespace {

using Outcome = Waiting::Outcome;

// Until the feed or the given file has something. Returns what step() says.
struct Turn {
  Outcome outcome{};
  bool fresh = false;
  short beside = 0;  // revents of the file
};

Turn take_turn(const Waiting& waiting, TopFeed& feed, pollfd beside) {
  const auto of_feed = feed.files();
  std::array<pollfd, 3> files{of_feed[0], of_feed[1], beside};
  Turn turn;
  turn.outcome = waiting.until(files, feed.wake_at());
  if (turn.outcome == Outcome::ended) return turn;
  const bool ready = turn.outcome == Outcome::ready;
  turn.beside = ready ? files[2].revents : short{0};
  if (!ready) files[0].revents = files[1].revents = 0;
  turn.fresh = feed.step({files[0], files[1]});
  return turn;
}

void on_screen(const std::vector<std::string>& socket_paths, const Top& how, TopScreen& screen) {
  Waiting waiting{SIGQUIT};
  for (const int signal : {SIGWINCH, SIGTSTP, SIGCONT}) waiting.note(signal);
  TopFeed feed(socket_paths, how.interval);
  TopView view(how.order, how.interval);
  const auto draw = [&] {
    screen.draw(view.compose(feed.model(), feed.trouble(), screen.rows(), screen.columns()));
  };
  for (;;) {
    const Turn turn = take_turn(waiting, feed, {STDIN_FILENO, POLLIN, 0});
    if (turn.outcome == Outcome::ended) return;
    if ((turn.beside & (POLLHUP | POLLERR | POLLNVAL)) != 0) return;  // the terminal is gone
    if (Waiting::take_noted(SIGTSTP)) {
      screen.leave();
      waiting.stop_by(SIGTSTP);
      screen.come_back();
    }
    if (Waiting::take_noted(SIGCONT)) screen.come_back();
    if (Waiting::take_noted(SIGWINCH)) screen.resized();
    if ((turn.beside & POLLIN) != 0) {
      for (TopPress press = screen.read(); press.key != TopKey::none; press = screen.read()) {
        if (!view.press(press)) return;
      }
      if (view.interval() != feed.interval()) feed.set_interval(view.interval());
      feed.set_paused(view.paused());
      feed.choose(view.chosen());
    } else if (view.chosen() && !feed.chosen()) {
      view.leave_chosen();  // that process has ended
    }
    if (feed.looks() > 0) draw();
  }
}

void in_lines(const std::vector<std::string>& socket_paths, const Top& how) {
  const Waiting waiting;
  TopFeed feed(socket_paths, how.interval);
  std::uint64_t printed = 0;
  std::uint64_t seen = 0;
  bool told = false;
  for (;;) {
    // Whether anybody reads what is printed.
    const Turn turn = take_turn(waiting, feed, {STDOUT_FILENO, 0, 0});
    if (turn.outcome == Outcome::ended) return;
    if ((turn.beside & (POLLERR | POLLHUP)) != 0) return;
    if (!feed.trouble().empty()) {
      if (!told) std::cerr << "faultctl: " << feed.trouble() << "; looking for it\n";
      told = true;
      continue;
    }
    told = false;
    if (!turn.fresh || feed.looks() == seen || !feed.residency_known()) continue;
    seen = feed.looks();
    if (!feed.model().seconds()) continue;  // there are no rates yet
    const std::string text = how.as_json ? json_refresh(feed.model(), how.order)
                                         : plain_refresh(feed.model(), how.order);
    std::cout << text;
    if (!std::cout.flush()) {
      if (errno == EPIPE) return;
      throw Refused(errno, "printing the load");
    }
    if (++printed == how.count) return;
  }
}

}  // namespace

TopOrder order_from(const std::string& column) {
  const auto found = column_named(TopModel::space_columns(), column);
  if (found) return {*found, false};
  std::vector<std::string_view> names;
  for (const TopColumn& known : TopModel::space_columns()) names.push_back(known.name);
  throw WrongUsage(
      fmt::format("no such column to sort by: {}; there are {}", column, fmt::join(names, ",")));
}

void top(const std::vector<std::string>& socket_paths, const Top& how) {
  if (!how.plain && !how.as_json && how.count == 0) {
    if (const auto screen = TopScreen::open()) return on_screen(socket_paths, how, *screen);
  }
  in_lines(socket_paths, how);
}

}  // namespace faultline::ctl
