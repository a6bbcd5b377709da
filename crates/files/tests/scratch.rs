//! What a program that is ended by a signal leaves of its temporary folders: nothing. Alone in its process, whose every such
//! folder is removed.

use steadyhand_files::scratch::{Scratch, remove_all};

#[test]
fn folders_go_when_they_are_dropped_or_all_at_once() {
    let parent = tempfile::tempdir().expect("a folder");
    let count = || std::fs::read_dir(parent.path()).expect("a folder").count();
    let made = || Scratch::new("scratch-", parent.path()).expect("a folder");
    let (dropped, kept) = (made(), made());
    std::fs::write(kept.path().join("file"), "contents").expect("written");
    drop(dropped);
    assert_eq!(count(), 1);
    let removed = remove_all();
    assert_eq!(count(), 0);
    // None is made between the removal and the end.
    std::thread::scope(|scope| {
        let late = scope.spawn(|| drop(Scratch::new("scratch-", parent.path())));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!((count(), late.is_finished()), (0, false));
        drop(removed);
    });
}
