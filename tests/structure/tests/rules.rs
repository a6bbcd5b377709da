//! What ARCHITECTURE.md says of the workspace, held against its sources and manifests.

use steadyhand_structure::{circles, imports::Crate, manifest, root};

/// Files of one folder may import each other as they like; files of different folders only one way.
#[test]
fn no_import_circle_between_folders() {
    let root = root();
    let mut found = String::new();
    for member in manifest::members(&root).values() {
        for file in member.roots(&root) {
            let krate = Crate::load(&file);
            let circles = circles::between_folders(&krate, &krate.arrows(), &root);
            for (number, circle) in circles.iter().enumerate() {
                found += &format!("{} circle {} of {}\n{circle}", member.folder, number + 1, circles.len());
            }
        }
    }
    assert!(found.is_empty(), "files of different folders import each other:\n{found}");
}
