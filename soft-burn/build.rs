//! With the feature `tch`, programs and tests look for LibTorch where it was at build time.

#![allow(clippy::print_stdout)] // build scripts talk to cargo on stdout

fn main() {
    // Not `rerun-if-changed=build.rs`: examples and benches use this file as well, and a path that
    // does not exist counts as changed at every build.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // Set by torch-sys when it links shared libraries.
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
