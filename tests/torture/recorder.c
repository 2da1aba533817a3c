/* Preloaded by test_power.py: keeps a record of everything that changes files below RECORD_DIR, in the order in which it
 * was done, in the file RECORD. The test makes of it what a disk would hold if the power went at any point.
 *
 * A record: one letter, the length of the path (4 bytes), an offset (8), the length of the data (8), path, data.
 * W write, T truncate (to the offset), S sync (a file or a directory), C create, U unlink, R rename (to the data).
 * A sync is recorded when it has returned, everything else too: what is done while a sync runs counts as not synced. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 1024
static char *paths[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *watched(const char *path) {
    const char *root = getenv("RECORD_DIR");
    size_t length = root ? strlen(root) : 0;
    if (!root || !path || strncmp(path, root, length) != 0) return NULL;
    return path[length] == '/' || path[length] == 0 ? path : NULL;
}

static void record(char kind, const char *path, uint64_t offset, const void *data, uint64_t size) {
    static int file = -1;
    uint32_t length = strlen(path);
    char *buffer = malloc(21 + length + size);
    buffer[0] = kind;
    memcpy(buffer + 1, &length, 4);
    memcpy(buffer + 5, &offset, 8);
    memcpy(buffer + 13, &size, 8);
    memcpy(buffer + 21, path, length);
    if (size) memcpy(buffer + 21 + length, data, size);
    pthread_mutex_lock(&lock);
    if (file < 0) file = REAL(open)(getenv("RECORD"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (REAL(write)(file, buffer, 21 + length + size) < 0) abort();
    pthread_mutex_unlock(&lock);
    free(buffer);
}

static const char *path_of(int file) { return file >= 0 && file < FILES ? paths[file] : NULL; }

static int opened(int file, const char *path, int flags, int existed) {
    if (file < 0 || file >= FILES || !watched(path)) return file;
    free(paths[file]);
    paths[file] = strdup(path);
    if ((flags & O_CREAT) && !existed) record('C', path, 0, NULL, 0);
    if ((flags & O_TRUNC) && existed) record('T', path, 0, NULL, 0);
    return file;
}

static int exists(const char *path) { return access(path, F_OK) == 0; }

#define OPEN(name)                                                       \
    int name(const char *path, int flags, ...) {                         \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                    \
        int existed = exists(path);                                      \
        return opened(REAL(name)(path, flags, mode), path, flags, existed); \
    }
OPEN(open)
OPEN(open64)

int openat(int directory, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int existed = exists(path);
    return opened(REAL(openat)(directory, path, flags, mode), path, flags, existed);
}

int close(int file) {
    if (path_of(file)) { free(paths[file]); paths[file] = NULL; }
    return REAL(close)(file);
}

#define PWRITE(name, type)                                                    \
    ssize_t name(int file, const void *data, size_t size, type offset) {      \
        ssize_t done = REAL(name)(file, data, size, offset);                  \
        if (done > 0 && path_of(file)) record('W', path_of(file), offset, data, done); \
        return done;                                                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t size) {
    if (!path_of(file)) return REAL(write)(file, data, size);
    off_t offset = lseek(file, 0, SEEK_CUR);
    ssize_t done = REAL(write)(file, data, size);
    if (done > 0) record('W', path_of(file), offset, data, done);
    return done;
}

#define TRUNCATE(name, type)                                                  \
    int name(int file, type size) {                                           \
        int result = REAL(name)(file, size);                                  \
        if (!result && path_of(file)) record('T', path_of(file), size, NULL, 0); \
        return result;                                                        \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                            \
    int name(int file) {                                                      \
        int result = REAL(name)(file);                                        \
        if (!result && path_of(file)) record('S', path_of(file), 0, NULL, 0); \
        return result;                                                        \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (!result && watched(path)) record('U', path, 0, NULL, 0);
    return result;
}

int rename(const char *from, const char *to) {
    int result = REAL(rename)(from, to);
    if (!result && watched(from)) record('R', from, 0, to, strlen(to));
    return result;
}
