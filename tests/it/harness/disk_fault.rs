//! A disk that fails on demand, for one process: a library that is loaded before the C library.

use std::path::PathBuf;

use super::preload::Preload;

/// What the library does: it looks into its control file at each call, which is few bytes in the page
/// cache. Only files of a journal are meant.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* What the control file says. */
static int control(char *text, size_t room) {
  const char *path = getenv("TANDEM_DISK_FAULT");
  int fd = path ? open(path, O_RDONLY) : -1;
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, room - 1);
  close(fd);
  text[n > 0 ? n : 0] = 0;
  return n > 0;
}

static int is(const char *word) {
  char text[32];
  return control(text, sizeof text) && strncmp(text, word, strlen(word)) == 0;
}

static int is_journal(int fd) {
  char link[64], path[512];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 4) return 0;
  path[n] = 0;
  return strcmp(path + n - 4, ".seg") == 0;
}

/* Counts the calls at a point of death, "before-write 7"; dies at the last of them. */
static int dies(const char *point, int *calls) {
  char text[32];
  size_t length = strlen(point);
  if (!control(text, sizeof text) || strncmp(text, point, length) != 0 || text[length] != ' ') return 0;
  return __sync_add_and_fetch(calls, 1) == atoi(text + length);
}

static void die(const char *point, int *calls) {
  if (dies(point, calls)) kill(getpid(), SIGKILL);
}

int fdatasync(int fd) {
  static int (*real)(int);
  static int before, after;
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  if (!is_journal(fd)) return real(fd);
  if (is("sync")) { errno = EIO; return -1; }
  if (is("slow")) usleep(500000);
  die("before-sync", &before);
  int result = real(fd);
  die("after-sync", &after);
  return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  static ssize_t (*real)(int, const void *, size_t, off64_t);
  if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  static int before, within, after;
  if (!is_journal(fd)) return real(fd, bytes, length, offset);
  if (is("readonly")) { errno = EROFS; return -1; }
  die("before-write", &before);
  if (dies("within-write", &within)) {
    real(fd, bytes, length / 2, offset);
    kill(getpid(), SIGKILL);
  }
  ssize_t result = real(fd, bytes, length, offset);
  die("after-write", &after);
  return result;
}
"#;

/// The library, built, and its control file.
pub(crate) struct DiskFault(Preload);

/// How the disk fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// What was written cannot be forced to it.
    Sync,
    /// That takes half a second.
    Slow,
    /// Nothing can be written any more.
    ReadOnly,
}

/// Where a process dies, as by a SIGKILL, that has such a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    BeforeWrite,
    /// Half of what it writes is in the file.
    WithinWrite,
    AfterWrite,
    BeforeSync,
    AfterSync,
}

impl DiskFault {
    pub(crate) fn build() -> Self {
        Self(Preload::build(SOURCE, "TANDEM_DISK_FAULT"))
    }

    /// Variables of the process that is to have such a disk.
    pub(crate) fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        self.0.variables()
    }

    /// From now on the disk fails like this.
    pub(crate) fn set(&self, fault: Fault) {
        let word = match fault {
            Fault::Sync => "sync",
            Fault::Slow => "slow",
            Fault::ReadOnly => "readonly",
        };
        self.0.say(word);
    }

    /// The process dies at this point, when it has come there so often from now on. It has not been
    /// told so before: it counts once in its life.
    pub(crate) fn kill_at(&self, point: Point, calls: u32) {
        let word = match point {
            Point::BeforeWrite => "before-write",
            Point::WithinWrite => "within-write",
            Point::AfterWrite => "after-write",
            Point::BeforeSync => "before-sync",
            Point::AfterSync => "after-sync",
        };
        self.0.say(&format!("{word} {calls}"));
    }

    /// From now on it does not.
    pub(crate) fn mend(&self) {
        self.0.say("fine");
    }
}
