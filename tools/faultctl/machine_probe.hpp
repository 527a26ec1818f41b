// What this machine offers, tried by this user: the kernel, userfaultfd, io_uring, limits. Must
// never need a daemon, and never change anything.
#pragma once

#include "tools/faultctl/finding.hpp"

namespace faultline::ctl {

// daemon_here: one was reached, so that what only a daemon needs is its own affair.
Findings probe_machine(bool daemon_here);

}  // namespace faultline::ctl
