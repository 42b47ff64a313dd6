//! A clock that is wrong on demand, for one process: a library that is loaded before the C library.

use std::path::PathBuf;
use std::time::Duration;

use super::preload::Preload;

/// What the library does: it looks into its control file now and then, for the seconds by which the
/// wall clock is wrong and for the parts in a thousand by which it runs too fast. Clocks that measure
/// spans of time are left alone.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef int (*get_time)(clockid_t, struct timespec *);

static int real(clockid_t id, struct timespec *ts) {
  static get_time next;
  if (!next) next = (get_time)dlsym(RTLD_NEXT, "clock_gettime");
  return next(id, ts);
}

/* The control file: "seconds fast since", since when it runs too fast. */
static void shift(struct timespec *ts) {
  const char *path = getenv("TANDEM_CLOCK_FAULT");
  char text[96] = {0};
  int fd = path ? open(path, O_RDONLY) : -1;
  if (fd < 0) return;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  double seconds = 0, fast = 0, since = 0;
  if (n <= 0 || sscanf(text, "%lf %lf %lf", &seconds, &fast, &since) < 1) return;
  double now = ts->tv_sec + ts->tv_nsec / 1e9;
  double moved = seconds + (now - since) * fast / 1000;
  long long whole = (long long)moved;
  long long nanos = ts->tv_nsec + (long long)((moved - whole) * 1e9);
  ts->tv_sec += whole;
  while (nanos < 0) { nanos += 1000000000; ts->tv_sec--; }
  while (nanos >= 1000000000) { nanos -= 1000000000; ts->tv_sec++; }
  ts->tv_nsec = nanos;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
  int result = real(id, ts);
  if (result == 0 && id == CLOCK_REALTIME) shift(ts);
  return result;
}

int gettimeofday(struct timeval *tv, void *zone) {
  struct timespec ts;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &ts)) return -1;
  tv->tv_sec = ts.tv_sec;
  tv->tv_usec = ts.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec ts;
  if (clock_gettime(CLOCK_REALTIME, &ts)) return -1;
  if (at) *at = ts.tv_sec;
  return ts.tv_sec;
}
"#;

/// The library, built, and its control file.
pub(crate) struct ClockFault(Preload);

impl ClockFault {
    pub(crate) fn build() -> Self {
        let fault = Self(Preload::build(SOURCE, "TANDEM_CLOCK_FAULT"));
        fault.set(0, 0);
        fault
    }

    /// Variables of the process that is to have such a clock.
    pub(crate) fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        self.0.variables()
    }

    /// From now on the clock is wrong by so many seconds, and gains so many parts in a thousand.
    pub(crate) fn set(&self, seconds: i64, gains: i64) {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        self.0
            .say(&format!("{seconds} {gains} {}", since.as_secs_f64()));
    }
}
