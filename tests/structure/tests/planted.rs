//! The reader of imports finds a circle that is put there, and none where there is none.

use std::path::Path;

use steadyhand_structure::circles::between_folders;
use steadyhand_structure::imports::Crate;

/// Circles of a crate of these files.
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let krate = Crate::load(&folder.path().join("lib.rs"));
    between_folders(&krate, &krate.arrows(), Path::new(folder.path()))
}

const ROOT: (&str, &str) = ("lib.rs", "pub mod a;\npub mod b;\npub use a::A;\npub use b::*;\n");

#[test]
fn a_circle_names_its_files_and_what_they_import() {
    let found = circles(&[
        ROOT,
        ("a/mod.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "fn f(_: super::A) {} pub struct B;"),
    ]);
    // `b.rs` has no folder of its own: it belongs to the root's, `a/mod.rs` to `a`.
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0], "  a/mod.rs imports B from b.rs\n  b.rs imports A from a/mod.rs\n");
}

#[test]
fn a_re_export_hides_no_circle() {
    let a = [("a/mod.rs", "mod x; pub use x::A;"), ("a/x.rs", "use crate::B; pub struct A(B);")];
    let b =
        [("b/mod.rs", "mod y; pub use self::y::{self, B};"), ("b/y.rs", "use crate::a::A; pub struct B(A);")];
    let found = circles(&[&[ROOT], &a[..], &b[..]].concat());
    assert_eq!(found, ["  a/x.rs imports B from b/y.rs\n  b/y.rs imports A from a/x.rs\n"]);
}

#[test]
fn a_module_with_code_leads_to_what_it_imports() {
    let a = [("a/mod.rs", "mod x; pub use x::A; fn f(_: crate::b::B) {}"), ("a/x.rs", "pub struct A;")];
    let b = ("b/mod.rs", "pub struct B; fn g() { let _ = crate::a::A::new(); }");
    assert_eq!(circles(&[&[ROOT], &a[..], &[b]].concat()).len(), 1);
}

#[test]
fn a_folder_is_one_thought() {
    let inner =
        [("b/mod.rs", "mod y; pub use y::B; pub struct C(B);"), ("b/y.rs", "use super::C; pub struct B(C);")];
    assert_eq!(circles(&[&[ROOT, ("a/mod.rs", "pub struct A(crate::b::B);")], &inner[..]].concat()), [""; 0]);
}

#[test]
fn a_folder_and_the_one_inside_it_are_two() {
    let inner =
        [("b/mod.rs", "mod y; pub struct C(y::B);"), ("b/y/mod.rs", "use super::C; pub struct B(C);")];
    assert_eq!(circles(&[&[ROOT, ("a/mod.rs", "pub struct A;")], &inner[..]].concat()).len(), 1);
}

#[test]
fn tests_may_know_everything() {
    let a = (
        "a/mod.rs",
        "pub struct A; #[cfg(test)] mod tests { use crate::b::B; fn f(_: B) {} } #[cfg(test)] mod more;",
    );
    assert_eq!(circles(&[ROOT, a, ("b.rs", "pub struct B(crate::a::A);")]), [""; 0]);
}
