//! What a `data_dir` was made with, and cannot change: `<data_dir>/installation.json`.
//!
//! The archive notes where ticks meet, and generations are cut there. With another tick length those notes would have
//! gaps. So the first start writes the length down; later starts use it, and refuse to be told another one.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::config::{Merged, Settings};
use crate::failure::Failure;

const FILE: &str = "installation.json";
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Installation {
    version: u32,
    cut_every_ms: i64,
}

/// The settings for the `data_dir` of `merged`. Call it while the log is locked: only one process may write the file.
pub(crate) fn settle(merged: &Merged) -> anyhow::Result<Settings> {
    let mut settings = merged.settings.clone();
    let path = settings.data_dir.join(FILE);
    let Some(installation) = read(&path)? else {
        let installation = Installation {
            version: VERSION,
            cut_every_ms: settings.speed.cut_every_ms,
        };
        write(&path, &installation)?;
        return Ok(settings);
    };
    if installation.version != VERSION {
        let found = installation.version;
        anyhow::bail!(
            "{} has version {found}, this foldline reads version {VERSION}",
            path.display()
        );
    }
    let made_with = installation.cut_every_ms;
    if settings.speed.cut_every_ms == made_with {
        return Ok(settings);
    }
    if merged.is_default("speed.cut_every_ms") {
        settings.speed.cut_every_ms = made_with;
        return Ok(settings);
    }
    Err(Failure::Usage(format!(
        "{} was made with speed.cut_every_ms = {made_with} and cannot change to {}; leave the setting out, or start with \
         another data_dir",
        settings.data_dir.display(),
        settings.speed.cut_every_ms
    ))
    .into())
}

fn read(path: &Path) -> anyhow::Result<Option<Installation>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_slice(&text)
        .with_context(|| format!("cannot read {}", path.display()))
        .map(Some)
}

/// Whole and synced, or not at all.
fn write(path: &Path, installation: &Installation) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    let text = serde_json::to_vec(installation).expect("plain numbers serialise");
    let written = std::fs::write(&part, text)
        .and_then(|()| std::fs::File::open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn merged(folder: &Path, cut_every_ms: Option<i64>) -> Merged {
        let mut flags = vec![("data_dir", "--data-dir", folder.display().to_string())];
        flags.extend(cut_every_ms.map(|ms| ("speed.cut_every_ms", "--test", ms.to_string())));
        config::load(None, &flags).unwrap()
    }

    #[test]
    fn the_first_start_decides_the_tick_length() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            settle(&merged(folder.path(), Some(250))).unwrap().speed.cut_every_ms,
            250
        );
        assert_eq!(
            settle(&merged(folder.path(), Some(250))).unwrap().speed.cut_every_ms,
            250
        );
        assert_eq!(
            settle(&merged(folder.path(), None)).unwrap().speed.cut_every_ms,
            250,
            "nobody asked for another"
        );
        let refused = settle(&merged(folder.path(), Some(500))).unwrap_err().to_string();
        assert!(
            refused.contains("made with speed.cut_every_ms = 250 and cannot change to 500"),
            "{refused}"
        );
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), r#"{"version":2,"cut_every_ms":250}"#).unwrap();
        let refused = settle(&merged(folder.path(), None)).unwrap_err().to_string();
        assert!(refused.contains("version 2"), "{refused}");
    }
}
