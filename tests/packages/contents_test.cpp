// What is in the packages, and what they say of themselves: looked at without installing any.
#include <fstream>

#include "tests/packages/packages.hpp"
#include "tests/places.hpp"

namespace faultline::testing {
namespace {

class PackageContents : public PackagesTest {
 protected:
  static std::string files_of(const std::string& name) {
    const Ran listed = run("dpkg-deb -c " + package(name).string());
    EXPECT_EQ(listed.code, 0) << listed.output;
    return listed.output;
  }
  static std::string field_of(const std::string& name, const std::string& field) {
    const Ran shown = run("dpkg-deb -f " + package(name).string() + " " + field);
    EXPECT_EQ(shown.code, 0) << shown.output;
    return shown.output.substr(0, shown.output.find('\n'));
  }
};

#define EXPECT_HOLDS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
#define EXPECT_LACKS(text, part) EXPECT_EQ((text).find(part), std::string::npos) << (text)

TEST_F(PackageContents, EachFileIsWhereDebianLooksForIt) {
  const std::string daemon = files_of("faultline");
  for (const char* path :
       {" ./usr/sbin/faultlined\n", " ./usr/bin/faultctl\n", "/systemd/system/faultlined.service\n",
        "/systemd/system/faultlined.socket\n", " ./usr/lib/sysusers.d/faultline.conf\n",
        " ./usr/lib/tmpfiles.d/faultline.conf\n", " ./etc/faultline/faultline.toml\n",
        " ./usr/share/bash-completion/completions/faultctl\n",
        " ./usr/share/zsh/vendor-completions/_faultctl\n",
        " ./usr/share/fish/vendor_completions.d/faultctl.fish\n"}) {
    EXPECT_HOLDS(daemon, path);
  }
  const std::string library = files_of("libfaultline1");
  EXPECT_HOLDS(library, "/libfaultline.so.1 -> libfaultline.so.1.");
  EXPECT_LACKS(library, "/libfaultline.so -> ");
  EXPECT_LACKS(library, ".a\n");
  const std::string development = files_of("libfaultline-dev");
  for (const char* path :
       {"/libfaultline.so -> libfaultline.so.1\n", "/libfaultline.a\n", "/pkgconfig/faultline.pc\n",
        "/cmake/faultline/faultlineConfig.cmake\n", " ./usr/include/faultline/faultline.h\n",
        " ./usr/include/faultline/sync/mutex.hpp\n"}) {
    EXPECT_HOLDS(development, path);
  }
  EXPECT_LACKS(development, "/wire/");
  const std::string documentation = files_of("faultline-doc");
  EXPECT_HOLDS(documentation, " ./usr/share/doc/faultline-doc/docs/limits.md\n");
  EXPECT_HOLDS(documentation, " ./usr/share/doc/faultline-doc/examples/hello_region.cpp\n");
}

// So nothing that somebody installs in future is left out of the packages unnoticed.
TEST_F(PackageContents, EverythingThatIsInstalledHasAComponent) {
  const std::string prefix = (directory() / "unspecified").string();
  const Ran installed =
      run("rm -rf " + prefix + " && mkdir " + prefix + " && DESTDIR=" + prefix +
          " cmake --install " BUILD_DIRECTORY " --component Unspecified >/dev/null && find " +
          prefix + " -mindepth 1 -not -type d");
  EXPECT_EQ(installed.code, 0);
  EXPECT_EQ(installed.output, "") << "install() without a COMPONENT";
}

TEST_F(PackageContents, TheyDependOnWhatTheyLoad) {
  const std::string daemon = field_of("faultline", "Depends");
  for (const char* needed : {"libc6 (>= ", "liburing2 (>= ", "libstdc++6 (>= ", "libsystemd0",
                             "systemd | systemd-standalone-sysusers"}) {
    EXPECT_HOLDS(daemon, needed);
  }
  const std::string version = field_of("libfaultline1", "Version");
  EXPECT_EQ(field_of("libfaultline-dev", "Depends"), "libfaultline1 (= " + version + ")");
  const std::string upstream = version.substr(0, version.rfind('-'));
  EXPECT_EQ(field_of("libfaultline1", "Breaks"), "faultline (<< " + upstream + ")");
  EXPECT_EQ(field_of("faultline", "Breaks"), "libfaultline1 (<< " + upstream + ")");
  EXPECT_EQ(field_of("faultline-doc", "Architecture"), "all");
  EXPECT_EQ(field_of("libfaultline1", "Source"), "faultline");
}

TEST_F(PackageContents, TheBinariesAreStripped) {
  for (const char* name : {"faultline", "libfaultline1"}) {
    const std::string tree = (directory() / "unpacked").string();
    const Ran looked = run("rm -rf " + tree + " && dpkg-deb -x " + package(name).string() + " " +
                           tree + " && find " + tree +
                           "/usr -type f \\( -perm -100 -o -name '*.so.*' \\) "
                           "-exec readelf -S {} + | grep -c '\\.debug_info\\|\\.symtab'");
    EXPECT_EQ(looked.output, "0\n") << name;
  }
}

TEST_F(PackageContents, TheChangelogIsTheProjects) {
  const std::string tree = (directory() / "unpacked").string();
  const Ran changes =
      run("rm -rf " + tree + " && dpkg-deb -x " + package("faultline").string() + " " + tree +
          " && zcat " + tree + "/usr/share/doc/faultline/changelog.Debian.gz >" + tree +
          "/changelog && dpkg-parsechangelog -l " + tree + "/changelog --all --format dpkg");
  EXPECT_EQ(changes.code, 0) << changes.output;
  EXPECT_HOLDS(changes.output, "Version: " + field_of("faultline", "Version") + "\n");
  EXPECT_HOLDS(changes.output, "The first whole: a managed region, end to end.");
  EXPECT_LACKS(changes.output, "warning");
}

// Releases of one day, and some that have none, are told one after the other all the same.
TEST_F(PackageContents, TheChangelogsEntriesAreInOrder) {
  const std::string file = (directory() / "same-day.md").string();
  std::ofstream(file)
      << "# Changelog\n\n## 0.3.0 - 2026-11-22\n\n- c\n\n## 0.2.0 - 2026-11-22\n\n- b\n\n"
         "## 0.1.0 - unreleased\n\n- a\n";
  const Ran told = run(SOURCE_DIRECTORY "/packaging/changelog " + file +
                       " 0.3.0-1 'N <n@example.org>' 2000000000 | sed -n 's/^ -- .*>  //p'");
  EXPECT_EQ(told.output,
            "Sun, 22 Nov 2026 00:00:00 +0000\nSat, 21 Nov 2026 23:59:59 +0000\n"
            "Sat, 21 Nov 2026 23:59:58 +0000\n");
}

TEST_F(PackageContents, LintianFindsNoError) {
  std::string line = "lintian --fail-on error --allow-root";
  for (const auto& path : packages()) line += " " + path.string();
  const Ran looked = run(line);
  EXPECT_EQ(looked.code, 0) << looked.output;
}

// The control: a package that is wrong is found out.
TEST_F(PackageContents, LintianFindsAPackageWithoutACopyright) {
  const std::string tree = (directory() / "unpacked").string();
  const Ran broken =
      run("rm -rf " + tree + " && dpkg-deb -R " + package("libfaultline1").string() + " " + tree +
          " && rm " + tree +
          "/usr/share/doc/libfaultline1/copyright && dpkg-deb --root-owner-group -b " + tree + " " +
          tree + ".deb >/dev/null");
  ASSERT_EQ(broken.code, 0) << broken.output;
  const Ran looked = run("lintian --fail-on error --allow-root " + tree + ".deb");
  EXPECT_NE(looked.code, 0);
  EXPECT_HOLDS(looked.output, "no-copyright-file");
}

class LibrarySymbols : public PackagesTest {
 protected:
  // As packaging does it, with another list of symbols.
  static Ran checked_against(const std::string& symbols) {
    const std::string tree = (directory() / "symbols").string();
    const Ran made =
        run("rm -rf " + tree + " && mkdir -p " + tree + "/debian && cd " + tree +
            " && printf 'Source: faultline\\n\\nPackage: libfaultline1\\nArchitecture: "
            "any\\n' >debian/control");
    EXPECT_EQ(made.code, 0) << made.output;
    std::ofstream(tree + "/listed") << symbols;
    return run("cd " + tree +
               " && dpkg-gensymbols -c4 -q -plibfaultline1 -v99 "
               "-e" BUILD_DIRECTORY "/libclient/libfaultline.so.1 -Ilisted -Omade -Ptree");
  }
  static std::string listed() {
    std::ifstream in(SOURCE_DIRECTORY "/packaging/libfaultline1.symbols");
    return {std::istreambuf_iterator<char>(in), {}};
  }
};

TEST_F(LibrarySymbols, AreThoseThatAreListed) {
  const Ran checked = checked_against(listed());
  EXPECT_EQ(checked.code, 0) << checked.output;
}

TEST_F(LibrarySymbols, AreMissedWhereOneIsGone) {
  const Ran checked = checked_against(listed() + " fl_forgotten@FAULTLINE_0.1 0.5.0\n");
  EXPECT_NE(checked.code, 0);
}

TEST_F(LibrarySymbols, AreReportedWhereOneIsNotListed) {
  std::string fewer = listed();
  const auto at = fewer.find(" fl_unmap@");
  ASSERT_NE(at, std::string::npos);
  fewer.erase(at, fewer.find('\n', at) + 1 - at);
  const Ran checked = checked_against(fewer);
  EXPECT_NE(checked.code, 0);
}

}  // namespace
}  // namespace faultline::testing
