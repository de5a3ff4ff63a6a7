//! Has the linker of a static build write down relative relocations in their packed form: over a
//! megabyte less in the image, and the program is still loaded at a random address. Operator and
//! drain hook have it in common.

use std::env::var;

fn main() {
    // The features of the target follow from it. A changed script is run again in any case.
    println!("cargo::rerun-if-env-changed=RUSTFLAGS");
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let is_static = features.split(',').any(|feature| feature == "crt-static");
    // A dynamic build would need the same libc wherever it runs. A static one brings its own, which
    // must be glibc 2.36 or later: image.sh tries what it has built.
    if is_static && var("CARGO_CFG_TARGET_ENV").is_ok_and(|libc| libc == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
