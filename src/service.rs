//! wsgate as a service of the system: its user, and what the service manager is told (systemd's `sd_notify`; where no
//! manager listens, nothing happens).

use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setgroups, setuid};
use sd_notify::NotifyState;
use std::ffi::CString;
use std::fmt;

/// The user and group of the process once its listeners are bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name, for messages.
    pub user: String,
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
}

impl Owner {
    /// The user of this name, in its own group or in the named one.
    ///
    /// # Errors
    /// A sentence that says that there is no such user or group.
    pub fn find(user: &str, group: Option<&str>) -> Result<Owner, String> {
        let found = User::from_name(user).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("there is no user `{user}`"))?;
        let gid = match group {
            None => found.gid,
            Some(name) => {
                let group = Group::from_name(name).map_err(|error| error.to_string())?;
                group
                    .ok_or_else(|| format!("there is no group `{name}`"))?
                    .gid
            }
        };
        Ok(Owner {
            user: user.to_owned(),
            uid: found.uid.as_raw(),
            gid: gid.as_raw(),
        })
    }

    /// Makes the process this user's, for good.
    ///
    /// # Errors
    /// Where it may not: only root's processes can become somebody else's.
    pub fn take_over(&self) -> Result<(), OwnerError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if Uid::effective() == uid && Gid::effective() == gid {
            return Ok(());
        }
        let change = || {
            match CString::new(self.user.as_str()) {
                Ok(name) => initgroups(&name, gid)?,
                Err(_) => setgroups(&[gid])?,
            }
            setgid(gid)?;
            setuid(uid)
        };
        change().map_err(|source| OwnerError {
            user: self.user.clone(),
            source,
        })
    }
}

/// The process cannot be a user's.
#[derive(Debug)]
pub struct OwnerError {
    user: String,
    source: nix::Error,
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OwnerError { user, source } = self;
        write!(
            f,
            "cannot run as `{user}`: {source}; start it as root, or leave `user` out and start it as that user"
        )
    }
}

impl std::error::Error for OwnerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Tells the service manager that wsgate serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager that wsgate reads its configuration. [`ready`] follows in any case.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no clock to tell the service manager"),
    }
}

/// Tells the service manager that this process is the one of the service from now on.
pub fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Tells the service manager that wsgate ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
