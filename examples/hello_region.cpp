// The README's program: one object, mapped twice, shared and copy-on-write, across a fork.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <faultline/faultline.hpp>

int main() try {
  const auto client = faultline::client::connect();
  const auto object = client.create({.size = 1 << 20});
  const auto shared = object.map(faultline::sharing::shared);
  const auto view = object.map(faultline::sharing::private_copy);
  std::strcpy(shared.as<char>().data(), "written by the parent");
  if (fork() == 0) {
    std::strcpy(view.as<char>().data(), "the child's own copy");
    std::strcpy(shared.as<char>().data() + 4096, "a word from the child");
    std::printf("child:  view \"%s\"\n", view.as<char>().data());
    std::fflush(stdout);
    _exit(0);
  }
  wait(nullptr);
  std::printf("parent: view \"%s\", and \"%s\"\n", view.as<char>().data(),
              view.as<char>().data() + 4096);
  std::printf("pages copied in the parent: %lu\n", static_cast<unsigned long>(view.stats().breaks));
} catch (const faultline::error& error) {
  std::fprintf(stderr, "hello_region: %s\n", error.what());
  return 1;
}
