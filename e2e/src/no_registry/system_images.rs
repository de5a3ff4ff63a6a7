//! The system images of an assembled node: control plane, etcd, kube-proxy, CoreDNS and pause,
//! under the names kubeadm expects, so that the node finds all of them in its own store.

use crate::images::archive::{Entry, Image, Layer, Process, write_archive};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The components inside the one Kubernetes binary that run as containers. `kubectl` is for people
/// who look around in one.
const COMPONENTS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
];
/// What kube-proxy calls. The nft flavour of iptables is one program under many names.
const PROXY_PROGRAMS: [&str; 3] = [
    "/usr/sbin/xtables-nft-multi",
    "/usr/sbin/nft",
    "/usr/sbin/conntrack",
];
const IPTABLES_NAMES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

/// Arguments of `e2e system-images`, called by node-image/build.sh.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The node's file tree, from which kube-proxy's programs and their libraries are taken
    #[arg(long)]
    root: PathBuf,
    /// Folder with the binaries `kubernetes`, `coredns` and `pause`
    #[arg(long)]
    binaries: PathBuf,
    /// Tag of the Kubernetes images
    #[arg(long)]
    kubernetes: String,
    /// Tag of the etcd image
    #[arg(long)]
    etcd: String,
    /// Tag of the CoreDNS image
    #[arg(long)]
    coredns: String,
    /// Tag of the pause image
    #[arg(long)]
    pause: String,
    /// The archive to write; layers are kept beside it while it is written
    #[arg(long)]
    output: PathBuf,
}

/// Writes the archive.
pub fn write(arguments: &Arguments) -> Result<()> {
    let Arguments {
        root,
        binaries,
        kubernetes,
        etcd,
        coredns,
        pause,
        output,
    } = arguments;
    let scratch = output.with_extension("layers");
    fs::create_dir_all(&scratch)?;
    let single = |name: &str, path: &str| {
        Layer::write(
            &scratch,
            name,
            &[
                Entry::Folder {
                    path: "/tmp".into(),
                    mode: 0o1777,
                },
                Entry::File {
                    path: path.into(),
                    source: binaries.join(name),
                    mode: 0o755,
                },
            ],
        )
    };
    let all = Layer::write(&scratch, "kubernetes", &kubernetes_entries(binaries))?;
    let proxy = Layer::write(&scratch, "proxy", &proxy_entries(root)?)?;
    let control_plane = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ]
    .iter()
    .map(|name| format!("registry.k8s.io/{name}:{kubernetes}"))
    .chain([format!("registry.k8s.io/etcd:{etcd}")])
    .collect();
    let run = |program: &str| Process {
        entrypoint: vec![program.to_owned()],
        ..Process::default()
    };
    write_archive(
        output,
        &[
            Image {
                names: control_plane,
                layers: vec![all.clone()],
                process: Process::default(),
            },
            Image {
                names: vec![format!("registry.k8s.io/kube-proxy:{kubernetes}")],
                layers: vec![all, proxy],
                process: Process::default(),
            },
            Image {
                names: vec![format!("registry.k8s.io/coredns/coredns:{coredns}")],
                layers: vec![single("coredns", "/coredns")?],
                process: run("/coredns"),
            },
            Image {
                names: vec![format!("registry.k8s.io/pause:{pause}")],
                layers: vec![single("pause", "/pause")?],
                process: run("/pause"),
            },
        ],
    )?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn kubernetes_entries(binaries: &Path) -> Vec<Entry> {
    let mut entries = vec![
        Entry::Folder {
            path: "/tmp".into(),
            mode: 0o1777,
        },
        Entry::File {
            path: "/usr/local/bin/kubernetes".into(),
            source: binaries.join("kubernetes"),
            mode: 0o755,
        },
    ];
    entries.extend(COMPONENTS.map(|name| Entry::Link {
        path: format!("/usr/local/bin/{name}"),
        target: "kubernetes".into(),
    }));
    entries
}

/// iptables and its like with every library they load, the plugins of iptables included: without
/// those kube-proxy runs, says nothing, and Services lead nowhere.
fn proxy_entries(root: &Path) -> Result<Vec<Entry>> {
    let plugins = fs::read_dir(root.join("usr/lib"))?
        .filter_map(|folder| Some(folder.ok()?.path().join("xtables")))
        .find(|folder| folder.is_dir())
        .context("no iptables plugins in the node's file tree")?;
    let mut wanted: Vec<String> = PROXY_PROGRAMS.map(str::to_owned).to_vec();
    for plugin in fs::read_dir(&plugins)? {
        let path = plugin?.path();
        if path.extension().is_some_and(|extension| extension == "so") {
            wanted.push(format!("/{}", path.strip_prefix(root)?.display()));
        }
    }
    let libraries = libraries(root, &wanted)?;
    let mut files = BTreeMap::new();
    for path in wanted.into_iter().chain(libraries) {
        // Debian's /lib is a link to /usr/lib, here as in the image.
        let path = if path.starts_with("/lib") {
            format!("/usr{path}")
        } else {
            path
        };
        let source = fs::canonicalize(root.join(&path[1..])).with_context(|| path.clone())?;
        files.insert(path, source);
    }
    let mut entries = vec![
        Entry::Folder {
            path: "/run".into(),
            mode: 0o755,
        },
        Entry::Folder {
            path: "/usr/bin".into(),
            mode: 0o755,
        },
    ];
    entries.extend(files.into_iter().map(|(path, source)| Entry::File {
        path,
        source,
        mode: 0o755,
    }));
    entries.extend(IPTABLES_NAMES.map(|name| Entry::Link {
        path: format!("/usr/sbin/{name}"),
        target: "xtables-nft-multi".into(),
    }));
    entries.extend(["lib", "lib64", "sbin", "bin"].map(|name| Entry::Link {
        path: format!("/{name}"),
        target: format!("usr/{name}"),
    }));
    Ok(entries)
}

/// The libraries these programs load, asked of the tree's own loader.
fn libraries(root: &Path, programs: &[String]) -> Result<Vec<String>> {
    let output = Command::new("chroot")
        .arg(root)
        .arg("ldd")
        .args(programs)
        .output()
        .context("chroot")?;
    ensure!(
        output.status.success(),
        "ldd: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// Paths in the output of `ldd`: `name => /path (0x…)` or `/path (0x…)`; a line that ends in a
/// colon names the program itself.
fn parse_ldd(output: &str) -> Vec<String> {
    output
        .lines()
        .filter(|line| !line.ends_with(':'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lists_libraries_and_the_loader_but_not_the_program() {
        let output = "/usr/sbin/nft:\n\tlinux-vdso.so.1 (0x00007ffe)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(output),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}
