#include "tools/faultctl/top_screen.hpp"

// curses.h has macros of the names of functions of ours and of the standard library.
#define NCURSES_NOMACROS 1
#include <curses.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

namespace faultline::ctl {

namespace {

constexpr int kEscapeMs = 25;  // what comes so soon after Esc belongs to it

enum Pair : short { kTitle = 1, kWarning, kDim };

}  // namespace

struct TopScreen::Curses {
  explicit Curses(SCREEN* opened) : screen(opened) {}
  Curses(const Curses&) = delete;
  Curses& operator=(const Curses&) = delete;
  ~Curses() {
    (void)::endwin();
    ::delscreen(screen);
  }

  [[nodiscard]] attr_t attributes_of(TopStyle style) const {
    const auto pair = [this](Pair number) {
      return colour ? static_cast<attr_t>(COLOR_PAIR(number)) : attr_t{A_NORMAL};
    };
    switch (style) {
      case TopStyle::title:
        return A_BOLD | pair(kTitle);
      case TopStyle::heading:
        return A_REVERSE;
      case TopStyle::selected:
        return A_BOLD | A_UNDERLINE;
      case TopStyle::warning:
        return A_BOLD | pair(kWarning);
      case TopStyle::dim:
        return pair(kDim);
      case TopStyle::plain:
        break;
    }
    return A_NORMAL;
  }

  SCREEN* screen;
  bool colour = false;
};

std::unique_ptr<TopScreen> TopScreen::open() {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0) return nullptr;
  (void)std::setlocale(LC_CTYPE, "");
  (void)::set_escdelay(kEscapeMs);
  SCREEN* const screen = ::newterm(nullptr, stdout, stdin);
  if (screen == nullptr) return nullptr;
  auto curses = std::make_unique<Curses>(screen);
  std::string capability = "cup";  // a terminal of lines cannot put its cursor anywhere
  const char* const addresses = ::tigetstr(capability.data());
  if (addresses == nullptr || reinterpret_cast<std::intptr_t>(addresses) == -1) return nullptr;
  (void)::cbreak();
  (void)::noecho();
  (void)::nonl();
  (void)::keypad(stdscr, TRUE);
  (void)::nodelay(stdscr, TRUE);
  (void)::curs_set(0);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread
  const char* const no_colour = std::getenv("NO_COLOR");
  const bool wanted = no_colour == nullptr || *no_colour == '\0';
  if (wanted && ::has_colors() && ::start_color() == OK) {
    curses->colour = true;
    const short background = ::use_default_colors() == OK ? -1 : COLOR_BLACK;
    (void)::init_pair(kTitle, COLOR_CYAN, background);
    (void)::init_pair(kWarning, COLOR_RED, background);
    (void)::init_pair(kDim, COLOR_GREEN, background);
  }
  return std::unique_ptr<TopScreen>(new TopScreen(std::move(curses)));
}

TopScreen::TopScreen(std::unique_ptr<Curses> curses) : curses_(std::move(curses)) {}
TopScreen::~TopScreen() = default;

std::size_t TopScreen::rows() const {
  return static_cast<std::size_t>(std::max(::getmaxy(stdscr), 0));
}

std::size_t TopScreen::columns() const {
  return static_cast<std::size_t>(std::max(::getmaxx(stdscr), 0));
}

void TopScreen::draw(const std::vector<TopLine>& lines) {
  (void)::werase(stdscr);
  const std::size_t width = columns();
  for (std::size_t i = 0; i < lines.size() && i < rows(); ++i) {
    const TopLine& line = lines[i];
    std::string text = clipped(line.text, width);
    const bool bar = line.style == TopStyle::heading || line.style == TopStyle::selected;
    if (bar && text.size() < width) text.resize(width, ' ');
    (void)::wattrset(stdscr, static_cast<int>(curses_->attributes_of(line.style)));
    // ERR in the last corner, where the cursor has nowhere to go.
    (void)::mvwaddstr(stdscr, static_cast<int>(i), 0, text.c_str());
  }
  (void)::wattrset(stdscr, static_cast<int>(A_NORMAL));
  (void)::wrefresh(stdscr);
}

TopPress TopScreen::read() const {
  constexpr int kEscape = 27;
  constexpr int kDelete = 127;
  const int key = ::wgetch(stdscr);
  switch (key) {
    case ERR:
    case KEY_RESIZE:
      return {};
    case KEY_UP:
      return {TopKey::up};
    case KEY_DOWN:
      return {TopKey::down};
    case KEY_PPAGE:
      return {TopKey::page_up};
    case KEY_NPAGE:
      return {TopKey::page_down};
    case KEY_HOME:
      return {TopKey::home};
    case KEY_END:
      return {TopKey::end};
    case KEY_ENTER:
    case '\r':
    case '\n':
      return {TopKey::enter};
    case KEY_BACKSPACE:
    case '\b':
    case kEscape:
    case kDelete:
      return {TopKey::back};
    default:
      break;
  }
  const bool printable = key >= ' ' && key < kDelete;
  return {TopKey::letter, printable ? static_cast<char>(key) : '\0'};
}

void TopScreen::resized() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) return;
  (void)::resizeterm(size.ws_row, size.ws_col);
  (void)::clearok(stdscr, TRUE);
}

void TopScreen::leave() {
  (void)::endwin();
}

void TopScreen::come_back() {
  resized();
  (void)::wrefresh(stdscr);
}

}  // namespace faultline::ctl
