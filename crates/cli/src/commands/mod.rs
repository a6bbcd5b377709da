//! One file per command, or a folder of one.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod demo;
pub mod diagnose;
pub mod doctor;
pub mod drive;
pub mod engine;
pub mod eval;
pub mod export;
pub mod faults;
pub mod inspect;
pub mod precision;
pub mod record;
pub mod serve;
pub mod tune;
pub mod verify;
