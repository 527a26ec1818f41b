// What programs share with each other in memory, not through the library's functions: the types of
// sync.hpp, laid out by each program's compiler. Compiled by scripts/abi alone, so that their
// layout can be compared; never linked.
#include <faultline/sync.hpp>

extern "C" __attribute__((visibility("default"))) void shared_types(faultline::mutex*,
                                                                    faultline::condition_variable*,
                                                                    faultline::semaphore*,
                                                                    faultline::event_count*) {}
