/* Stands between a process and the C library's writing calls: the n-th one under a folder fails as it is told to.

   Loaded through LD_PRELOAD; does nothing until fault_arm is called. SQLite's calls come by here as Python's do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static long counted, fails_at = -1;
static int error_number; /* 0: a write stops half-way, and the next one finds no room */
static int full_handle = -1;

void fault_arm(const char *path, long at, int number) {
    strncpy(folder, path, sizeof folder - 1);
    counted = 0;
    error_number = number;
    fails_at = at;
}

long fault_counted(void) { return counted; }

static int below(const char *path) { return folder[0] && strncmp(path, folder, strlen(folder)) == 0; }

static int handle_below(int handle) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = folder[0] ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int due(void) { return __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST) == fails_at; }

static int refuse(void) {
    errno = error_number ? error_number : ENOSPC;
    return -1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITING(name, parameters, whole, half) \
    ssize_t name parameters { \
        REAL(name); \
        if (handle_below(handle)) { \
            if (handle == full_handle) { full_handle = -1; return refuse(); } \
            if (due()) { \
                if (error_number || size < 2) return refuse(); \
                full_handle = handle; \
                return half; \
            } \
        } \
        return whole; \
    }

WRITING(write, (int handle, const void *data, size_t size), real(handle, data, size), real(handle, data, size / 2))
WRITING(pwrite, (int handle, const void *data, size_t size, off_t at), real(handle, data, size, at),
        real(handle, data, size / 2, at))
WRITING(pwrite64, (int handle, const void *data, size_t size, off64_t at), real(handle, data, size, at),
        real(handle, data, size / 2, at))

#define SYNCING(name) \
    int name(int handle) { \
        REAL(name); \
        return handle_below(handle) && due() ? refuse() : real(handle); \
    }

SYNCING(fsync)
SYNCING(fdatasync)

int ftruncate64(int handle, off64_t size) {
    REAL(ftruncate64);
    return handle_below(handle) && due() ? refuse() : real(handle, size);
}

int ftruncate(int handle, off_t size) {
    REAL(ftruncate);
    return handle_below(handle) && due() ? refuse() : real(handle, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && due() ? refuse() : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return below(path) && due() ? refuse() : real(path);
}

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && below(path) && due()) return refuse(); \
        return real(path, flags, mode); \
    }

OPENING(open)
OPENING(open64)
