/* A client that goes on through an upgrade: fills memory, says "ready", waits for a line, and then
 * tells what it still has, and what its connection says. Usage: reader FILE     FILE: of two pages
 * at least, to be behind an object */
#include <errno.h>
#include <faultline/faultline.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { page = 4096 };
static sigjmp_buf after_fault;

static void fault(int signal) {
  (void)signal;
  siglongjmp(after_fault, 1);
}

static char* map(fl_client* client, fl_object_spec* spec, uint32_t how) {
  fl_object* object = NULL;
  void* memory = NULL;
  if (fl_object_create(client, spec, &object) != 0 ||
      fl_map(object, 0, 2 * page, how | FL_MAP_WRITE, &memory) != 0) {
    fprintf(stderr, "%s\n", fl_last_error());
    return NULL;
  }
  return memory;
}

int main(int argc, char** argv) {
  fl_client* client = NULL;
  fl_object_spec zeroes = {.struct_size = sizeof zeroes, .size = 2 * page, .mode = 0600};
  fl_object_spec file = zeroes;
  file.flags = FL_FROM_FILE;
  file.file_fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
  if (file.file_fd < 0 || fl_connect(NULL, &client) != 0) {
    fprintf(stderr, "reader: %s\n", argc == 2 ? fl_last_error() : "which file?");
    return 1;
  }
  char* shared = map(client, &zeroes, FL_MAP_SHARED);
  char* private = map(client, &file, FL_MAP_PRIVATE);
  if (shared == NULL || private == NULL) return 1;
  strcpy(shared, "shared");
  private[0] = 'p';
  printf("ready\n");
  fflush(stdout);
  if (getchar() == EOF) return 1;

  printf("memory: %s, %c\n", shared, private[0]);
  strcpy(shared, "written");
  printf("store: %s\n", shared);
  struct sigaction act = {.sa_handler = fault};
  sigaction(SIGBUS, &act, NULL);
  if (sigsetjmp(after_fault, 1) == 0) {
    volatile char* untouched = private + page;
    printf("the file's page: %c\n", *untouched);
  } else {
    printf("the file's page: SIGBUS\n");
  }
  fl_stats stats;
  const int asked = fl_process_stats(client, &stats);
  printf("connection: %s\n", asked == 0 ? "there" : asked == -EPIPE ? "EPIPE" : "another error");
  return 0;
}
