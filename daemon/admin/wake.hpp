// Wakes who waits for a word, when somebody asks from outside. Must never wake for a user whom he
// could not wake by a program of his own: whose the process is may wake at its private words, and
// whose the object is, or who may open it by its name for reading and writing, at the object's.
// Root and the daemon's own user may all.
//
// May wait for words that move: not for the control thread.
#pragma once

#include "daemon/memory/object_directory.hpp"
#include "daemon/wait/wait_service.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::admin {

// Returns how many were woken. Errors: EINVAL an unknown kind of key, nobody to wake, a word past
// the object's end; ENOENT no such object that he may see; EACCES it is read-only for him; ESRCH no
// such address space that he may see, or one that has no channel; EBUSY as WaitService::wake.
Result<int> wake(const wire::WakeRequest& request, memory::Credentials who,
                 const memory::ObjectDirectory& objects, wait::WaitService& waits);

}  // namespace faultline::admin
