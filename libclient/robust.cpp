// The C interface for locks that outlive their owner: makes a thread's list. Must never be needed
// by a lock that finds its thread's list there.
#include "faultline/faultline.h"
#include "libclient/failure.hpp"
#include "libclient/fork.hpp"
#include "libclient/thread_records.hpp"

using faultline::client::MyRecord;

extern "C" {

int fl_robust_begin(void) {
  return faultline::client::guarded([] {
    if (fl_robust_self.list != nullptr) return;
    const MyRecord& mine = faultline::client::my_known_record();
    fl_robust_self.list = reinterpret_cast<fl_robust_list*>(&mine.record->robust);
  });
}

}  // extern "C"
