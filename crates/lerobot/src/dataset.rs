//! A dataset's metadata, read once when it is opened.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::Deserialize;
use steadyhand_files::folders;

use crate::{
    Episode, Error, Feature, Kind, Modality, Result, StatArray, Stats, VideoDecoder,
    info::{Info, Layout},
    json::{self, BadLine, Maybe},
    parquet::{Column, Table},
    paths::{self, Fields},
};

/// An open LeRobot dataset: its metadata in memory, its episodes on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
    decoder: VideoDecoder,
}

/// What a dataset and its episodes share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) info: Info,
    /// By place. A damaged line matters to those who ask for its episode.
    episodes: Vec<Result<EpisodeMeta, BadLine>>,
    pub(crate) modality: Modality,
    /// Read when first asked for: most evaluations need none of them.
    tasks: OnceLock<Tasks>,
    stats: OnceLock<Result<Option<Stats>>>,
    relative_stats: OnceLock<Result<Option<Stats>>>,
}

/// What the metadata says of one episode.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EpisodeMeta {
    /// The episode's number, which names its files (v2.x) or marks its rows (v3.0).
    pub episode_index: usize,
    /// The nominal number of steps; [`Episode::len`] is the actual one.
    pub length: usize,
    /// The tasks done in the episode.
    pub tasks: Vec<String>,
    /// The parts of the episode with texts of their own, where the dataset has them.
    pub sub_tasks: Vec<SubTask>,
    /// v3.0: which files hold the episode. Absent in v2.x.
    pub(crate) place: Option<Place>,
}

/// The texts that task indices stand for.
#[derive(Debug, Default)]
struct Tasks {
    texts: BTreeMap<i64, String>,
    /// The first line of `tasks.jsonl` that is damaged, in which any task may stand.
    bad: Option<BadLine>,
}

/// A part of an episode with its own text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SubTask {
    /// First step.
    pub start: usize,
    /// One past the last step.
    pub end: usize,
    /// The text.
    pub text: String,
}

/// Where a v3.0 episode lies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) chunk: usize,
    pub(crate) file: usize,
    /// By video key.
    pub(crate) videos: BTreeMap<String, VideoPlace>,
}

/// Where a v3.0 episode lies in a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VideoPlace {
    pub(crate) chunk: usize,
    pub(crate) file: usize,
    /// The presentation time of the episode's first frame, in seconds.
    pub(crate) from: f64,
}

#[derive(Deserialize)]
struct RawEpisode {
    episode_index: usize,
    length: usize,
    #[serde(default)]
    tasks: Maybe<Texts>,
    #[serde(default)]
    sub_tasks: Maybe<Vec<SubTask>>,
}

/// The forms in which datasets write texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
struct RawTask {
    task_index: i64,
    task: String,
}

impl Dataset {
    /// Opens the dataset in the folder `path`: reads `meta/`, but no data and no video.
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset> {
        let root = path.as_ref().to_path_buf();
        let meta = root.join("meta");
        if !meta.join("info.json").exists() {
            return Err(no_dataset(&root));
        }
        let info = Info::read(&meta.join("info.json"))?;
        check_layout(&meta, &info)?;
        let episodes = match info.layout {
            Layout::FilePerEpisode => jsonl_episodes(&meta)?,
            Layout::ManyPerFile => parquet_episodes(&meta, &info)?.into_iter().map(Ok).collect(),
        };
        let modality = Modality::read(&meta.join("modality.json"), &info)?;
        let (tasks, stats, relative_stats) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let inner = Inner { root, info, episodes, modality, tasks, stats, relative_stats };
        Ok(Dataset { inner: Arc::new(inner), decoder: VideoDecoder::default() })
    }

    /// The same dataset, its videos decoded by `decoder`.
    pub fn with_video_decoder(self, decoder: VideoDecoder) -> Dataset {
        Dataset { decoder, ..self }
    }

    /// The dataset's folder.
    pub fn path(&self) -> &Path {
        &self.inner.root
    }

    /// `v2.0`, `v2.1`, `v3.0`, as `info.json` says.
    pub fn version(&self) -> &str {
        &self.inner.info.version
    }

    /// Steps a second.
    pub fn fps(&self) -> f64 {
        self.inner.info.fps
    }

    /// The robot's name, where `info.json` has it.
    pub fn robot_type(&self) -> Option<&str> {
        self.inner.info.robot_type.as_deref()
    }

    /// The number of episodes.
    pub fn len(&self) -> usize {
        self.inner.episodes.len()
    }

    /// Whether the dataset has no episodes.
    pub fn is_empty(&self) -> bool {
        self.inner.episodes.is_empty()
    }

    /// The metadata of the episode at `index` (its position in the dataset, from 0).
    ///
    /// # Errors
    /// There is no such episode, or its line of `episodes.jsonl` is damaged.
    pub fn episode_meta(&self, index: usize) -> Result<&EpisodeMeta> {
        self.inner.episode_meta(index)
    }

    /// The groups, views and annotations.
    pub fn modality(&self) -> &Modality {
        &self.inner.modality
    }

    /// `stats.json`, where the dataset has it. It is read when first asked for.
    ///
    /// # Errors
    /// The file is no JSON object.
    pub fn stats(&self) -> Result<Option<&Stats>, &Error> {
        self.read_stats(&self.inner.stats, "stats.json")
    }

    /// `relative_stats.json` (by action group, `[horizon, dim]`), where the dataset has it.
    ///
    /// # Errors
    /// As [`Dataset::stats`].
    pub fn relative_stats(&self) -> Result<Option<&Stats>, &Error> {
        self.read_stats(&self.inner.relative_stats, "relative_stats.json")
    }

    fn read_stats<'a>(
        &self,
        kept: &'a OnceLock<Result<Option<Stats>>>,
        file: &str,
    ) -> Result<Option<&'a Stats>, &'a Error> {
        kept.get_or_init(|| Stats::read(&self.inner.root.join("meta").join(file)))
            .as_ref()
            .map(Option::as_ref)
    }

    /// One statistic of a group, sliced from its column's: `[dim]` finite values. None where `stats.json` lacks it.
    pub fn group_stats(&self, kind: Kind, group: &str, statistic: &str) -> Result<Option<Vec<f64>>> {
        let path = self.inner.root.join("meta/stats.json");
        let group = self.inner.modality.group(&self.inner.root, kind, group)?;
        let stats = match self.stats() {
            Ok(stats) => stats,
            // The error itself is kept with the dataset.
            Err(error) => return Err(Error::field(&path, "the file", "a JSON object", error.to_string())),
        };
        let array = stats.and_then(|stats| stats.get(&group.column, statistic));
        let Some(StatArray { data, .. }) = array else { return Ok(None) };
        let field = || format!("{}.{statistic}", group.column);
        match data.get(group.start..group.end) {
            Some(slice) if slice.iter().all(|value| value.is_finite()) => Ok(Some(slice.to_vec())),
            Some(_) => Err(Error::field(&path, field(), "finite numbers", "NaN, an infinity or null")),
            None => Err(Error::field(
                &path,
                field(),
                format!("at least {} values for group `{}`", group.end, group.name),
                format!("{} values", data.len()),
            )),
        }
    }

    /// The columns and videos that `info.json` lists, in its order.
    pub fn features(&self) -> &[Feature] {
        &self.inner.info.features
    }

    /// The texts of the dataset's tasks, by task index. The list of tasks is read when first asked for.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn tasks(&self) -> Result<&BTreeMap<i64, String>> {
        Ok(&self.inner.tasks()?.texts)
    }

    /// The names of a group's elements: those of `info.json`, or else `group[0]`, `group[1]`, ….
    ///
    /// Empty for a group that the dataset does not have.
    pub fn dimension_names(&self, kind: Kind, group: &str) -> Vec<String> {
        let Some(group) = self.inner.modality.groups(kind).iter().find(|g| g.name == group) else {
            return Vec::new();
        };
        let names = self.inner.info.feature(&group.column).and_then(|f| f.names.as_ref());
        match names.and_then(|names| names.get(group.start..group.end)) {
            Some(names) => names.to_vec(),
            None => (0..group.dim()).map(|i| format!("{}[{i}]", group.name)).collect(),
        }
    }

    /// Reads the numeric columns of the episode at `index` (its position in the dataset, from 0).
    pub fn episode(&self, index: usize) -> Result<Episode> {
        Episode::read(self.inner.clone(), self.decoder, index)
    }
}

impl Inner {
    /// The metadata of the episode at `index`.
    pub(crate) fn episode_meta(&self, index: usize) -> Result<&EpisodeMeta> {
        match self.episodes.get(index) {
            Some(Ok(episode)) => Ok(episode),
            Some(Err(bad)) => Err(bad.error(&self.root.join("meta/episodes.jsonl"))),
            None => {
                let len = self.episodes.len();
                Err(Error::EpisodeRange { path: self.root.clone(), index, len })
            }
        }
    }

    /// The text of a task index, which stands in `path` at `field`.
    pub(crate) fn task(&self, index: i64, path: &Path, field: String) -> Result<String> {
        let Tasks { texts, bad } = self.tasks()?;
        match (texts.get(&index), bad) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(bad)) => Err(bad.error(&self.root.join("meta/tasks.jsonl"))),
            (None, None) => {
                let known = texts.keys().map(i64::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::field(path, field, format!("a task index of {known}"), index.to_string()))
            }
        }
    }

    fn tasks(&self) -> Result<&Tasks> {
        if let Some(tasks) = self.tasks.get() {
            return Ok(tasks);
        }
        let meta = self.root.join("meta");
        let tasks = match self.info.layout {
            Layout::FilePerEpisode => jsonl_tasks(&meta.join("tasks.jsonl"))?,
            Layout::ManyPerFile => parquet_tasks(&meta.join("tasks.parquet"))?,
        };
        Ok(self.tasks.get_or_init(|| tasks))
    }

    /// Fills in one of the path patterns of `info.json` (`field` names it in errors).
    pub(crate) fn expand(&self, field: &str, pattern: &str, fields: Fields) -> Result<PathBuf> {
        match paths::expand(pattern, fields) {
            Ok(relative) => Ok(self.root.join(relative)),
            Err(part) => Err(Error::field(
                &self.root.join("meta/info.json"),
                field,
                "a pattern of {episode_chunk}, {episode_index}, {chunk_index}, {file_index}, {video_key}",
                format!("{part}, in `{pattern}`"),
            )),
        }
    }
}

/// No `meta/info.json`: which folder may have been meant.
fn no_dataset(root: &Path) -> Error {
    let mut what = "info.json, which describes the dataset,".to_owned();
    if let Some(id) = root.to_str().filter(|_| folders::hub_id(root).is_some()) {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        what = format!(
            "a dataset's folder (if this is one of the Hugging Face hub, download it: \
             hf download --repo-type dataset {id} --local-dir {name}); its info.json"
        );
    } else if root.join("info.json").is_file() && root.file_name().is_some_and(|name| name == "meta") {
        what.push_str(" (name the folder above, which holds meta/, data/ and videos/); here it");
    } else if let Some(found) = folders::meant(root, "meta/info.json") {
        what.push_str(&format!(" (did you mean {}?); here it", found.display()));
    }
    Error::Missing { path: root.join("meta/info.json"), what }
}

/// Whether the lists of episodes are those of the version that `info.json` claims.
fn check_layout(meta: &Path, info: &Info) -> Result<()> {
    let (old, new) = (meta.join("episodes.jsonl").is_file(), meta.join("episodes").is_dir());
    let expected = match info.layout {
        Layout::FilePerEpisode if !old && new => {
            "v3.0, as the folder's layout is (meta/episodes/*.parquet, no episodes.jsonl)"
        }
        Layout::ManyPerFile if old && !new => {
            "v2.1, as the folder's layout is (meta/episodes.jsonl, no meta/episodes/)"
        }
        _ => return Ok(()),
    };
    Err(Error::field(&meta.join("info.json"), "codebase_version", expected, info.version.as_str()))
}

/// v2.x: `episodes.jsonl`.
fn jsonl_episodes(meta: &Path) -> Result<Vec<Result<EpisodeMeta, BadLine>>> {
    let raw = json::read_lines(&meta.join("episodes.jsonl"), "the list of episodes (episodes.jsonl)")?;
    let meta = |raw: RawEpisode| EpisodeMeta {
        episode_index: raw.episode_index,
        length: raw.length,
        tasks: match raw.tasks.get() {
            Some(Texts::One(text)) => vec![text],
            Some(Texts::List(texts)) => texts,
            None => Vec::new(),
        },
        sub_tasks: raw.sub_tasks.get().unwrap_or_default(),
        place: None,
    };
    Ok(raw.into_iter().map(|raw: Result<RawEpisode, _>| raw.map(meta)).collect())
}

/// v2.x: `tasks.jsonl`.
fn jsonl_tasks(path: &Path) -> Result<Tasks> {
    let mut tasks = Tasks::default();
    for line in json::read_lines::<RawTask>(path, "the list of tasks (tasks.jsonl)")? {
        match line {
            Ok(raw) => tasks.add(path, raw.task_index, raw.task)?,
            Err(bad) => {
                tasks.bad.get_or_insert(bad);
            }
        }
    }
    Ok(tasks)
}

/// v3.0: `tasks.parquet`, whose texts are a column `task` or a pandas index (`__index_level_0__`).
fn parquet_tasks(path: &Path) -> Result<Tasks> {
    let table = Table::open(path, "the list of tasks (tasks.parquet)")?;
    let indices = table.scalars::<i64>("task_index", 0..table.rows())?;
    let columns = table.columns();
    let index = "__index_level_0__";
    let has = |name: &str| columns.iter().any(|c| c == name);
    let text = if has(index) && !has("task") { index } else { "task" };
    let texts = table.scalars::<String>(text, 0..table.rows())?;
    let mut tasks = Tasks::default();
    indices.into_iter().zip(texts).try_for_each(|(index, text)| tasks.add(path, index, text))?;
    Ok(tasks)
}

impl Tasks {
    /// Adds a task of the list at `path`. One text is as good as another only where they are the same.
    fn add(&mut self, path: &Path, index: i64, text: String) -> Result<()> {
        let other = self.texts.get(&index).filter(|other| **other != text);
        if let Some(other) = other {
            let found = format!("`{other}` and `{text}`");
            return Err(Error::field(path, format!("task_index {index}"), "one text", found));
        }
        self.texts.insert(index, text);
        Ok(())
    }
}

/// v3.0: every `meta/episodes/chunk-XXX/file-XXX.parquet`, by episode index.
fn parquet_episodes(meta: &Path, info: &Info) -> Result<Vec<EpisodeMeta>> {
    let folder = meta.join("episodes");
    let mut episodes = Vec::new();
    for chunk in sorted_entries(&folder)? {
        if !chunk.is_dir() {
            continue;
        }
        for file in sorted_entries(&chunk)? {
            if file.extension().is_some_and(|e| e == "parquet") {
                read_episodes(&Table::open(&file, "a file of episodes")?, info, &mut episodes)?;
            }
        }
    }
    episodes.sort_by_key(|e| e.episode_index);
    Ok(episodes)
}

/// The entries of a folder, by name, without hidden ones: other systems leave a `._file` beside each file.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, "the folder of episode metadata", e);
    let mut entries = std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.retain(|entry| entry.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    entries.sort();
    Ok(entries)
}

/// Appends the episodes of one metadata file.
fn read_episodes(table: &Table, info: &Info, out: &mut Vec<EpisodeMeta>) -> Result<()> {
    let rows = 0..table.rows();
    let indices = |name: &str| -> Result<Vec<usize>> {
        let values = table.scalars::<i64>(name, rows.clone())?;
        values
            .into_iter()
            .map(|v| {
                usize::try_from(v)
                    .map_err(|_| Error::field(table.path(), name, "a number from 0", v.to_string()))
            })
            .collect()
    };
    let columns = table.columns();
    let videos: Vec<(&str, Vec<VideoPlace>)> = info
        .features
        .iter()
        .filter(|feature| feature.is_video())
        .filter_map(|feature| {
            let name = |field: &str| format!("videos/{}/{field}", feature.name);
            // A feature without places (such as a video removed later) is noticed when it is asked for.
            let chunks = indices(&name("chunk_index")).ok()?.into_iter();
            let files = indices(&name("file_index")).ok()?.into_iter();
            let from = table.scalars::<f64>(&name("from_timestamp"), rows.clone()).ok()?.into_iter();
            let place = |((chunk, file), from)| VideoPlace { chunk, file, from };
            Some((feature.name.as_str(), chunks.zip(files).zip(from).map(place).collect()))
        })
        .collect();
    let episode_index = indices("episode_index")?;
    let length = indices("length")?;
    let (chunk, file) = (indices("data/chunk_index")?, indices("data/file_index")?);
    // Where the texts are absent, the data's task index says them.
    let has_texts = columns.iter().any(|column| column == "tasks");
    let tasks = if has_texts { table.column::<String>("tasks", rows)? } else { Column::default() };
    let (mut texts, mut counts) = (tasks.values.into_iter(), tasks.lengths.into_iter());
    let rows = episode_index.into_iter().zip(length).zip(chunk.into_iter().zip(file));
    for (row, ((episode_index, length), (chunk, file))) in rows.enumerate() {
        let place = |(key, places): &(&str, Vec<VideoPlace>)| {
            places.get(row).map(|place| ((*key).to_owned(), *place))
        };
        out.push(EpisodeMeta {
            episode_index,
            length,
            tasks: texts.by_ref().take(counts.next().unwrap_or(0)).collect(),
            sub_tasks: Vec::new(),
            place: Some(Place { chunk, file, videos: videos.iter().filter_map(place).collect() }),
        });
    }
    Ok(())
}
