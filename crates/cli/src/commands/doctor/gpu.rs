//! NVIDIA GPUs: what the system's buses show, and what the driver does.

use super::cuda;
use super::libraries::loaded_from;
use super::machine::{Driver, Gpus};
use std::path::Path;

/// What is here.
pub fn look() -> Gpus {
    let hardware = hardware(Path::new("/sys/bus/pci/devices"), Path::new("/proc/device-tree/compatible"));
    match cuda::survey() {
        Ok((cuda_version, devices)) => Gpus {
            driver: Some(Driver {
                library: loaded_from("libcuda.so"),
                cuda_version,
                release: std::fs::read_to_string("/proc/driver/nvidia/version")
                    .ok()
                    .and_then(|t| release(&t)),
            }),
            driver_problem: None,
            hardware,
            devices,
        },
        Err(error) => {
            Gpus { driver: None, driver_problem: Some(error.to_string()), hardware, devices: Vec::new() }
        }
    }
}

/// NVIDIA's display controllers on the PCI buses, and a system on chip that has one inside.
fn hardware(pci: &Path, compatible: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(pci).into_iter().flatten().flatten();
    let holds = |entry: &std::fs::DirEntry, file: &str, start: &str| {
        std::fs::read_to_string(entry.path().join(file)).is_ok_and(|text| text.starts_with(start))
    };
    let display = entries.filter(|entry| holds(entry, "vendor", "0x10de") && holds(entry, "class", "0x03"));
    let mut found: Vec<String> =
        display.map(|entry| format!("PCI {}", entry.file_name().to_string_lossy())).collect();
    found.sort();
    let chips = std::fs::read(compatible).unwrap_or_default();
    let chips = String::from_utf8_lossy(&chips);
    found.extend(chips.split('\0').find(|name| name.starts_with("nvidia,tegra")).map(str::to_owned));
    found
}

/// `580.159.04` of the line that the kernel's module shows.
fn release(version: &str) -> Option<String> {
    let line = version.lines().find(|line| line.starts_with("NVRM"))?;
    let number = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(number).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_release_is_read() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 13.2.0\n";
        assert_eq!(release(text).as_deref(), Some("580.159.04"));
        let text =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n";
        assert_eq!(release(text).as_deref(), Some("535.54.03"));
        assert_eq!(release("GCC version: 13.2.0"), None);
    }

    #[test]
    fn display_controllers_of_nvidia_are_found_without_a_driver() {
        let folder = tempfile::tempdir().unwrap();
        for (name, vendor, class) in [
            ("0000:02:00.0", "0x10de\n", "0x030200\n"),
            ("0000:01:00.0", "0x10de\n", "0x030000\n"),
            ("0000:01:00.1", "0x10de\n", "0x040300\n"), // its sound
            ("0000:00:02.0", "0x8086\n", "0x030000\n"),
        ] {
            let device = folder.path().join(name);
            std::fs::create_dir(&device).unwrap();
            std::fs::write(device.join("vendor"), vendor).unwrap();
            std::fs::write(device.join("class"), class).unwrap();
        }
        let compatible = folder.path().join("compatible");
        assert_eq!(hardware(folder.path(), &compatible), ["PCI 0000:01:00.0", "PCI 0000:02:00.0"]);
        std::fs::write(&compatible, b"nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0").unwrap();
        assert_eq!(hardware(Path::new("/nowhere"), &compatible), ["nvidia,tegra234"]);
    }
}
