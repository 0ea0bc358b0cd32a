//! The file in which the intents of operators outlive the process.
//!
//! It is replaced as a whole, by a rename: a crash leaves the old one or the new one. A file that cannot be read keeps wsgate from
//! starting, as a server under maintenance would otherwise be in rotation.

use crate::upstream::intents::{Intent, Store};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// Where the state is kept, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateFile {
    /// In the unit's StateDirectory, where systemd names one; else nowhere.
    #[default]
    Unit,
    /// Nowhere.
    Off,
    /// In this file.
    At(PathBuf),
}

/// The format of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    drained: Vec<Intent>,
}

const VERSION: u32 = 1;

/// Why the state cannot be read, or cannot be kept.
#[derive(Debug)]
pub struct StateError {
    path: PathBuf,
    what: String,
    remedy: &'static str,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateError { path, what, remedy } = self;
        write!(
            f,
            "state_file {}: {what}\n = help: {remedy}",
            path.display()
        )
    }
}

impl std::error::Error for StateError {}

impl StateFile {
    /// The path, if the state is kept at all.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            StateFile::Off => None,
            StateFile::At(path) => Some(path.clone()),
            StateFile::Unit => {
                // systemd.exec(5): several directories are separated by colons.
                let directories = std::env::var("STATE_DIRECTORY").ok()?;
                let first = directories.split(':').next()?;
                (!first.is_empty()).then(|| Path::new(first).join("state.json"))
            }
        }
    }
}

/// Reads the intents from a file. One that does not exist has none.
///
/// # Errors
/// If the file cannot be read, or was not written by this version of wsgate.
pub fn load(path: &Path) -> Result<Vec<Intent>, StateError> {
    let wrong = |what: String| StateError {
        path: path.to_owned(),
        what,
        remedy: "it says which servers are drained; mend it, or remove it to start with all servers in rotation",
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
    };
    let content: Content = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("is not a state of wsgate: {error}")))?;
    match content.version {
        VERSION => Ok(content.drained),
        other => Err(wrong(format!(
            "has version {other}, and this wsgate reads {VERSION}"
        ))),
    }
}

/// The file as a [`Store`].
#[derive(Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// Keeps intents in this file. `owner` is the user and the group that the process becomes, which has to be able to replace it.
    ///
    /// # Errors
    /// If the directory cannot be given to the owner.
    pub fn new(path: &Path, owner: Option<(u32, u32)>) -> Result<Kept, StateError> {
        if let (Some((user, group)), Some(directory)) = (owner, path.parent())
            && std::env::var_os("STATE_DIRECTORY").is_some_and(|unit| unit == *directory)
        {
            // systemd made it for the user that started the process.
            chown(directory, Some(user), Some(group)).map_err(|error| StateError {
                path: path.to_owned(),
                what: format!("its directory cannot be given to the user of wsgate: {error}"),
                remedy: "let `User=` of the unit be that user, or name another file",
            })?;
        }
        Ok(Kept(path.to_owned()))
    }

    /// Says that the file has to be writable.
    pub fn unwritable(path: &Path, error: &io::Error) -> StateError {
        StateError {
            path: path.to_owned(),
            what: format!("cannot be written: {error}"),
            remedy: "the user of wsgate has to be able to make files in its directory; state_file = \"off\" keeps no state",
        }
    }
}

impl Store for Kept {
    fn save(&self, intents: &[Intent]) -> io::Result<()> {
        let content = Content {
            version: VERSION,
            drained: intents.to_vec(),
        };
        let mut text = serde_json::to_vec_pretty(&content)?;
        text.push(b'\n');
        let mut next = self.0.clone().into_os_string();
        next.push(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&next, &self.0)?;
        // The rename itself has to reach the disk.
        match self.0.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => {
                File::open(directory)?.sync_all()
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        let name = format!(
            "wsgate-state-{}-{}",
            std::process::id(),
            rand::random::<u32>()
        );
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory");
        directory
    }

    #[test]
    fn what_is_kept_is_read() {
        let directory = directory();
        let path = directory.join("state.json");
        assert_eq!(load(&path).expect("nothing yet"), []);
        let intent = Intent {
            upstream: "chat/eu \"é\"".to_owned(),
            server: Some("10.0.0.1:9000".to_owned()),
            since: 1_790_000_000,
            by: "alice (127.0.0.1)".to_owned(),
        };
        let kept = Kept::new(&path, None).expect("a place");
        kept.save(std::slice::from_ref(&intent))
            .expect("it is written");
        assert_eq!(load(&path).expect("it is read"), [intent]);
        fs::remove_dir_all(&directory).expect("it goes");
        assert!(kept.save(&[]).is_err());
    }

    #[test]
    fn what_is_not_a_state_is_refused() {
        let directory = directory();
        let path = directory.join("state.json");
        for (text, says) in [
            ("", "EOF"),
            ("{\"version\": 1}", "missing field `drained`"),
            ("{\"version\": 2, \"drained\": []}", "has version 2"),
            (
                "{\"version\": 1, \"drained\": [{}]}",
                "missing field `upstream`",
            ),
        ] {
            fs::write(&path, text).expect("it is written");
            let error = load(&path).expect_err("it is no state").to_string();
            assert!(
                error.contains(says) && error.contains("remove it"),
                "{error}"
            );
        }
        fs::remove_dir_all(&directory).expect("it goes");
    }
}
