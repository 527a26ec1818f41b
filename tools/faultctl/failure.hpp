// Why a command came to nothing: the errno, what was attempted, and how faultctl exits. Must never
// be without words that a person can act on.
#pragma once

#include <stdexcept>
#include <string>

namespace faultline::ctl {

inline constexpr int kSchema = 1;  // of what is made here; docs/faultctl.md

inline constexpr int kExitRefused = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;

class Failure : public std::runtime_error {
 public:
  Failure(int code, std::string attempted, const std::string& words, int exit_code);
  [[nodiscard]] int code() const { return code_; }  // a positive errno
  [[nodiscard]] const std::string& attempted() const { return attempted_; }
  [[nodiscard]] int exit_code() const { return exit_code_; }

 private:
  int code_;
  std::string attempted_;
  int exit_code_;
};

// Nobody to ask, or nobody who answers.
class Unreachable : public Failure {
 public:
  // advice: what to do, in brackets behind the words.
  Unreachable(int code, const std::string& attempted, const std::string& advice = "");
  // Where the words say it all, and those of the errno would not help.
  static Unreachable in_words(int code, const std::string& words);

 private:
  struct Whole {};
  Unreachable(int code, const std::string& words, Whole);
};

// The daemon said no, or what was asked for cannot be done here.
class Refused : public Failure {
 public:
  Refused(int code, const std::string& attempted);
  // In the daemon's words, which may end with those of the errno.
  static Refused in_words(int code, const std::string& words);

 private:
  Refused(int code, std::string attempted, const std::string& words);
};

// The command line means nothing.
class WrongUsage : public Failure {
 public:
  explicit WrongUsage(const std::string& words);
};

// {"schema":1,"error":{...}}, on one line with its end.
std::string error_json(const Failure& failure);

// To standard output. Throws Refused where it cannot be written.
void print(const std::string& text);

}  // namespace faultline::ctl
