//! With the feature `tch`: programs and tests look for LibTorch where it was when they were built.

#![allow(clippy::print_stdout)] // how a build script speaks

fn main() {
    // Not `rerun-if-changed=build.rs`: examples and benches share this file, and a path that is not
    // there counts as changed at every build.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // From torch-sys, where it links shared libraries.
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
