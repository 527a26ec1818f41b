// faultctl: shows what a running faultlined holds and does, and wakes who waits in vain. This file
// turns a command line into one question and prints the answer, or follows what happens.
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "faultline/wire/socket_path.hpp"
#include "tools/faultctl/connection.hpp"
#include "tools/faultctl/evict.hpp"
#include "tools/faultctl/query.hpp"
#include "tools/faultctl/reload.hpp"
#include "tools/faultctl/table.hpp"
#include "tools/faultctl/usage.hpp"
#include "tools/faultctl/wake.hpp"
#include "tools/faultctl/watch.hpp"

namespace {

using faultline::ctl::WrongUsage;
using faultline::wire::AdminQuery;

constexpr int kExitRefused = 1;
constexpr int kExitUsage = 2;
constexpr int kExitUnreachable = 3;

constexpr const char* kDescription =
    "NAME\n  faultctl - show the memory objects, address spaces, mappings, waits and pins of a "
    "faultlined\n\n"
    "DESCRIPTION\n"
    "  Asks the daemon one question and prints a table, or the JSON text with --json; watch "
    "prints\n"
    "  a line for everything that happens until it is stopped; wake wakes, evict takes out of "
    "memory.\n"
    "  Root, and the daemon's own user, see everything; everybody else sees the processes and "
    "objects of their own.";
constexpr const char* kFooter =
    "COLUMNS\n"
    "  RESIDENT  bytes in memory: in objects, of the object, once for all; elsewhere, in this\n"
    "            process: SHARED pages of the object + PRIVATE copies\n"
    "  MODE      who may open the object by its name, as chmod(1) writes it\n"
    "  OPEN      handles of the object, in all processes\n"
    "  MAPPED    in objects, mappings of the object, in all processes; in spaces, bytes mapped\n"
    "  FROM      what fills the object's pages: a file, or zero\n"
    "  PERMS     as /proc/PID/maps writes them: r, w; s or p, shared or private (copy-on-write)\n"
    "  OFFSET    where in the object the mapping begins, in bytes, hexadecimal\n"
    "  OBJECT    the object's ID, see objects; NAME, its name, and - where it has none\n"
    "  KIND      shared, or private (copy-on-write)\n"
    "  MISSING   faults on pages that were in no memory\n"
    "  MINOR     faults on pages that were in memory, and not in this mapping\n"
    "  WP        first writes to pages that were mapped read-only\n"
    "  ADVICE    how the process said it will touch the mapping, fl_advise\n"
    "  COPIED    private copies that the daemon installed\n"
    "  BREAKS    pages that are, or may by now be, the process's own\n"
    "  AHEAD     copies made before they were asked for; UNUSED: at most so many never were\n"
    "  POISONED  pages that could not be supplied: SIGBUS\n"
    "  FAILED    reads of an object's file, or of the swap file, that failed\n"
    "  SWAPPED   bytes of an object in the swap file, and in no memory\n"
    "  A PID of ? is a fork child that has neither faulted nor connected yet.\n\n"
    "KEYS, of words that are waited for\n"
    "  object:ID+OFFSET  an object's word: all processes that map it wait for the same\n"
    "  space:ID@ADDRESS  a word of one process's private memory; ID: see spaces --json\n"
    "  frame:ID+OFFSET   a word of a private page that is waited for by page "
    "(FL_MAP_WAIT_BY_PAGE):\n"
    "                    parent and child wait for the same until one writes to the page\n"
    "  TOLD BY   kernel: the thread waits by itself; else the daemon keeps the wait, and wakes "
    "the\n"
    "            thread, or tells the process's queue, eventfd or ring\n"
    "  WAITED    since the wait began\n"
    "  wake KEY is for rescue: whose the process is may wake at its private words, and whose the\n"
    "  object is, or who may open it by name for reading and writing, at its words. Who is woken\n"
    "  looks at the word again, as after any wake.\n\n"
    "EVICTION\n"
    "  evict OBJECT takes pages out of memory, for everybody who maps them: of an object with a "
    "file\n"
    "  those that nobody stored to; where the daemon has a swap file (faultlined --swap-file), "
    "all\n"
    "  others too. Who uses one next waits until it has been read, and finds what it held. Pinned\n"
    "  pages stay, and those of 2 MiB: that is no error. The object's owner may ask, and root and "
    "the\n"
    "  daemon's own user.\n\n"
    "PINS, pages that must stay in memory\n"
    "  GRANTED   bytes that the process may pin without asking for more\n"
    "  FAST      pins that were had without the daemon; SLOW, those that it brought pages for\n"
    "  ABSENT, NOT OWN    why they were slow: a page in no memory; a private page not known to be\n"
    "            the process's own\n"
    "  NOT KNOWN, BUDGET  why others took longer: a mapping that was new or changing; more than "
    "was\n"
    "            granted\n"
    "  ACCESS    read or write; own: private pages. HELD, for how long; ended: unmapped or\n"
    "            discarded since\n\n"
    "EVENTS\n"
    "  map       a mapping came to be; a remap is an unmap and a map\n"
    "  unmap     a mapping, or a part of one, went\n"
    "  fault     DETAIL: missing, minor or wp, as above; by a read or a write\n"
    "  break     pages of a private mapping became the process's own (copy-on-write)\n"
    "  fork      DETAIL: the child's address space, which has the parent's mappings\n"
    "  exit      an address space is gone, and its mappings with it\n"
    "  SIZE is that of the range; PAGE is the object's, counted from 0. Events that came faster\n"
    "  than they were read are lost, and how many is told on standard error.\n\n"
    "ENVIRONMENT\n"
    "  FAULTLINE_SOCKET  the daemon's socket, where --socket is not given\n"
    "  XDG_RUNTIME_DIR   where neither is, the user's own daemon is asked, at\n"
    "                    $XDG_RUNTIME_DIR/faultline/faultlined.sock, and where none listens "
    "there,\n"
    "                    the system's, at /run/faultline/faultlined.sock\n\n"
    "EXIT STATUS\n"
    "  0 answered; 1 the daemon refused, or knows no such process or object, or nothing can be\n"
    "  written; 2 wrong usage; 3 no daemon to ask, or none that answers within 5 s (evict: it may\n"
    "  take any time). watch: 0 after --count events, with SIGINT, SIGTERM or SIGHUP, and when "
    "nobody\n"
    "  reads its output any more; 3 also when the daemon goes.\n\n"
    "SEE ALSO\n  faultlined --help";

struct Command {
  enum class Kind : std::uint8_t { ask, watch, wake, evict, reload };
  Kind kind{};
  AdminQuery query{};                                    // to ask
  std::string (*show)(const nlohmann::json&) = nullptr;  // the answer
};

struct Question {
  Command command;
  faultline::wire::AdminRequest to_ask;
  faultline::ctl::Watch to_watch;
  faultline::wire::WakeRequest to_wake;
  faultline::wire::EvictRequest to_evict;
  std::optional<std::string> socket_path;
  bool as_json = false;

  // Before a command and after it, so that each command's own help is whole.
  void add_options(CLI::App& to) {
    to.add_option("--socket", socket_path, "the daemon's socket")->type_name("PATH");
    to.add_flag("--json", as_json, "print the answer as JSON, see docs/faultctl.md");
  }
};

// The options of watch, as they were written.
struct WatchWords {
  std::optional<std::string> pid;
  std::optional<std::string> object;
  std::optional<std::string> events;
  std::optional<std::string> count;

  void add_options(CLI::App& to) {
    to.add_option("--pid", pid, "of this process alone")->type_name("PID");
    to.add_option("--object", object, "of this object alone, by its name or its id")
        ->type_name("NAME|ID");
    to.add_option("--event", events, "of these kinds alone: map,unmap,fault,break,fork,exit")
        ->type_name("KINDS");
    to.add_option("--count", count, "end after so many events")->type_name("N");
  }
  [[nodiscard]] faultline::ctl::Watch meaning(bool as_json) const {
    faultline::ctl::Watch watch;
    watch.request.kinds =
        events ? faultline::ctl::event_kinds_from(*events) : faultline::wire::kAllEvents;
    if (pid) watch.request.pid = faultline::ctl::pid_from("--pid", *pid);
    if (object) faultline::ctl::set_object(watch.request, *object);
    if (count) watch.count = faultline::ctl::count_from("--count", *count);
    watch.as_json = as_json;
    return watch;
  }
};

// The options of waiters.
struct WaitersWords {
  std::optional<std::string> pid;
  std::optional<std::string> object;

  void add_options(CLI::App& to) {
    to.add_option("--pid", pid, "of this process alone")->type_name("PID");
    to.add_option("--object", object,
                  "for words where this object is mapped alone, by its name or its id")
        ->type_name("NAME|ID");
  }
  void add_to(faultline::wire::AdminRequest& request) const {
    if (pid) request.pid = faultline::ctl::pid_from("--pid", *pid);
    if (object) faultline::ctl::set_object(request, *object);
  }
};

// What wake is told.
struct WakeWords {
  std::optional<std::string> count;

  void add_options(CLI::App& to) {
    to.add_option("--count", count, "wake at most so many; without it, all")->type_name("N");
  }
  [[nodiscard]] faultline::wire::WakeRequest meaning(const std::string& key) const {
    constexpr std::uint32_t kAll = std::numeric_limits<std::int32_t>::max();
    faultline::wire::WakeRequest request;
    request.key = faultline::ctl::key_from(key);
    request.count = kAll;
    if (count) {
      const std::uint64_t most = faultline::ctl::count_from("--count", *count);
      request.count = static_cast<std::uint32_t>(std::min<std::uint64_t>(most, kAll));
    }
    return request;
  }
};

// The options of evict.
struct EvictWords {
  bool cold = false;
  std::optional<std::string> offset;
  std::optional<std::string> length;

  void add_options(CLI::App& to) {
    to.add_flag("--cold", cold, "only what nobody has asked for since it was last called cold");
    to.add_option("--offset", offset, "from this byte of the object on; 0 by default")
        ->type_name("BYTES");
    to.add_option("--length", length, "so many bytes; to the end by default")->type_name("BYTES");
  }
  [[nodiscard]] faultline::wire::EvictRequest meaning(const std::string& object) const {
    faultline::wire::EvictRequest request;
    faultline::ctl::set_object(request, object);
    if (cold) request.flags |= faultline::wire::kEvictCold;
    if (offset) request.offset = faultline::ctl::bytes_from("--offset", *offset);
    if (length) {
      request.length = faultline::ctl::bytes_from("--length", *length);
      if (request.length == 0) throw WrongUsage("--length must be more than 0");
    }
    return request;
  }
};

// The one argument that a command has besides its options.
struct Argument {
  std::string name;
  std::string question;  // where it is missing
  std::string text;
  CLI::Option* option = nullptr;
};

void check_socket_path(const std::string& path) {
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.empty() || path.size() > kLongest) {
    throw WrongUsage("--socket must be a path of 1 to " + std::to_string(kLongest) + " bytes");
  }
}

// Throws CLI::ParseError, for --help too, and WrongUsage.
Question parse(CLI::App& app, int argc, const char* const* argv) {
  Question question;
  app.footer(kFooter);
  app.set_version_flag("--version", FAULTLINE_VERSION);
  app.require_subcommand(0, 1);
  app.allow_extras();  // told below in words that fit; -3 is no option here
  question.add_options(app);
  std::optional<Command> chosen;
  const auto add = [&](const char* name, const char* help, Command command) {
    CLI::App* subcommand = app.add_subcommand(name, help);
    subcommand->footer("What the columns mean: faultctl --help");
    question.add_options(*subcommand);
    subcommand->callback([&chosen, command] { chosen = command; });
    return subcommand;
  };
  add("status", "the daemon: version, load, faults",
      {Command::Kind::ask, AdminQuery::status, faultline::ctl::show_status});
  add("objects", "memory objects: size, owner, use",
      {Command::Kind::ask, AdminQuery::objects, faultline::ctl::show_objects});
  add("spaces", "client processes: mappings, memory, faults by kind",
      {Command::Kind::ask, AdminQuery::spaces, faultline::ctl::show_spaces});
  Argument pid{"PID", "vmas of which PID?", {}};
  pid.option = add("vmas", "the mappings of one process",
                   {Command::Kind::ask, AdminQuery::vmas, faultline::ctl::show_vmas})
                   ->add_option(pid.name, pid.text, "the process");
  WaitersWords waiters_words;
  waiters_words.add_options(
      *add("waiters", "who waits for which word, and since when",
           {Command::Kind::ask, AdminQuery::waiters, faultline::ctl::show_waiters}));
  std::optional<std::string> pins_pid;
  add("pins", "who pins which pages, since when, and how pins were had",
      {Command::Kind::ask, AdminQuery::pins, faultline::ctl::show_pins})
      ->add_option("--pid", pins_pid, "of this process alone")
      ->type_name("PID");
  WatchWords watch_words;
  CLI::App* const watch =
      add("watch", "follow maps, faults, breaks, forks as they happen", {Command::Kind::watch});
  watch->footer("What the events and columns mean: faultctl --help");
  watch_words.add_options(*watch);
  Argument key{"KEY", "wake those who wait for which KEY?", {}};
  WakeWords wake_words;
  CLI::App* const wake =
      add("wake", "wake those who wait for a word, for rescue", {Command::Kind::wake});
  wake->footer("How keys are written, and who may wake: faultctl --help");
  key.option = wake->add_option(key.name, key.text, "the word, as waiters shows it");
  wake_words.add_options(*wake);
  Argument object{"OBJECT", "evict pages of which OBJECT?", {}};
  EvictWords evict_words;
  CLI::App* const evict =
      add("evict", "take pages of an object out of memory", {Command::Kind::evict});
  evict->footer("Which pages can go, and who may ask: faultctl --help");
  add("reload", "have the daemon read its settings file again", {Command::Kind::reload})
      ->footer(
          "Which settings can change while it runs: faultlined(8). For root and the daemon's own "
          "user.");
  object.option = evict->add_option(object.name, object.text, "its name or its id");
  evict_words.add_options(*evict);
  for (const Argument* argument : {&pid, &key, &object}) argument->option->type_name("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    // For the help alone: their absence is told below.
    for (const Argument* argument : {&pid, &key, &object}) argument->option->required();
    throw;
  }

  std::vector<std::string> extras = app.remaining(true);
  Argument* wanted = nullptr;
  if (chosen && chosen->query == AdminQuery::vmas) wanted = &pid;
  if (chosen && chosen->kind == Command::Kind::wake) wanted = &key;
  if (chosen && chosen->kind == Command::Kind::evict) wanted = &object;
  if (wanted != nullptr && wanted->text.empty() && !extras.empty()) {
    wanted->text = extras.front();
    extras.erase(extras.begin());
  }
  if (!extras.empty()) {
    const std::string& extra = extras.front();
    if (extra.rfind('-', 0) == 0) throw WrongUsage("no such option: " + extra);
    throw WrongUsage((chosen ? "one argument too many: " : "no such command: ") + extra);
  }
  if (!chosen) throw WrongUsage("which command?");
  if (wanted != nullptr && wanted->text.empty()) throw WrongUsage(wanted->question);
  question.command = *chosen;
  switch (chosen->kind) {
    case Command::Kind::ask:
      question.to_ask.query = chosen->query;
      if (wanted == &pid) question.to_ask.pid = faultline::ctl::pid_from("PID", pid.text);
      if (chosen->query == AdminQuery::waiters) waiters_words.add_to(question.to_ask);
      if (pins_pid) question.to_ask.pid = faultline::ctl::pid_from("--pid", *pins_pid);
      break;
    case Command::Kind::watch:
      question.to_watch = watch_words.meaning(question.as_json);
      break;
    case Command::Kind::wake:
      question.to_wake = wake_words.meaning(key.text);
      break;
    case Command::Kind::evict:
      question.to_evict = evict_words.meaning(object.text);
      break;
    case Command::Kind::reload:
      break;
  }
  if (question.socket_path) check_socket_path(*question.socket_path);
  return question;
}

void answer(const Question& question) {
  const auto paths = question.socket_path ? std::vector<std::string>{*question.socket_path}
                                          : faultline::wire::client_socket_paths();
  if (question.command.kind == Command::Kind::watch) {
    return faultline::ctl::watch(paths, question.to_watch);
  }
  if (question.command.kind == Command::Kind::wake) {
    return faultline::ctl::wake(paths, question.to_wake, question.as_json);
  }
  if (question.command.kind == Command::Kind::evict) {
    return faultline::ctl::evict(paths, question.to_evict, question.as_json);
  }
  if (question.command.kind == Command::Kind::reload) {
    return faultline::ctl::reload(paths, question.as_json);
  }
  const nlohmann::json answer = faultline::ctl::ask(paths, question.to_ask);
  std::cout << (question.as_json ? answer.dump(2) + "\n" : question.command.show(answer));
  if (!std::cout.flush()) throw faultline::ctl::Refused("writing the answer failed");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{kDescription, "faultctl"};
  const auto fails = [](const std::exception& error, int code) {
    std::cerr << "faultctl: " << error.what() << '\n';
    return code;
  };
  try {
    answer(parse(app, argc, argv));
    return EXIT_SUCCESS;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  } catch (const WrongUsage& error) {
    const int code = fails(error, kExitUsage);
    std::cerr << "Run faultctl --help for more.\n";
    return code;
  } catch (const faultline::ctl::Refused& error) {
    return fails(error, kExitRefused);
  } catch (const std::exception& error) {
    return fails(error, kExitUnreachable);
  }
}
