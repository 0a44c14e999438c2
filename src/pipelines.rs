//! The pipelines folder: each sub-folder is a pipeline, its `.sql` files declare streams and views.
//!
//! All pipelines make one catalog, so a name means one thing in the whole installation: a stream or view that two
//! pipelines declare is refused like any other repeated name. `streams.sql` comes first in its folder, the other files
//! follow by name.

use std::path::{Path, PathBuf};

use anyhow::Context;
use foldline_sql::{Catalog, Refusal, SourceFile};

use crate::failure::Failure;

/// Reads the `.sql` files of `folder`: those in it, and those of each sub-folder.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Vec<SourceFile>> {
    if !folder.is_dir() {
        let sentence = format!(
            "no pipelines folder at {}; name one with --pipelines DIR, holding <pipeline>/streams.sql and views",
            folder.display()
        );
        return Err(Failure::Usage(sentence).into());
    }
    let mut paths = sql_files(folder)?;
    for sub_folder in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        paths.extend(sql_files(&sub_folder)?);
    }
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(bytes)
                .map_err(|error| Failure::Usage(format!("{} is not UTF-8: {error}", path.display())))?;
            Ok(SourceFile {
                name: path.display().to_string(),
                text,
            })
        })
        .collect()
}

/// Compiles `files`; refusals become one failure that prints each on its line.
pub(crate) async fn compile(files: &[SourceFile]) -> anyhow::Result<Catalog> {
    Catalog::compile(files)
        .await
        .map_err(|refusals| Failure::No(lines(&refusals)).into())
}

/// Refusals, one a line.
pub(crate) fn lines(refusals: &[Refusal]) -> String {
    refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("\n")
}

fn sql_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = entries(folder)?
        .into_iter()
        .filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    paths.sort_by_key(|path| (path.file_name().is_none_or(|name| name != "streams.sql"), path.clone()));
    Ok(paths)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("cannot list {}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        // Where Kubernetes mounts a ConfigMap, the files are links into a hidden folder beside them.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_first_and_folders_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b/views.sql",
            "b/streams.sql",
            "b/a.sql",
            "a/z.sql",
            "a/notes.md",
            "top.sql",
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "-- nothing").unwrap();
        }
        let names: Vec<String> = read(folder.path())
            .unwrap()
            .into_iter()
            .map(|file| {
                Path::new(&file.name)
                    .strip_prefix(folder.path())
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(names, ["top.sql", "a/z.sql", "b/streams.sql", "b/a.sql", "b/views.sql"]);
    }

    #[test]
    fn a_missing_folder_says_what_to_do() {
        let error = read(Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/at/all") && error.contains("--pipelines"),
            "{error}"
        );
    }
}
