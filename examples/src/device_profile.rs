//! What each step or token gives the devices to do, as lines on stderr.

use std::time::Instant;

use clap::Args;
use soft_burn::{DeviceProfile, DeviceWork};

use crate::statusln;
use crate::table::table;

/// The profile of devices, from the command line.
#[derive(Args, Debug, Clone)]
pub struct ProfileArgs {
    /// Print kernel launches, new kernels and transfers of every step or token
    #[arg(long, help_heading = "Device")]
    profile_device: bool,
}

impl ProfileArgs {
    /// A profile, if it was asked for; `unit` is what a lap is called.
    pub fn start(&self, unit: &'static str) -> Option<ProfileLines> {
        self.profile_device.then(|| ProfileLines::start(unit))
    }
}

/// Laps of a profile.
pub struct ProfileLines {
    profile: DeviceProfile,
    unit: &'static str,
    laps: u64,
    began: Instant,
    /// The last step or token with launches.
    last: (String, DeviceWork),
    kept: Vec<String>,
}

impl ProfileLines {
    fn start(unit: &'static str) -> Self {
        Self {
            profile: DeviceProfile::start(),
            unit,
            laps: 0,
            began: Instant::now(),
            last: Default::default(),
            kept: Vec::new(),
        }
    }

    /// The line of the step or token that ends now: work since the line before.
    pub fn lap(&mut self) -> String {
        self.laps += 1;
        let name = format!("{} {}", self.unit, self.laps);
        let work = self.profile.lap();
        let line = self.line(&name, &work);
        // Tokens of one round come together; the work is counted for the first of them.
        if work.launch_count() > 0 {
            self.last = (name, work);
        }
        line
    }

    /// Keeps the line of a step or token for [`finish`](Self::finish).
    pub fn keep_lap(&mut self) {
        let line = self.lap();
        self.kept.push(line);
    }

    /// The line of what else was done since the line before.
    pub fn aside(&mut self, name: &str) -> String {
        let work = self.profile.lap();
        self.line(name, &work)
    }

    fn line(&mut self, name: &str, work: &DeviceWork) -> String {
        let began = std::mem::replace(&mut self.began, Instant::now());
        let seconds = began.elapsed().as_secs_f64();
        format!("{name}: {seconds:.3} s, {}", described(work))
    }

    /// Prints the lines that were kept, and the launches of the last step or token by kernel.
    pub fn finish(self) {
        self.kept.iter().for_each(|line| statusln!("{line}"));
        let (name, DeviceWork { launches, .. }) = self.last;
        if launches.is_empty() {
            statusln!("launches are counted on wgpu, vulkan, metal and cuda only");
            return;
        }
        let mut launches: Vec<_> = launches.into_iter().collect();
        launches.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rows = launches
            .into_iter()
            .map(|(name, count)| [name, count.to_string()]);
        let heading = format!("kernel, {name}");
        statusln!("{}", table(&[&heading, "launches"], rows));
    }
}

/// "370 launches of 40 kernels, 2 new; 1 read of 168 B, 6 uploads of 7288 B", with several devices
/// ", 96 B between devices"
pub fn described(work: &DeviceWork) -> String {
    let compiled = work.compiled.map(|it| format!(" ({it} compiled)"));
    let launches = match work.launch_count() {
        0 => String::new(),
        count => format!(
            "{count} launches of {} kernels, {} new{}; ",
            work.kernels,
            work.new_kernels,
            compiled.unwrap_or_default()
        ),
    };
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let moved = match work.bytes_moved {
        0 => String::new(),
        bytes => format!(", {bytes} B between devices"),
    };
    format!(
        "{launches}{} read{} of {} B, {} upload{} of {} B{moved}",
        work.reads,
        plural(work.reads),
        work.bytes_read,
        work.uploads,
        plural(work.uploads),
        work.bytes_uploaded
    )
}
