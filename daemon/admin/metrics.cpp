#include "daemon/admin/metrics.hpp"

#include <sys/resource.h>

#include <array>
#include <utility>

namespace faultline::admin {

namespace {

using Families = std::vector<MetricFamily>;
using Labels = MetricSample::Labels;

constexpr std::array kAccess{"read", "write"};
constexpr std::array kFaultKinds{"missing", "minor", "write_protect", "beacon"};
constexpr std::array kResults{"installed", "already_present", "discarded",
                              "error",     "deferred",        "waits"};
constexpr std::array kSources{"demand", "fault_around", "ahead_copy", "populate"};
constexpr std::array kWaitEnds{"woken", "timed_out", "cancelled", "changed", "ended"};
constexpr std::array kFallbacks{"absent", "not_own", "not_known", "budget"};
constexpr std::array kVerdicts{"unmapped", "discarded", "moved"};
static_assert(kFaultKinds.size() == space::kFaultClasses && kAccess.size() == space::kReadOrWrite &&
              kResults.size() == space::kFaultResults && kSources.size() == space::kPageSources &&
              kWaitEnds.size() == wait::kWaitEnds && kFallbacks.size() == wire::kPinFallbacks &&
              kVerdicts.size() == pin::kPinVerdicts);

MetricFamily& add(Families& families, MetricType type, std::string name, std::string unit,
                  std::string help) {
  return families.emplace_back(
      MetricFamily{std::move(name), type, std::move(unit), std::move(help), {}});
}
MetricFamily& counter(Families& families, std::string name, std::string help) {
  return add(families, MetricType::counter, std::move(name), "", std::move(help));
}
void gauge(Families& families, std::string name, std::string unit, std::string help,
           MetricSample::Value value) {
  add(families, MetricType::gauge, std::move(name), std::move(unit), std::move(help))
      .samples.push_back({{}, value});
}
void sample(MetricFamily& family, Labels labels, MetricSample::Value value) {
  family.samples.push_back({std::move(labels), value});
}
// One sample for each value of one label.
template <typename Names, typename Values>
void samples(MetricFamily& family, const char* label, const Names& names, const Values& values) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    sample(family, {{label, names.at(i)}}, values.at(i));
  }
}

// Whether a fault of the class can be so: of write-protection, by a write alone.
bool possible(std::size_t fault, std::size_t write) {
  return fault != static_cast<std::size_t>(space::FaultClass::write_protect) || write == 1;
}

void faults(Families& families, const space::FaultTotals& totals) {
  MetricFamily raised = MetricFamily{"faultline_faults",
                                     MetricType::counter,
                                     "",
                                     "Page faults that were read from clients' userfaultfds.",
                                     {}};
  MetricFamily answers = MetricFamily{"faultline_fault_answers",
                                      MetricType::counter,
                                      "",
                                      "What became of faults, each time one was looked at.",
                                      {}};
  MetricFamily latency =
      MetricFamily{"faultline_fault_duration_seconds",
                   MetricType::histogram,
                   "seconds",
                   "From when a fault was read until its batch was answered, of faults that are.",
                   {}};
  for (std::size_t fault = 0; fault < kFaultKinds.size(); ++fault) {
    for (std::size_t write = 0; write < kAccess.size(); ++write) {
      if (!possible(fault, write)) continue;
      const Labels labels{{"kind", kFaultKinds.at(fault)}, {"access", kAccess.at(write)}};
      sample(raised, labels, totals.raised.at(fault).at(write));
      for (std::size_t result = 0; result < kResults.size(); ++result) {
        Labels with_result = labels;
        with_result.emplace_back("result", kResults.at(result));
        sample(answers, std::move(with_result), totals.answers.at(fault).at(write).at(result));
      }
    }
    sample(latency, {{"kind", kFaultKinds.at(fault)}}, totals.latency.at(fault));
  }
  families.push_back(std::move(raised));
  families.push_back(std::move(answers));
  families.push_back(std::move(latency));
  samples(counter(families, "faultline_pages_installed",
                  "Pages put into clients' page tables, by who asked for them."),
          "source", kSources, totals.pages);
  sample(counter(families, "faultline_cow_breaks", "Private pages that parted from their object."),
         {}, totals.breaks);
  sample(counter(families, "faultline_poisoned_pages",
                 "Pages that could not be supplied: SIGBUS in the client."),
         {}, totals.poisoned);
  gauge(families, "faultline_faults_waiting", "", "Faults that wait for their page to be read.",
        totals.waiting());
  gauge(families, "faultline_faults_deferred", "",
        "Faults that wait for an event to end, or for memory.", totals.deferred());
}

void reclamation(Families& families, const epoch::Domain::Status& status) {
  sample(add(families, MetricType::histogram, "faultline_grace_period_duration_seconds", "seconds",
             "How long grace periods of the epoch domains took."),
         {}, status.grace);
  sample(counter(families, "faultline_reclaimed", "Callbacks that ran after a grace period."), {},
         status.callbacks_run);
  gauge(families, "faultline_reclaim_pending", "", "Callbacks that wait for a grace period.",
        std::uint64_t{status.pending});
  gauge(families, "faultline_oldest_reader_seconds", "seconds",
        "How long a grace period has been waiting for a reader; 0 where none does.",
        Seconds{status.oldest_section});
}

void waits(Families& families, const wait::WaitService::Counts& counts) {
  sample(counter(families, "faultline_waits", "Waits that the daemon began to keep for clients."),
         {}, counts.totals.begun);
  samples(counter(families, "faultline_wait_ends", "How waits that the daemon kept ended."),
          "outcome", kWaitEnds, counts.totals.ended);
  gauge(families, "faultline_waits_kept", "", "Waits that the daemon keeps.",
        std::uint64_t{counts.kept});
  gauge(families, "faultline_channels", "", "Address spaces that have a channel.",
        std::uint64_t{counts.clients});
}

void pins(Families& families, const pin::PinTotals& totals) {
  MetricFamily& had = counter(families, "faultline_pins",
                              "Pins, as the processes that pin say: had without the "
                              "daemon, or asked for.");
  sample(had, {{"path", "had"}}, totals.said.fast);
  sample(had, {{"path", "asked"}}, totals.said.slow);
  samples(counter(families, "faultline_pin_fallbacks",
                  "Why pins were asked for, as the processes that pin say."),
          "reason", kFallbacks, totals.said.fallbacks);
  samples(counter(families, "faultline_pin_verdicts",
                  "Pieces of pins whose memory was unmapped, discarded or moved."),
          "verdict", kVerdicts, totals.verdicts);
  sample(counter(families, "faultline_pin_grants", "How often a process was let pin more."), {},
         totals.grants);
  gauge(families, "faultline_pin_ledgers", "", "Processes that have a ledger of pins.",
        std::uint64_t{totals.ledgers});
  gauge(families, "faultline_pin_granted_bytes", "bytes", "What processes were let pin.",
        totals.granted.value());
}

void memory_and_eviction(Families& families, const MetricSources& from) {
  std::uint64_t resident = 0;
  std::uint64_t objects = 0;
  std::uint64_t failed_fills = 0;
  for (const auto& object : from.objects.all()) {
    ++objects;
    resident += object->resident().value();
    failed_fills += object->failed_fills();
  }
  gauge(families, "faultline_objects", "", "Memory objects.", objects);
  gauge(families, "faultline_object_resident_bytes", "bytes", "Memory that objects take.",
        resident);
  gauge(families, "faultline_failed_fills", "",
        "Reads of pages from files or the swap file that failed, of objects that live.",
        failed_fills);
  const memory::SwapFile* const swap = from.objects.swap();
  gauge(families, "faultline_swapped_bytes", "bytes", "What is in the swap file.",
        swap == nullptr ? 0 : swap->used().value());
  gauge(families, "faultline_swap_limit_bytes", "bytes",
        "How large the swap file may grow; 0 without one.",
        swap == nullptr ? 0 : swap->limit().value());

  const memory::EvictionCounts evicted = from.evictor.totals();
  MetricFamily& pages = counter(families, "faultline_eviction_pages",
                                "Pages that were asked to leave memory, by what became of them.");
  const std::array<std::pair<const char*, std::uint64_t>, 7> fates{
      {{"evicted", evicted.evicted},
       {"referenced", evicted.referenced},
       {"pinned", evicted.pinned},
       {"dirty", evicted.dirty},
       {"busy", evicted.busy},
       {"swap_full", evicted.swap_full},
       {"failed", evicted.failed}}};
  for (const auto& [fate, count] : fates) sample(pages, {{"result", fate}}, count);
  sample(
      counter(families, "faultline_swapped_out_pages", "Pages that were written to the swap file."),
      {}, evicted.swapped);
}

void clients(Families& families, const MetricSources& from, const space::SpaceTotals& spaces,
             const pin::PinTotals& pins, std::size_t waiting_letters) {
  gauge(families, "faultline_sessions", "", "Connections.",
        std::uint64_t{from.connections.sessions.load(std::memory_order_relaxed)});
  gauge(families, "faultline_spaces", "", "Address spaces that are served.",
        std::uint64_t{spaces.spaces});
  gauge(families, "faultline_workers", "", "Fault workers.", std::uint64_t{spaces.workers});
  MetricFamily& letters = add(families, MetricType::gauge, "faultline_mailbox_letters", "",
                              "Letters that workers have not read yet.");
  sample(letters, {{"worker", "fault"}}, std::uint64_t{spaces.letters});
  sample(letters, {{"worker", "wait"}}, std::uint64_t{waiting_letters});

  const auto objects = from.objects.refusals();
  MetricFamily& refusals =
      counter(families, "faultline_refusals", "How often somebody was refused because of a limit.");
  const std::array<std::pair<const char*, std::uint64_t>, 9> limits{{
      {"max_sessions", from.connections.refused_of_all.value()},
      {"max_sessions_per_user", from.connections.refused_of_user.value()},
      {"max_spaces_per_user", spaces.refused_spaces},
      {"users", spaces.refused_users},
      {"max_objects", objects.max_objects},
      {"max_object_bytes", objects.max_object_bytes},
      {"max_pinned_per_process", pins.refused_process},
      {"max_pinned_per_user", pins.refused_user},
      {"max_pinned", pins.refused_total},
  }};
  for (const auto& [limit, count] : limits) sample(refusals, {{"limit", limit}}, count);
}

void process(Families& families, const MetricSources& from) {
  sample(add(families, MetricType::info, "faultline_build", "", "Which faultlined this is."),
         {{"version", FAULTLINE_VERSION}}, std::uint64_t{1});
  gauge(families, "faultline_start_time_seconds", "seconds",
        "When it started, in seconds since 1970.", Seconds{from.started.time_since_epoch()});
  rusage used{};
  (void)::getrusage(RUSAGE_SELF, &used);
  const auto of = [](const timeval& time) {
    return std::chrono::seconds{time.tv_sec} + std::chrono::microseconds{time.tv_usec};
  };
  MetricFamily& cpu = add(families, MetricType::counter, "faultline_cpu_seconds", "seconds",
                          "Processor time of the daemon.");
  sample(cpu, {{"mode", "user"}}, Seconds{of(used.ru_utime)});
  sample(cpu, {{"mode", "system"}}, Seconds{of(used.ru_stime)});
}

}  // namespace

Families gather(const MetricSources& sources) {
  Families families;
  const space::SpaceTotals spaces = sources.spaces.totals();
  const wait::WaitService::Counts counts = sources.waits.counts();
  const pin::PinTotals pinned = sources.pins.totals();
  process(families, sources);
  faults(families, spaces.faults);
  reclamation(families, spaces.reclamation);
  waits(families, counts);
  pins(families, pinned);
  memory_and_eviction(families, sources);
  clients(families, sources, spaces, pinned, counts.letters);
  return families;
}

}  // namespace faultline::admin
