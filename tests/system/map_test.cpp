// faultctl map: the daemon's answer for real objects, who may see what of it, and the drawings.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "faultline/pin.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using Counts = std::vector<std::uint64_t>;

class MapOfObject : public SystemTest {
 protected:
  [[nodiscard]] Ran ctl(const std::string& arguments) const {
    return run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " " + arguments);
  }
  [[nodiscard]] nlohmann::json map_of(const std::string& arguments) const {
    const Ran ran = ctl("map " + arguments + " --json");
    EXPECT_EQ(ran.code, 0) << ran.output;
    return nlohmann::json::parse(ran.output)["map"];
  }
  static std::uint64_t sum(const nlohmann::json& counts) {
    const auto numbers = counts.get<Counts>();
    return std::accumulate(numbers.begin(), numbers.end(), std::uint64_t{0});
  }
};

// Every page is in one state, and each state is told where it is.
TEST_F(MapOfObject, TellsWhereWhichPagesAre) {
  const PatternFile file(16 * kPage);
  const Object object = create_from(client_, file.fd(), 0, "m");
  const auto shared = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE, 4 * kPage);
  ASSERT_EQ(fl_advise(client_, shared.data(), shared.size(), FL_ADVICE_RANDOM), 0);
  ASSERT_EQ(fl_advise(client_, view.data(), view.size(), FL_ADVICE_RANDOM), 0);
  touch(shared[0]);
  shared[kPage] = std::byte{1};
  view[2 * kPage] = std::byte{1};  // page 6 of the object
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(&shared[12 * kPage], 2 * kPage, 0, &pin), 0) << fl_last_error();

  const auto map = map_of("m --buckets 16");
  EXPECT_EQ(map["pages"], 16);
  EXPECT_EQ(map["bucket_pages"], 1);
  for (std::size_t page = 0; page < 16; ++page) {
    std::uint64_t states = 0;
    for (const auto& [name, counts] : map["states"].items()) {
      states += counts.at(page).get<std::uint64_t>();
    }
    EXPECT_EQ(states, 1U) << "page " << page;
  }
  const auto page_is = [&](std::size_t page, const char* state) {
    return map["states"][state].at(page) == 1;
  };
  EXPECT_TRUE(page_is(0, "resident")) << map.dump();
  EXPECT_TRUE(page_is(1, "dirty")) << map.dump();
  EXPECT_TRUE(page_is(6, "resident")) << "the view's copy was made from it: " << map.dump();
  EXPECT_TRUE(page_is(12, "resident")) << map.dump();
  EXPECT_TRUE(page_is(15, "absent")) << map.dump();
  EXPECT_EQ(map["pinned"].get<Counts>(), (Counts{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(sum(map["mapped_by"]), 16U) << "one process, however often";
  const auto& band = map["mappings"].at(0);
  EXPECT_EQ(band["pid"], ::getpid());
  EXPECT_EQ(sum(band["mapped"]), 16U);
  EXPECT_EQ(sum(band["private"]), 1U);
  EXPECT_EQ(band["private"].at(6), 1);
  EXPECT_EQ(sum(band["pinned"]), 2U);
  EXPECT_EQ(fl_unpin(&pin), 0);
}

TEST_F(MapOfObject, TellsWhatWentToTheSwapFileAndWhatCannotBeSupplied) {
  const std::string swap = (daemon_.directory() / "swap").string();
  const Daemon swapping({"--swap-file", swap, "--swap-bytes", "1048576"});
  const Client client = connect(swapping.socket());
  const Object object = create(client, 8 * kPage, "s");
  const auto memory = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_advise(client, memory.data(), memory.size(), FL_ADVICE_RANDOM), 0);
  for (std::size_t page = 0; page < 4; ++page) memory[page * kPage] = std::byte{1};
  const std::string ask = FAULTCTL_BINARY " --socket " + swapping.socket() + " ";
  ASSERT_EQ(run(ask + "evict s").code, 0);
  const auto swapped = nlohmann::json::parse(run(ask + "map s --json --buckets 8").output)["map"];
  EXPECT_EQ(swapped["states"]["swapped"].get<Counts>(), (Counts{1, 1, 1, 1, 0, 0, 0, 0}))
      << swapped.dump();
  EXPECT_EQ(sum(swapped["states"]["lost"]), 0U);

  const PatternFile file(8 * kPage);
  const Object broken = create_from(client_, file.fd(), 0, "b");
  const auto view = map(broken, 8 * kPage, FL_MAP_SHARED);
  file.truncate(kPage);
  EXPECT_TRUE(in_child([&] { return touch(view[7 * kPage]); }).killed_by(SIGBUS));
  EXPECT_EQ(map_of("b --buckets 8")["states"]["poisoned"].at(7), 1);
}

// The answer is bounded, however large the object is, and asking takes no memory: a terabyte of
// which two pages were ever touched.
TEST_F(MapOfObject, ATerabyteIsAnsweredInBucketsAtOnce) {
  constexpr std::size_t kBytes = std::size_t{1} << 40;
  const Object object = create(client_, kBytes, "huge");
  const auto memory = map(object, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = std::byte{1};
  memory[kBytes - 1] = std::byte{1};
  const auto resident = [&] {
    std::ifstream in("/proc/" + std::to_string(daemon_.pid()) + "/statm");
    std::uint64_t size = 0;
    std::uint64_t pages = 0;
    in >> size >> pages;
    return pages * 4096;
  };
  (void)map_of("huge");
  const std::uint64_t before = resident();
  const auto begun = std::chrono::steady_clock::now();
  const auto map = map_of("huge --buckets 2048");
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5));
  EXPECT_LT(resident(), before + (std::uint64_t{16} << 20));
  EXPECT_EQ(map["buckets"], 2048);
  EXPECT_EQ(sum(map["states"]["resident"]), 2U);
  EXPECT_EQ(sum(map["states"]["absent"]), kBytes / kPage - 2);
  EXPECT_EQ(map["states"]["resident"].at(2047), 1);
  const Ran refused = ctl("map huge --buckets 2049");
  EXPECT_EQ(refused.code, 2) << refused.output;
}

// Who may see an object sees how many others map it, and of their processes nothing.
TEST_F(MapOfObject, OtherUsersProcessesAreACount) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  const Object open = create(client_, 4 * kPage, "open.to.all", 0644);
  const Object closed = create(client_, 4 * kPage, "closed", 0600);
  const auto memory = map(open, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  memory[0] = std::byte{1};
  const std::string as_nobody =
      "setpriv --reuid 65534 --regid 65534 --clear-groups " FAULTCTL_BINARY " --socket " +
      daemon_.socket() + " map ";
  const Ran ran = run(as_nobody + "open.to.all --buckets 4 --json");
  ASSERT_EQ(ran.code, 0) << ran.output;
  const auto map = nlohmann::json::parse(ran.output)["map"];
  EXPECT_TRUE(map["mappings"].empty());
  EXPECT_EQ(map["others"], 1);
  EXPECT_EQ(map["mapped_by"].get<Counts>(), (Counts{1, 1, 1, 1}));
  EXPECT_EQ(ran.output.find(std::to_string(::getpid())), std::string::npos) << ran.output;
  EXPECT_EQ(run(as_nobody + "closed").code, 1);
}

// More processes than are shown: the rest is a count.
TEST_F(MapOfObject, ShowsSixtyFourProcesses) {
  const Object object = create(client_, 4 * kPage, "crowd");
  const auto memory = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = std::byte{1};
  const Gate end;
  std::vector<Child> children;
  for (int i = 0; i < 70; ++i) {
    children.emplace_back([&] {
      (void)touch(memory[0]);
      (void)end.pass();
      return 0;
    });
  }
  EXPECT_TRUE(eventually([&] {
    const auto map = map_of("crowd --buckets 1");
    return map["mapped_by"].at(0) == 71;
  }));
  const auto map = map_of("crowd --buckets 1");
  EXPECT_EQ(map["mappings"].size(), 64U);
  EXPECT_EQ(map["left_out"], 7);
  for (std::size_t i = 0; i < children.size(); ++i) end.open();
}

TEST_F(MapOfObject, IsDrawnAsTextAndAsSvg) {
  const Object object = create(client_, 64 * kPage, "drawn");
  const auto memory = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_RANDOM), 0);
  for (std::size_t page = 0; page < 32; ++page) memory[page * kPage] = std::byte{1};
  const Ran text = ctl("map drawn --buckets 4");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.output.find("the object           |##..|"), std::string::npos) << text.output;
  EXPECT_NE(text.output.find("mapped by            |1111|"), std::string::npos) << text.output;

  const std::filesystem::path file = daemon_.directory() / "drawn.svg";
  EXPECT_EQ(ctl("map drawn --svg " + file.string()).code, 0);
  std::ifstream in(file);
  const std::string svg{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(ctl("map drawn --svg -").output, svg);
  const Ran parsed =
      run("python3 -c 'import sys, xml.dom.minidom; "
          "print(xml.dom.minidom.parse(sys.argv[1]).documentElement.tagName)' " +
          file.string());
  EXPECT_EQ(parsed.output, "svg\n");
  EXPECT_NE(svg.find("<title>"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
}

// A picture that cannot be written is an error, and what was there stays.
TEST_F(MapOfObject, NeverWritesHalfAPicture) {
  const Object object = create(client_, kPage, "o");
  const std::filesystem::path here = daemon_.directory() / "picture.svg";
  std::ofstream(here) << "as it was";
  EXPECT_EQ(ctl("map gone --svg " + here.string()).code, 1);
  std::ifstream in(here);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "as it was");
  const Ran nowhere = ctl("map o --svg /nonexistent/picture.svg");
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_NE(nowhere.output.find("writing the picture to /nonexistent/picture.svg"),
            std::string::npos);
  const Ran full = ctl("map o --svg /dev/full");
  EXPECT_EQ(full.code, 1) << full.output;
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full")) << "it was not replaced";
  // As /dev/stdout is one, to a file where it is redirected.
  const std::filesystem::path link = daemon_.directory() / "link.svg";
  std::filesystem::create_symlink(here, link);
  EXPECT_EQ(ctl("map o --svg " + link.string()).code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(link)) << "it was not replaced either";
  std::ifstream through(here);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(through), {}), ctl("map o --svg -").output);
  for (const auto& entry : std::filesystem::directory_iterator(daemon_.directory())) {
    EXPECT_EQ(entry.path().filename().string().find("picture.svg."), std::string::npos)
        << "nothing is left beside it";
  }
}

}  // namespace
}  // namespace faultline::testing
