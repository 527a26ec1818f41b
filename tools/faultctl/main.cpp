// faultctl: shows what a running faultlined holds and does, and wakes who waits in vain. This file
// turns a command line into one question and hands it on.
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "faultline/wire/socket_path.hpp"
#include "tools/faultctl/check.hpp"
#include "tools/faultctl/doctor.hpp"
#include "tools/faultctl/evict.hpp"
#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/help_text.hpp"
#include "tools/faultctl/map.hpp"
#include "tools/faultctl/query.hpp"
#include "tools/faultctl/reload.hpp"
#include "tools/faultctl/table.hpp"
#include "tools/faultctl/top.hpp"
#include "tools/faultctl/usage.hpp"
#include "tools/faultctl/wake.hpp"
#include "tools/faultctl/watch.hpp"

namespace {

using faultline::ctl::Failure;
using faultline::ctl::WrongUsage;
using faultline::wire::AdminQuery;

struct Command {
  enum class Kind : std::uint8_t { ask, watch, wake, evict, top, map, check, doctor, reload };
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
  faultline::ctl::Top to_top;
  faultline::ctl::Map to_map;
  faultline::ctl::Check to_check;
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
  std::string rate = "1000";

  void add_options(CLI::App& to) {
    to.add_option("--pid", pid, "of this process alone")->type_name("PID");
    to.add_option("--object", object, "of this object alone, by its name or its id")
        ->type_name("NAME|ID");
    to.add_option("--event", events, "of these kinds alone: map,unmap,fault,break,fork,exit")
        ->type_name("KINDS");
    to.add_option("--count", count, "end after so many events")->type_name("N");
    to.add_option("--rate", rate, "at most so many a second, and how many were left out; or all")
        ->type_name("N|all")
        ->capture_default_str();
  }
  [[nodiscard]] faultline::ctl::Watch meaning(bool as_json) const {
    faultline::ctl::Watch watch;
    watch.request.kinds =
        events ? faultline::ctl::event_kinds_from(*events) : faultline::wire::kAllEvents;
    if (pid) watch.request.pid = faultline::ctl::pid_from("--pid", *pid);
    if (object) faultline::ctl::set_object(watch.request, *object);
    if (count) watch.count = faultline::ctl::count_from("--count", *count);
    if (rate != "all") watch.per_second = faultline::ctl::count_from("--rate", rate);
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
    if (object) faultline::ctl::set_object(request, "--object", *object);
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

// The options of top.
struct TopWords {
  std::optional<std::string> interval;
  std::optional<std::string> count;
  std::optional<std::string> sort;
  bool plain = false;

  void add_options(CLI::App& to) {
    to.add_option("--interval", interval, "between refreshes; 2 by default")->type_name("SECONDS");
    to.add_option("--count", count, "print so many refreshes and end")->type_name("N");
    to.add_option("--sort", sort,
                  "by this column: pid,uid,faults,missing,minor,write_protect,breaks,mapped,"
                  "resident,copied,waits,pins,command")
        ->type_name("COLUMN");
    to.add_flag("--plain", plain, "print lines, on a terminal too");
  }
  [[nodiscard]] faultline::ctl::Top meaning(bool as_json) const {
    faultline::ctl::Top top;
    top.order = faultline::ctl::order_from(sort.value_or("faults"));
    if (interval) top.interval = faultline::ctl::seconds_from("--interval", *interval);
    if (count) top.count = faultline::ctl::count_from("--count", *count);
    top.plain = plain;
    top.as_json = as_json;
    return top;
  }
};

// The options of map.
struct MapWords {
  std::optional<std::string> svg;
  std::optional<std::string> buckets;

  void add_options(CLI::App& to) {
    to.add_option("--svg", svg, "draw it there, as SVG; - for standard output")->type_name("FILE");
    to.add_option("--buckets", buckets, "in so many cells at most, 1 to 2048")->type_name("N");
  }
  [[nodiscard]] faultline::ctl::Map meaning(const std::string& object, bool as_json) const {
    faultline::ctl::Map map;
    map.request.query = AdminQuery::map;
    faultline::ctl::set_object(map.request, "OBJECT", object);
    if (buckets) map.request.buckets = faultline::ctl::buckets_from(*buckets);
    if (svg && as_json) throw WrongUsage("--svg or --json, not both");
    if (svg && svg->empty()) throw WrongUsage("--svg to which FILE?");
    map.svg = svg;
    map.as_json = as_json;
    return map;
  }
};

// The options of check.
struct CheckWords {
  std::optional<std::string> window;

  void add_options(CLI::App& to) {
    to.add_option("--window", window, "between the two looks that it takes; 1 by default")
        ->type_name("SECONDS");
  }
  [[nodiscard]] faultline::ctl::Check meaning(bool as_json) const {
    faultline::ctl::Check check;
    if (window) check.window = faultline::ctl::seconds_from("--window", *window);
    check.as_json = as_json;
    return check;
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
  app.footer(faultline::ctl::kFooter);
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
  TopWords top_words;
  CLI::App* const top =
      add("top", "follow the load: processes by their faults, live", {Command::Kind::top});
  top->footer("Keys: h while it runs. What the columns mean: faultctl --help");
  top_words.add_options(*top);
  Argument mapped{"OBJECT", "map of which OBJECT?", {}};
  MapWords map_words;
  CLI::App* const map =
      add("map", "what of an object is where: memory, swap, copies, pins", {Command::Kind::map});
  map->footer("What the cells mean: faultctl --help");
  mapped.option = map->add_option(mapped.name, mapped.text, "its name or its id");
  map_words.add_options(*map);
  CheckWords check_words;
  CLI::App* const check = add("check", "is the daemon reachable and well: one line, for monitoring",
                              {Command::Kind::check});
  check->footer("Exit status: 0 well, 1 not well, 3 not reachable");
  check_words.add_options(*check);
  add("doctor", "look for what is wrong here, and how to put it right", {Command::Kind::doctor})
      ->footer("Exit status: 0 no problem, 1 a problem");
  const std::array<const Argument*, 4> all_arguments{&pid, &key, &object, &mapped};
  for (const Argument* argument : all_arguments) argument->option->type_name("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    // For the help alone: their absence is told below.
    for (const Argument* argument : all_arguments) argument->option->required();
    throw;
  }

  std::vector<std::string> extras = app.remaining(true);
  Argument* wanted = nullptr;
  if (chosen && chosen->query == AdminQuery::vmas) wanted = &pid;
  if (chosen && chosen->kind == Command::Kind::wake) wanted = &key;
  if (chosen && chosen->kind == Command::Kind::evict) wanted = &object;
  if (chosen && chosen->kind == Command::Kind::map) wanted = &mapped;
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
    case Command::Kind::top:
      question.to_top = top_words.meaning(question.as_json);
      break;
    case Command::Kind::map:
      question.to_map = map_words.meaning(mapped.text, question.as_json);
      break;
    case Command::Kind::check:
      question.to_check = check_words.meaning(question.as_json);
      break;
    case Command::Kind::doctor:
    case Command::Kind::reload:
      break;
  }
  if (question.socket_path) check_socket_path(*question.socket_path);
  return question;
}

// False: answered, and the answer is that something is wrong.
bool answer(const Question& question) {
  const auto paths = question.socket_path ? std::vector<std::string>{*question.socket_path}
                                          : faultline::wire::client_socket_paths();
  switch (question.command.kind) {
    case Command::Kind::watch:
      faultline::ctl::watch(paths, question.to_watch);
      return true;
    case Command::Kind::wake:
      faultline::ctl::wake(paths, question.to_wake, question.as_json);
      return true;
    case Command::Kind::evict:
      faultline::ctl::evict(paths, question.to_evict, question.as_json);
      return true;
    case Command::Kind::top:
      faultline::ctl::top(paths, question.to_top);
      return true;
    case Command::Kind::map:
      faultline::ctl::map(paths, question.to_map);
      return true;
    case Command::Kind::check:
      return faultline::ctl::check(paths, question.to_check);
    case Command::Kind::doctor:
      return faultline::ctl::doctor(paths, question.as_json);
    case Command::Kind::reload:
      faultline::ctl::reload(paths, question.as_json);
      return true;
    case Command::Kind::ask:
      break;
  }
  const nlohmann::json answer = faultline::ctl::ask(paths, question.to_ask);
  faultline::ctl::print(question.as_json ? answer.dump(2) + "\n" : question.command.show(answer));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{faultline::ctl::kDescription, "faultctl"};
  // Where the command line cannot be read, too.
  const bool as_json = std::any_of(
      argv, argv + argc, [](const char* word) { return std::string_view(word) == "--json"; });
  const auto fails = [as_json](const Failure& failure) {
    if (as_json) std::cout << faultline::ctl::error_json(failure) << std::flush;
    // Some of the words are the daemon's, or of an object's name.
    std::cerr << "faultctl: " << faultline::ctl::printable(failure.what()) << '\n';
    return failure.exit_code();
  };
  const auto fails_usage = [&fails](const WrongUsage& error) {
    const int code = fails(error);
    std::cerr << "Run faultctl --help for more.\n";
    return code;
  };
  try {
    return answer(parse(app, argc, argv)) ? EXIT_SUCCESS : faultline::ctl::kExitRefused;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
    return fails_usage(WrongUsage(error.what()));
  } catch (const WrongUsage& error) {
    return fails_usage(error);
  } catch (const Failure& failure) {
    return fails(failure);
  } catch (const nlohmann::json::exception&) {
    return fails(faultline::ctl::Unreachable::in_words(
        EPROTO, "the daemon's answer lacks what this faultctl asks for"));
  } catch (const std::exception& error) {
    return fails(faultline::ctl::Refused::in_words(EIO, error.what()));
  }
}
