// What kind of file system a file is on. Must never wait for it: statfs(2) would ask a server, and
// fstatfs(2) does so too, so this is for threads that may be lost.
#pragma once

namespace faultline::kernel {

// Whether its reads may wait for somebody else, a process or a server, and not only for a disk. A
// kind that is not known counts as one that may.
bool answers_by_others(int fd);

}  // namespace faultline::kernel
