/* Preloaded into a hub by test_faults.py: once the file named by FAIL_FLAG exists, syncing a file whose path ends with its
 * content fails with EIO, as a disk that died does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int must_fail(int descriptor) {
    char link[64], path[4096], wanted[256];
    const char *flag = getenv("FAIL_FLAG");
    int file = flag ? open(flag, O_RDONLY) : -1;
    if (file < 0) return 0;
    ssize_t length = read(file, wanted, sizeof wanted - 1);
    close(file);
    if (length <= 0) return 0;
    wanted[length] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    size_t end = strlen(wanted);
    return (size_t)length >= end && strcmp(path + length - end, wanted) == 0;
}

int fsync(int descriptor) {
    if (must_fail(descriptor)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    if (must_fail(descriptor)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
