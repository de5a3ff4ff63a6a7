//! What exists only for machines that can pull no image; the README beside this file says why.
//! Where a Docker engine answers and reaches a registry, only [`oci`] is used.

pub mod dockerd;
pub mod oci;
pub mod system_images;
