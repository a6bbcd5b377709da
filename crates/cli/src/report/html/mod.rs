//! What pages of HTML share: their style, their text, and plots as SVG.

pub mod axis;
pub mod plot;
pub mod text;

/// Inline, so that a page can be mailed and archived as it is.
pub const STYLE: &str = include_str!("style.css");
