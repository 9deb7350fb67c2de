//! `soft devices`: the devices that this build finds on this machine.

use anyhow::Result;
use soft_burn::list_devices;
use soft_examples::outln;

pub fn run() -> Result<()> {
    for name in list_devices() {
        outln!("{name}");
    }
    Ok(())
}
