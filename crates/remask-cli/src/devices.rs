//! `remask devices`.

use std::io::{Write, stdout};

use remask_wgpu::{AdapterProfile, adapters};

use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Outcome {
    let mut out = stdout();
    let profiles: Vec<_> = pollster::block_on(adapters()).iter().map(AdapterProfile::of).collect();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&profiles)?)?;
        return Ok(());
    }
    if profiles.is_empty() {
        return Err(Failure::Message(
            "no adapter found: install a Vulkan driver (on Debian without a GPU: apt install mesa-vulkan-drivers)"
                .into(),
        ));
    }
    for (index, profile) in profiles.iter().enumerate() {
        writeln!(out, "{index}: {profile}")?;
    }
    Ok(())
}
