/* Preloaded into a hub by the tests of faults. Once the file named by FAIL_FLAG exists:
 *   its content is a path's end: syncing such a file fails with EIO, as a disk that died does;
 *   its content is "write NUMBER PART": writing to a file whose path holds PART fails with that errno. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* What the flag says, and the path of a descriptor; 0 where there is no flag or no path. */
static int look(int descriptor, char *wanted, size_t size, char *path, size_t path_size) {
    char link[64];
    const char *flag = getenv("FAIL_FLAG");
    int file = flag ? open(flag, O_RDONLY) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, wanted, size - 1);
    close(file);
    if (length <= 0) return 0;
    wanted[length] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, path_size - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return 1;
}

static int must_fail(int descriptor) {
    char wanted[256], path[4096];
    if (!look(descriptor, wanted, sizeof wanted, path, sizeof path) || !strncmp(wanted, "write ", 6)) return 0;
    size_t end = strlen(wanted), length = strlen(path);
    return length >= end && strcmp(path + length - end, wanted) == 0;
}

/* The errno with which a write fails; 0: it does not. */
static int write_fails(int descriptor) {
    char wanted[256], path[4096], part[200];
    int number;
    if (descriptor < 3 || !look(descriptor, wanted, sizeof wanted, path, sizeof path)) return 0;
    if (sscanf(wanted, "write %d %199s", &number, part) != 2 || !strstr(path, part)) return 0;
    return number;
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    int number = write_fails(descriptor);
    if (number) { errno = number; return -1; }
    return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(descriptor, data, size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    int number = write_fails(descriptor);
    if (number) { errno = number; return -1; }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(descriptor, data, size);
}

int fsync(int descriptor) {
    if (must_fail(descriptor)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    if (must_fail(descriptor)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
