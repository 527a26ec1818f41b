// scripts/abi: that the library's ABI is the last release's, and that a change of it is told.
#include <filesystem>
#include <fstream>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

namespace fs = std::filesystem;

TEST(Abi, IsTheLastReleasesWithAdditionsAtMost) {
  const Ran compared = run(SOURCE_DIRECTORY "/scripts/abi --library " BUILD_DIRECTORY
                                            "/libclient/libfaultline.so.1");
  EXPECT_EQ(compared.code, 0) << compared.output;
}

// A small library with a public header, whose ABI is kept; each test changes a copy of it.
class AbiChange : public ::testing::Test {
 protected:
  static constexpr const char* kHeader =
      "typedef struct fl_stats {\n  unsigned long faults;\n  unsigned long breaks;\n} fl_stats;\n"
      "int fl_stats_of(const void* address, fl_stats* stats);\n"
      "int fl_discard(void* address, unsigned long length);\n";
  static constexpr const char* kBody =
      "int fl_stats_of(const void* address, fl_stats* stats) {\n"
      "  (void)address; stats->faults = 0; return 0;\n}\n"
      "int fl_discard(void* address, unsigned long length) {\n"
      "  (void)address; return length == 0;\n}\n";

  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "faultline-abi-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    const Ran kept = compared(kHeader, kBody, "--update ");
    ASSERT_EQ(kept.code, 0) << kept.output;
  }
  void TearDown() override { fs::remove_all(directory_); }

  [[nodiscard]] Ran compared(const std::string& header, const std::string& body,
                             const std::string& option = "") const {
    const std::string at = directory_.string();
    fs::create_directories(directory_ / "faultline");
    std::ofstream(directory_ / "faultline" / "small.h") << header;
    std::ofstream(directory_ / "small.c") << "#include <faultline/small.h>\n" << body;
    const Ran built =
        run("cc -g -shared -fPIC -I" + at + " -o " + at + "/small.so " + at + "/small.c");
    EXPECT_EQ(built.code, 0) << built.output;
    return run(SOURCE_DIRECTORY "/scripts/abi " + option + "--library " + at +
               "/small.so --headers " + at + "/faultline --baseline " + at + "/baseline");
  }
  static std::string replaced(std::string text, const std::string& what, const std::string& by) {
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
      text.replace(at, what.size(), by);
    }
    return text;
  }

  fs::path directory_;
};

TEST_F(AbiChange, OfNothingIsNone) {
  const Ran same = compared(kHeader, kBody);
  EXPECT_EQ(same.code, 0) << same.output;
}

TEST_F(AbiChange, ByANewFunctionIsAllowed) {
  std::string header = kHeader;
  std::string body = kBody;
  header.append("int fl_new(void);\n");
  body.append("int fl_new(void) { return 0; }\n");
  const Ran more = compared(header, body);
  EXPECT_EQ(more.code, 0) << more.output;
}

TEST_F(AbiChange, OfAFunctionsParameterIsTold) {
  const auto change = [](const char* text) {
    return replaced(text, "unsigned long length", "unsigned int length");
  };
  const Ran other = compared(change(kHeader), change(kBody));
  EXPECT_EQ(other.code, 1) << other.output;
  EXPECT_NE(other.output.find("'function int fl_discard(void*, unsigned long int)'"),
            std::string::npos)
      << other.output;
}

TEST_F(AbiChange, OfAStructureIsTold) {
  const Ran other = compared(
      replaced(kHeader, "unsigned long faults;", "unsigned long missing;\n  unsigned long faults;"),
      kBody);
  EXPECT_EQ(other.code, 1) << other.output;
  EXPECT_NE(other.output.find("type size changed from 128 to 192"), std::string::npos)
      << other.output;
}

TEST_F(AbiChange, ByAFunctionThatIsGoneIsTold) {
  const Ran fewer = compared(kHeader, replaced(kBody, "int fl_discard", "static inline int gone"));
  EXPECT_EQ(fewer.code, 1) << fewer.output;
  EXPECT_NE(fewer.output.find("fl_discard"), std::string::npos) << fewer.output;
}

TEST_F(AbiChange, IsNotSeenWithoutDebugInformationAndThatIsAnError) {
  const Ran stripped = run("strip " + directory_.string() +
                           "/small.so && " SOURCE_DIRECTORY "/scripts/abi --library " +
                           directory_.string() + "/small.so --headers " + directory_.string() +
                           "/faultline --baseline " + directory_.string() + "/baseline");
  EXPECT_EQ(stripped.code, 2) << stripped.output;
}

}  // namespace
}  // namespace faultline::testing
