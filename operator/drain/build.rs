//! Has the linker of a static build write down relative relocations in their packed form, as that of
//! the operator does, whose build script says why.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    if is_static && var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
