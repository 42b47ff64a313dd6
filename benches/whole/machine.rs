//! The machine, as the document names it.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::Result;

use crate::process;

/// A list of what matters for the figures.
pub(crate) fn describe(server: &Path) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let cores = thread::available_parallelism()?;
    Ok(format!(
        "- Processor: {model}, {cores} cores\n- Kernel: {}\n- Server: {}\n- Load average at the \
         end of the run, that of the benchmark included: {}\n",
        kernel.trim(),
        process::version(server)?,
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    ))
}
