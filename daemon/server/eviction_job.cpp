#include "daemon/server/eviction_job.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

namespace faultline::server {

namespace {

namespace asio = boost::asio;

class EvictionJob final : public std::enable_shared_from_this<EvictionJob> {
 public:
  EvictionJob(asio::thread_pool& helper, space::Evictor& evictor, std::vector<PagesOfObject> pages,
              memory::WhichPages which, std::function<void(const memory::EvictionCounts&)> done)
      : helper_(helper),
        evictor_(evictor),
        left_(std::move(pages)),
        which_(which),
        done_(std::move(done)) {}

  void step_soon() {
    asio::post(helper_, [self = shared_from_this()] { self->step(); });
  }

 private:
  void step() {
    if (left_.empty() || evictor_.stopped()) return done_(counts_);
    PagesOfObject& now = left_.back();
    advance(now, now.object->run_of_holes(now.first, now.count));
    const PageCount batch = std::min(now.count, space::Evictor::kBatch);
    if (batch > PageCount{0}) {
      counts_ += evictor_.evict(now.object, now.first, batch, which_);
      advance(now, batch);
    }
    if (now.count == PageCount{0}) left_.pop_back();
    step_soon();
  }
  static void advance(PagesOfObject& pages, PageCount by) {
    pages.first = pages.first + by;
    pages.count = pages.count - by;
  }

  asio::thread_pool& helper_;
  space::Evictor& evictor_;
  std::vector<PagesOfObject> left_;
  const memory::WhichPages which_;
  const std::function<void(const memory::EvictionCounts&)> done_;
  memory::EvictionCounts counts_;
};

}  // namespace

void evict(asio::thread_pool& helper, space::Evictor& evictor, std::vector<PagesOfObject> pages,
           memory::WhichPages which, std::function<void(const memory::EvictionCounts&)> done) {
  std::make_shared<EvictionJob>(helper, evictor, std::move(pages), which, std::move(done))
      ->step_soon();
}

}  // namespace faultline::server
