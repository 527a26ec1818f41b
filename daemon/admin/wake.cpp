#include "daemon/admin/wake.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string>

#include "daemon/admin/report.hpp"

namespace faultline::admin {

namespace {

Result<int> wake_at_object(const wire::WakeRequest& request, int count, memory::Credentials who,
                           const memory::ObjectDirectory& objects, wait::WaitService& waits) {
  const std::string what = "object " + std::to_string(request.key.id);
  const auto object = objects.find(ObjectId{request.key.id});
  if (!object || !shown_to(who.uid, *object, objects)) {
    return fail(ENOENT, "waking at " + what + ", which is none that you may see");
  }
  const bool allowed =
      sees_all(who.uid) || who.uid == object->uid() ||
      (objects.linked(*object) && memory::allows(*object, memory::Access::read_write, who));
  if (!allowed) return fail(EACCES, "waking at " + what + ", which you may not write to");
  if (request.key.offset >= object->size().value()) {
    return fail(EINVAL, "waking at byte " + std::to_string(request.key.offset) + " of " + what +
                            ", which has " + std::to_string(object->size().value()));
  }
  return waits.wake(*object, ByteCount{request.key.offset}, count);
}

}  // namespace

Result<int> wake(const wire::WakeRequest& request, memory::Credentials who,
                 const memory::ObjectDirectory& objects, wait::WaitService& waits) {
  if (request.count == 0) return fail(EINVAL, "waking none of those who wait");
  const int count = static_cast<int>(std::min<std::uint32_t>(request.count, INT_MAX));
  std::optional<uid_t> only_of;
  if (!sees_all(who.uid)) only_of = who.uid;
  switch (request.key.kind) {
    case wire::KeyKind::object:
      return wake_at_object(request, count, who, objects, waits);
    case wire::KeyKind::space:
      return waits.wake(only_of, SpaceId{request.key.id}, Vaddr{request.key.offset}, count);
    case wire::KeyKind::frame:
      return waits.wake(only_of, space::FrameId{request.key.id}, request.key.offset, count);
  }
  return fail(EINVAL, "waking by an unknown kind of key");
}

}  // namespace faultline::admin
