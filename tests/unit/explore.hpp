// Every way in which the steps of several actors can lie between each other, for tests. Must never
// leave one out, nor make one twice.
//
// A body is run again and again, from the beginning; whenever it asks which of n comes next, it is
// given the answers of one path through the tree of all choices, then those of the next path.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace faultline::testing {

// Of n, at least 1: a number below n.
using Choose = std::function<std::size_t(std::size_t n)>;

// Returns how often it ran. body(choose) must depend on nothing but its choices.
template <typename Body>
std::size_t explore(Body body) {
  struct Choice {
    std::size_t taken = 0;
    std::size_t of = 0;
  };
  std::vector<Choice> path;
  std::size_t runs = 0;
  for (;;) {
    std::size_t depth = 0;
    body(Choose([&](std::size_t n) {
      if (depth == path.size()) path.push_back({0, n});
      return path[depth++].taken;
    }));
    ++runs;
    while (!path.empty() && path.back().taken + 1 == path.back().of) path.pop_back();
    if (path.empty()) return runs;
    ++path.back().taken;
  }
}

}  // namespace faultline::testing
