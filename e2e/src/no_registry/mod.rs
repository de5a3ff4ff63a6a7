//! What exists only for machines that can pull no image; the README beside this file says why.
//! Where a Docker engine answers and reaches a registry, nothing of it is used.

pub mod dockerd;
pub mod system_images;
