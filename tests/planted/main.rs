//! The tests tested: mistakes planted into a copy of the code, one at a time, that the simulation must find.
//!
//! `cargo planted` plants every patch of `tests/planted`, `cargo planted NAME...` these, `cargo planted --draw 2` some
//! drawn at random; `--list` prints what each does. A patch changes deciding code in a way that could happen by mistake; the
//! first lines of its file describe it. It is planted into one copy of the tree below the target directory, where dependencies are
//! built already and only what differs is built again. Not here: switches for mistakes in the production code.

mod copy;
mod patch;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, ensure};

use copy::{Found, TreeCopy};
use patch::Patch;

struct Arguments {
    names: Vec<String>,
    draw: Option<usize>,
    lists: bool,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let arguments = Arguments::read(arguments)?;
    let patches = choose(Patch::all()?, &arguments)?;
    if arguments.lists {
        for patch in patches {
            println!("{}: {}", patch.name, patch.about);
        }
        return Ok(());
    }
    if arguments.draw.is_some() {
        let names: Vec<_> = patches.iter().map(|patch| patch.name.as_str()).collect();
        println!("drawn: {}", names.join(" "));
    }
    let copy = TreeCopy::new()?;
    let mut missed = Vec::new();
    for patch in &patches {
        let began = Instant::now();
        let found = copy.plant(patch)?;
        let took = began.elapsed().as_secs();
        match found {
            Found::Yes(what) => println!("{}: {what} ({took} s)", patch.name),
            Found::No => {
                println!("{}: NOT FOUND ({took} s): {}", patch.name, patch.about);
                missed.push(patch.name.as_str());
            }
        }
    }
    ensure!(
        missed.is_empty(),
        "the simulation misses {} of {} mistakes: {}",
        missed.len(),
        patches.len(),
        missed.join(" ")
    );
    println!("all {} were found", patches.len());
    Ok(())
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut read = Self { names: Vec::new(), draw: None, lists: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--draw" => {
                    let count = arguments.next().and_then(|count| count.parse().ok());
                    ensure!(count.is_some(), "--draw takes a number");
                    read.draw = count;
                }
                "--list" => read.lists = true,
                flag if flag.starts_with('-') => bail!("unknown option {flag}; there are --draw N and --list"),
                name => read.names.push(name.to_owned()),
            }
        }
        Ok(read)
    }
}

fn choose(all: Vec<Patch>, arguments: &Arguments) -> anyhow::Result<Vec<Patch>> {
    for name in &arguments.names {
        ensure!(all.iter().any(|patch| patch.name == *name), "there is no tests/planted/{name}.patch");
    }
    let mut chosen: Vec<Patch> =
        all.into_iter().filter(|patch| arguments.names.is_empty() || arguments.names.contains(&patch.name)).collect();
    if let Some(draw) = arguments.draw {
        while chosen.len() > draw {
            let out = usize::try_from(uuid::Uuid::new_v4().as_u128() % chosen.len() as u128)?;
            chosen.remove(out);
        }
    }
    Ok(chosen)
}
