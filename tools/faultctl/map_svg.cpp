#include "tools/faultctl/map_svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

// Everything in units of the picture, about a pixel each.
constexpr double kLeft = 170;  // of the bands; before them are their labels
constexpr double kPlot = 800;
constexpr double kRight = 20;
constexpr double kWidth = kLeft + kPlot + kRight;
constexpr double kObjectHeight = 56;
constexpr double kShareHeight = 32;
constexpr double kBandHeight = 22;
constexpr double kPinHeight = 5;
constexpr double kGap = 10;
constexpr double kLegendRow = 20;
constexpr std::size_t kLegendColumns = 4;
constexpr std::size_t kLongestLabel = 24;
constexpr unsigned kTicks = 8;

// Colours that the colour-blind can tell apart; text and lines follow the reader's light or dark.
constexpr const char* kStyle = R"(<style type="text/css">
  svg { font: 12px sans-serif; }
  .page { fill: #ffffff; } text { fill: #202124; } .line { stroke: #80868b; fill: none; }
  .quiet { fill: #5f6368; } .empty { fill: #f1f3f4; }
  .resident { fill: #0072b2; } .dirty { fill: #d55e00; } .filling { fill: #56b4e9; }
  .evicting { fill: #cc79a7; } .swapped { fill: #e69f00; } .lost { fill: #9aa0a6; }
  .poisoned { fill: #b00020; } .absent { fill: #e8eaed; }
  .shared { fill: #009e73; } .mapped { fill: #99d8c7; } .private { fill: #d55e00; }
  .pinned { fill: #6a3d9a; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #202124; } text { fill: #e8eaed; } .quiet { fill: #bdc1c6; }
    .empty { fill: #2b2c2f; } .absent { fill: #3c4043; } .lost { fill: #80868b; }
    .mapped { fill: #1f5c4e; } .pinned { fill: #b39ddb; } .resident { fill: #4aa3df; }
  }
</style>
)";

std::string rect(const char* style, double x, double y, double width, double height) {
  return fmt::format(R"(<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>)",
                     style, x, y, width, height);
}

std::string words(double x, double y, const std::string& text, const char* attributes = "") {
  return fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\"{}>{}</text>\n", x, y, attributes,
                     xml_escaped(text));
}

// Pages that follow each other and look the same are drawn as one.
struct Stretch {
  std::size_t begin = 0;
  std::size_t end = 0;  // buckets
};

class Picture {
 public:
  explicit Picture(const ObjectMap& map) : map_(map) {}

  std::string text() {
    heading();
    scale();
    object_band();
    sharing_band();
    for (const ObjectMap::Band& band : map_.bands) process_band(band);
    remarks();
    legend();
    return fmt::format(
               "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
               "<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"{0:.0f}\" "
               "height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\">\n<title>{2}"
               "</title>\n",
               kWidth, y_, xml_escaped("Map of " + title_of(map_))) +
           kStyle + rect("page", 0, 0, kWidth, y_) + "\n" + body_ + "</svg>\n";
  }

 private:
  [[nodiscard]] double x_of_page(std::uint64_t page) const {
    return kLeft + kPlot * static_cast<double>(page) / static_cast<double>(map_.pages);
  }
  [[nodiscard]] double x_of(std::size_t bucket) const {
    return x_of_page(std::min(map_.first_page(bucket), map_.pages));
  }
  [[nodiscard]] std::string range_of(const Stretch& stretch) const {
    const std::uint64_t first = map_.first_page(stretch.begin);
    const std::uint64_t end = std::min(map_.first_page(stretch.end), map_.pages);
    return fmt::format("pages {} to {} ({} from {})", first, end - 1,
                       readable_bytes((end - first) * map_.page_size),
                       readable_bytes(first * map_.page_size));
  }
  // Calls draw(stretch) for each, with what it draws and says in a group with a tool tip.
  void each_stretch(const std::function<bool(std::size_t, std::size_t)>& alike,
                    const std::function<std::string(const Stretch&)>& tip,
                    const std::function<void(const Stretch&)>& draw) {
    for (std::size_t begin = 0; begin < map_.buckets;) {
      std::size_t end = begin + 1;
      while (end < map_.buckets && map_.pages_in(begin) == map_.pages_in(end) && alike(begin, end))
        ++end;
      const Stretch stretch{begin, end};
      body_ += fmt::format("<g><title>{}: {}</title>", xml_escaped(range_of(stretch)),
                           xml_escaped(tip(stretch)));
      draw(stretch);
      body_ += "</g>\n";
      begin = end;
    }
  }
  void fill(const char* style, const Stretch& stretch, double y, double height) {
    if (height <= 0) return;
    const double x = x_of(stretch.begin);
    body_ += rect(style, x, y, x_of(stretch.end) - x, height);
  }
  void label(double height, const std::string& text) {
    std::string shown = text;
    if (shown.size() > kLongestLabel) shown = shown.substr(0, kLongestLabel - 3) + "...";
    body_ += words(kLeft - 8, y_ + height / 2 + 4, shown, " text-anchor=\"end\"");
  }
  [[nodiscard]] double share(std::uint64_t pages, std::size_t bucket) const {
    return std::min(1.0, static_cast<double>(pages) / static_cast<double>(map_.pages_in(bucket)));
  }

  void heading() {
    body_ += words(kLeft, 24, title_of(map_), " font-size=\"16\" font-weight=\"bold\"");
    body_ +=
        words(kLeft, 44,
              fmt::format("{}, {} pages of {}; a cell is {} pages, {}", readable_bytes(map_.size),
                          map_.pages, readable_bytes(map_.page_size), map_.bucket_pages,
                          readable_bytes(map_.bucket_pages * map_.page_size)),
              " class=\"quiet\"");
    y_ = 66;
  }

  void scale() {
    for (unsigned i = 0; i <= kTicks; ++i) {
      const std::uint64_t page = map_.pages * i / kTicks;
      if (i > 0 && page == map_.pages * (i - 1) / kTicks) continue;  // fewer pages than ticks
      const double x = x_of_page(page);
      body_ += words(x, y_, readable_bytes(page * map_.page_size),
                     " class=\"quiet\" font-size=\"10\" text-anchor=\"middle\"");
      body_ += fmt::format(R"(<path class="line" d="M{:.2f} {:.2f}v4"/>)", x, y_ + 3) + "\n";
    }
    y_ += 10;
  }

  void object_band() {
    label(kObjectHeight, "the object");
    const auto alike = [this](std::size_t a, std::size_t b) {
      return std::ranges::all_of(map_.states,
                                 [&](const auto& counts) { return counts[a] == counts[b]; }) &&
             map_.pinned[a] == map_.pinned[b];
    };
    const auto tip = [this](const Stretch& stretch) {
      std::string text;
      const auto add = [&](std::uint64_t pages, const char* what) {
        if (pages != 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", pages, what);
      };
      for (std::size_t i = 0; i < kMapStates; ++i) {
        std::uint64_t pages = 0;
        for (std::size_t b = stretch.begin; b < stretch.end; ++b) pages += map_.states.at(i)[b];
        add(pages, ctl::words_of(static_cast<MapState>(i)).words);
      }
      std::uint64_t pinned = 0;
      for (std::size_t b = stretch.begin; b < stretch.end; ++b) pinned += map_.pinned[b];
      add(pinned, "pinned");
      return text;
    };
    each_stretch(alike, tip, [&](const Stretch& stretch) {
      fill("empty", stretch, y_, kObjectHeight);
      double bottom = y_ + kObjectHeight;
      for (std::size_t i = 0; i < kMapStates; ++i) {
        const double height =
            kObjectHeight * share(map_.states.at(i)[stretch.begin], stretch.begin);
        bottom -= height;
        fill(ctl::words_of(static_cast<MapState>(i)).name, stretch, bottom, height);
      }
      if (map_.pinned[stretch.begin] != 0) {
        fill("pinned", stretch, y_ + kObjectHeight, kPinHeight);
      }
    });
    frame(kObjectHeight);
    y_ += kObjectHeight + kPinHeight + kGap;
  }

  void sharing_band() {
    const std::uint64_t most = *std::ranges::max_element(map_.mapped_by);
    label(kShareHeight, fmt::format("mapped by, of {}", most));
    const auto alike = [this](std::size_t a, std::size_t b) {
      return map_.mapped_by[a] == map_.mapped_by[b];
    };
    const auto tip = [this](const Stretch& stretch) {
      return fmt::format("mapped by {} processes", map_.mapped_by[stretch.begin]);
    };
    each_stretch(alike, tip, [&](const Stretch& stretch) {
      fill("empty", stretch, y_, kShareHeight);
      if (most == 0) return;
      const double height = kShareHeight * static_cast<double>(map_.mapped_by[stretch.begin]) /
                            static_cast<double>(most);
      fill("shared", stretch, y_ + kShareHeight - height, height);
    });
    frame(kShareHeight);
    y_ += kShareHeight + kGap;
  }

  void process_band(const ObjectMap::Band& band) {
    label(kBandHeight, label_of(band));
    const auto alike = [&](std::size_t a, std::size_t b) {
      return band.mapped[a] == band.mapped[b] && band.own[a] == band.own[b] &&
             band.pinned[a] == band.pinned[b];
    };
    const auto tip = [&](const Stretch& stretch) {
      std::uint64_t mapped = 0;
      std::uint64_t own = 0;
      std::uint64_t pinned = 0;
      for (std::size_t b = stretch.begin; b < stretch.end; ++b) {
        mapped += band.mapped[b];
        own += band.own[b];
        pinned += band.pinned[b];
      }
      return fmt::format("{}: {} pages mapped, {} its own copies, {} pinned", label_of(band),
                         mapped, own, pinned);
    };
    each_stretch(alike, tip, [&](const Stretch& stretch) {
      fill("empty", stretch, y_, kBandHeight);
      const double bottom = y_ + kBandHeight;
      const double mapped = kBandHeight * share(band.mapped[stretch.begin], stretch.begin);
      const double own = kBandHeight * share(band.own[stretch.begin], stretch.begin);
      fill("mapped", stretch, bottom - mapped, mapped);
      fill("private", stretch, bottom - own, own);
      if (band.pinned[stretch.begin] != 0) fill("pinned", stretch, bottom, kPinHeight);
    });
    frame(kBandHeight);
    y_ += kBandHeight + kPinHeight + kGap / 2;
  }

  void frame(double height) { body_ += rect("line", kLeft, y_, kPlot, height) + "\n"; }

  void remarks() {
    const auto remark = [this](std::uint64_t count, const char* what) {
      if (count == 0) return;
      y_ += 14;
      body_ += words(kLeft, y_, fmt::format("and {} {}", count, what), " class=\"quiet\"");
    };
    remark(map_.others, "processes of other users");
    remark(map_.left_out, "more processes");
    y_ += kGap;
  }

  void legend() {
    struct Entry {
      const char* style;
      const char* words;
    };
    std::vector<Entry> entries;
    for (std::size_t i = 0; i < kMapStates; ++i) {
      const MapStateWords& state = ctl::words_of(static_cast<MapState>(i));
      entries.push_back({state.name, state.words});
    }
    entries.push_back({"shared", "mapped by processes"});
    entries.push_back({"mapped", "mapped, the object's page"});
    entries.push_back({"private", "a copy of its own"});
    entries.push_back({"pinned", "pinned"});
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const double x = kLeft + kPlot / kLegendColumns * static_cast<double>(i % kLegendColumns);
      const double y = y_ + kLegendRow * static_cast<double>(i / kLegendColumns);
      body_ += rect(entries[i].style, x, y, 12, 12) + "\n";
      body_ += words(x + 18, y + 10, entries[i].words);
    }
    y_ += kLegendRow * static_cast<double>((entries.size() + kLegendColumns - 1) / kLegendColumns) +
          kGap;
  }

  const ObjectMap& map_;
  std::string body_;
  double y_ = 0;  // where the next thing goes
};

}  // namespace

std::string xml_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&apos;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= ' ' || c == '\t' || c == '\n') out += c;
        break;
    }
  }
  return out;
}

std::string map_svg(const ObjectMap& map) {
  return Picture(map).text();
}

}  // namespace faultline::ctl
