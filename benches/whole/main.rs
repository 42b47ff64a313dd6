//! The whole program, measured beside native replication: real servers, real sidecars, one machine.
//!
//! `make bench` runs it with everything; `make bench BENCH_ARGS="--quick"` in some minutes.
//! Each row is measured for Tandem and for a native replica in turn, round after round, with
//! processes started anew each time, so that what else the machine does falls on both. The table
//! goes to the terminal and, with a picture and how each row is measured, into the document.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of threads that paces itself by sleeping, and whose product is its output"
)]

mod load;
mod machine;
mod pair;
mod plot;
mod process;
mod proxy;
mod report;
mod rows;
mod wire;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;

use pair::{Arm, Programs};
use report::Samples;
use rows::{Bench, ROWS, Row};

/// What `--quick` does to the sizes.
const QUICK_SCALE: f64 = 0.02;

/// What a record costs, and how that grows: what the rows alone do not say.
const COST_MODEL: &str = include_str!("model.md");

/// Measures Tandem against native replication.
#[derive(Debug, Parser)]
struct Args {
    /// How often each row is measured for each of the two.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Multiplies all numbers of writes and keys.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seconds of the rows that run for a time.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only these rows, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A smoke run: one round, small sizes.
    #[arg(long)]
    quick: bool,
    /// Says which rows there are.
    #[arg(long)]
    list: bool,
    /// Where performance.md and performance.svg are written.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))]
    out: PathBuf,
    /// The program to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tandem"))]
    tandem: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        args.rounds = 1;
        args.scale *= QUICK_SCALE;
        args.seconds = args.seconds.min(2);
    }
    if args.list {
        for row in ROWS {
            println!("{:12} {}", row.name, row.how);
        }
        return Ok(());
    }
    let known = |name: &String| ROWS.iter().any(|row| row.name == name);
    ensure!(
        args.only.iter().all(known),
        "--list says which rows there are"
    );
    ensure!(args.rounds > 0 && args.scale > 0.0, "nothing to measure");
    let bench = Bench {
        programs: Programs {
            server: process::server_binary()?,
            tandem: args.tandem.clone(),
        },
        scale: args.scale,
        seconds: args.seconds,
    };
    let wanted = |row: &&Row| args.only.is_empty() || args.only.iter().any(|n| n == row.name);
    let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    let mut samples = Samples::default();
    let mut failures = Vec::new();
    for row in &rows {
        for round in 1..=args.rounds {
            for arm in [Arm::Native, Arm::Tandem] {
                let start = Instant::now();
                samples.begin(row.name, arm);
                let result = (row.run)(&bench, arm, &mut samples);
                let seconds = start.elapsed().as_secs_f64();
                println!(
                    "{} {round}/{} {arm:?}: {seconds:.1} s",
                    row.name, args.rounds
                );
                if let Err(error) = result {
                    println!("{}: {error:#}", row.name);
                    failures.push(format!("{}, round {round}, {arm:?}: {error:#}", row.name));
                }
            }
        }
    }
    let table = report::table(&samples);
    println!("\n{table}");
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("performance.svg"), plot::svg(&samples))?;
    let missed = missed(&rows, &samples)?;
    println!("{missed}");
    let text = document(&args, &bench, &rows, &[table, missed], &failures)?;
    fs::write(args.out.join("performance.md"), text)?;
    ensure!(failures.is_empty(), "{} runs failed", failures.len());
    Ok(())
}

/// What was missed, by how much, and what is in the way.
fn missed(rows: &[&Row], samples: &Samples) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        let missed = samples.missed(row.name);
        if missed.is_empty() {
            continue;
        }
        writeln!(text, "**{}**\n", row.name)?;
        for line in missed {
            writeln!(text, "- {line}")?;
        }
        writeln!(text, "\n{}\n", row.in_the_way)?;
    }
    Ok(text)
}

/// The whole document.
fn document(
    args: &Args,
    bench: &Bench,
    rows: &[&Row],
    [table, missed]: &[String; 2],
    failures: &[String],
) -> Result<String> {
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    let mut text = format!(
        "# Performance\n\nWritten by `make bench`; do not edit. Rounds: {}, scale: {}, seconds: \
         {}, rows: {}.\n\n{}\n",
        args.rounds,
        args.scale,
        args.seconds,
        names.join(", "),
        machine::describe(&bench.programs.server)?,
    );
    text.push_str(
        "Tandem and a native replica of the same server take turns, on one machine with the load \
         and both servers, everything started anew each time. Cells are medians with the least \
         and the most of the rounds; the ratio is that of the medians, Tandem over native.\n\n",
    );
    text.push_str(table);
    text.push_str("\n![Tandem over native replication](performance.svg)\n");
    if !missed.is_empty() {
        text.push_str("\n## What is missed, and what is in the way\n\n");
        text.push_str(missed.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(COST_MODEL);
    if !failures.is_empty() {
        text.push_str("\n## What failed\n\n");
        for failure in failures {
            writeln!(text, "- {failure}")?;
        }
    }
    text.push_str("\n## How each row is measured\n\n");
    for row in rows {
        writeln!(text, "- **{}**: {}", row.name, row.how)?;
    }
    Ok(text)
}
