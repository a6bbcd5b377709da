//! `steady inspect dataset`: features, modalities, episodes, statistics and the first videos.

use super::Page;
use crate::report::table::{Table, thousands};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_lerobot::{Dataset, Episode, Feature, Kind, Stats, Video, VideoDecoder};

/// How many episodes and tasks are listed.
const LISTED: usize = 8;

/// Describes the dataset.
///
/// # Errors
/// Its metadata cannot be read. Data and videos that are missing or damaged are shown in their place.
pub(super) fn describe(path: &Path, decoder: VideoDecoder, page: &mut Page) -> Result<()> {
    let dataset = Dataset::open(path)?.with_video_decoder(decoder);
    page.line(&format!("dataset {}\n", path.display()));
    page.section("summary", &summary(&dataset));
    match dataset.tasks() {
        Ok(texts) => page.section("tasks", &tasks(texts)),
        Err(error) => page.line(&format!("tasks: {error}\n")),
    }
    page.section("features (meta/info.json)", &features(&dataset));
    let from = if dataset.modality().derived {
        "derived from meta/info.json: meta/modality.json is missing"
    } else {
        "meta/modality.json"
    };
    page.section(&format!("modalities ({from})"), &modalities(&dataset));
    statistics(&dataset, page);
    page.section("episodes", &episodes(&dataset));
    if !dataset.is_empty() {
        first_episode(&dataset, page);
    }
    Ok(())
}

fn summary(dataset: &Dataset) -> Table {
    let lengths = (0..dataset.len()).filter_map(|index| Some(dataset.episode_meta(index).ok()?.length));
    let lengths = lengths.collect::<Vec<usize>>();
    let steps = lengths.iter().fold(0usize, |steps, length| steps.saturating_add(*length));
    let mut table = Table::new(&["field", "value"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("version", dataset.version().to_owned());
    row("robot", dataset.robot_type().unwrap_or("unknown").to_owned());
    row("fps", dataset.fps().to_string());
    row("episodes", thousands(dataset.len()));
    if lengths.len() < dataset.len() {
        row("damaged episodes", thousands(dataset.len() - lengths.len()));
    }
    row("steps", thousands(steps));
    if let (Some(min), Some(max)) = (lengths.iter().min(), lengths.iter().max()) {
        let mean = steps as f64 / lengths.len() as f64;
        row("steps an episode", format!("{min} to {max}, mean {mean:.1}"));
    }
    table
}

fn tasks(texts: &BTreeMap<i64, String>) -> Table {
    let mut table = Table::new(&["task", "text"]);
    for (index, text) in texts.iter().take(LISTED) {
        table.row([index.to_string(), text.clone()]);
    }
    more(&mut table, texts.len());
    table
}

/// A last row that tells how many are not listed.
fn more(table: &mut Table, count: usize) {
    if count > LISTED {
        table.row(["...".to_owned(), format!("{} more", count - LISTED)]);
    }
}

fn features(dataset: &Dataset) -> Table {
    let mut table = Table::new(&["feature", "dtype", "shape", "names"]);
    for Feature { name, dtype, shape, names, .. } in dataset.features() {
        let names = if names.is_some() { "yes" } else { "no" };
        table.row([name.clone(), dtype.clone(), format!("{shape:?}"), names.to_owned()]);
    }
    table
}

fn modalities(dataset: &Dataset) -> Table {
    let modality = dataset.modality();
    let mut table = Table::new(&["modality", "name", "dims", "column", "range"]);
    for kind in [Kind::State, Kind::Action] {
        for group in modality.groups(kind) {
            let range = format!("{}..{}", group.start, group.end);
            let dims = group.dim().to_string();
            table.row([kind.name().to_owned(), group.name.clone(), dims, group.column.clone(), range]);
        }
    }
    let views = modality.video.iter().map(|view| ("video", &view.name, &view.column));
    let annotations = modality.annotation.iter().map(|it| ("annotation", &it.name, &it.column));
    for (kind, name, column) in views.chain(annotations) {
        table.row([kind.to_owned(), name.clone(), "-".to_owned(), column.clone(), "-".to_owned()]);
    }
    table
}

fn statistics(dataset: &Dataset, page: &mut Page) {
    let files =
        [("meta/stats.json", dataset.stats()), ("meta/relative_stats.json", dataset.relative_stats())];
    for (file, stats) in files {
        match stats {
            Ok(Some(stats)) => page.section(&format!("statistics ({file})"), &statistics_of(stats)),
            Ok(None) => page.line(&format!("statistics ({file}): none\n")),
            Err(error) => page.line(&format!("statistics: {error}\n")),
        }
    }
}

fn statistics_of(stats: &Stats) -> Table {
    let mut table = Table::new(&["of", "shape", "statistics"]);
    for name in stats.features() {
        let Some(arrays) = stats.feature(name) else { continue };
        let shape = arrays.get("mean").or_else(|| arrays.values().next());
        let shape = shape.map_or_else(|| "-".to_owned(), |array| format!("{:?}", array.shape));
        let names = arrays.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        table.row([name.to_owned(), shape, names]);
    }
    table
}

fn episodes(dataset: &Dataset) -> Table {
    let mut table = Table::new(&["episode", "steps", "tasks"]);
    for index in 0..dataset.len().min(LISTED) {
        match dataset.episode_meta(index) {
            Ok(meta) => table.row([index.to_string(), meta.length.to_string(), meta.tasks.join(" / ")]),
            Err(error) => table.row([index.to_string(), "-".to_owned(), error.to_string()]),
        }
    }
    more(&mut table, dataset.len());
    table
}

/// Data and videos of episode 0. What is missing is shown: it may just not have been downloaded.
fn first_episode(dataset: &Dataset, page: &mut Page) {
    let episode = match dataset.episode(0) {
        Ok(episode) => episode,
        Err(error) => return page.line(&format!("episode 0: {error}")),
    };
    let mut table = Table::new(&["view", "codec", "size", "frames", "first frame"]);
    for view in &dataset.modality().video {
        table.row(video(&episode, &view.name));
    }
    match dataset.modality().video.is_empty() {
        true => page.line(&format!("episode 0: {} steps, no views", episode.len())),
        false => page.section(&format!("videos of episode 0 ({} steps)", episode.len()), &table),
    }
}

/// A row about a view: its first frame is decoded, since a file that opens may still be unreadable.
fn video(episode: &Episode, view: &str) -> [String; 5] {
    let mut opened = episode.video(view);
    let sizes = |video: &Video| {
        let size = format!("{}x{}", video.width(), video.height());
        [video.codec().name().to_owned(), size, video.frame_count().to_string()]
    };
    let absent = || ["-", "-", "-"].map(str::to_owned);
    let [codec, size, frames] = opened.as_ref().map_or_else(|_| absent(), sizes);
    let first = match &mut opened {
        Ok(video) => match video.frame(0) {
            Ok(_) => format!("decoded by {}", video.decoded_by().name()),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    [view.to_owned(), codec, size, frames, first]
}
