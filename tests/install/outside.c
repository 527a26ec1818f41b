/* Uses the installed C interface as strict C11. */
#include <faultline/faultline.h>
#include <stdio.h>

int main(void) {
  fl_client *client = NULL;
  fl_object *object = NULL;
  fl_object_spec spec = {.struct_size = sizeof(spec), .size = 8192, .mode = 0600};
  void *memory = NULL;
  if (fl_connect(NULL, &client) != 0 || fl_object_create(client, &spec, &object) != 0 ||
      fl_map(object, 0, 8192, FL_MAP_SHARED | FL_MAP_WRITE, &memory) != 0) {
    fprintf(stderr, "%s\n", fl_last_error());
    return 1;
  }
  ((char *)memory)[4096] = 'x';
  if (fl_unmap(client, memory, 8192) != 0 || fl_object_close(object) != 0) return 1;
  printf("faultline %s works\n", fl_version());
  return fl_disconnect(client) == 0 ? 0 : 1;
}
