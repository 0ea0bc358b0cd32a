//! The hand-over from an old process to a new one: the listening sockets pass over a Unix socket, so that one of both always listens.
//!
//! ```text
//! new: wsgate run --upgrade      binds `upgrade_socket` and waits
//! old: SIGQUIT                   connects to it, sends the sockets, goes on accepting
//! new: serves                    confirms
//! old: confirmed                 accepts no more, tells its clients to reconnect, ends
//! ```
//!
//! Unless the new process has confirmed, the old one goes on as if nothing had been asked. Pingora's own transfer of sockets is not
//! used: it is not confirmed, takes 32 sockets at most, gives them to any process that listens at the path, and panics if the path
//! cannot be bound. Here both processes must belong to the same user.

use crate::upstream::intents::Intent;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a new process waits for the old one's signal.
const SIGNAL: Duration = Duration::from_secs(60);
/// How long an old process waits for a new one to be there.
const PRESENCE: Duration = Duration::from_secs(5);
/// How long either may take for its part.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(20);
/// The kernel passes no more at once (SCM_MAX_FD).
const MOST_SOCKETS: usize = 253;
/// Longest list of addresses, in bytes: a path has 108 at the most.
const MOST_NAMES: usize = 64 << 10;

/// Why nothing was handed over.
#[derive(Debug)]
pub struct HandoverError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HandoverError { path, what, source } = self;
        write!(f, "{what} ({}): {source}", path.display())
    }
}

impl std::error::Error for HandoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The sockets that an old process has handed over.
pub struct Inherited {
    /// Listening sockets by the name of their address.
    pub(super) sockets: Vec<(String, OwnedFd)>,
    /// The servers that operators drained.
    pub(super) intents: Vec<Intent>,
    old: UnixStream,
}

impl Inherited {
    /// Waits for an old process that is told by SIGQUIT to hand over, up to a minute.
    ///
    /// # Errors
    /// Where the path cannot be bound, nobody comes, or who comes is of another user or breaks off.
    /// `owner` is the user that the old process may have become.
    pub fn receive(path: &Path, owner: Option<u32>) -> Result<Inherited, HandoverError> {
        let wrong = |what| {
            move |source| HandoverError {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let bind = || {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().map_err(wrong("`upgrade_socket` cannot be listened on"))?;
        let accepted = until(SIGNAL, || listener.accept());
        // Nobody else is to find it.
        let _ = std::fs::remove_file(path);
        let (old, _) = accepted.map_err(wrong(
            "no old process came to hand its listeners over; send it SIGQUIT once this one waits",
        ))?;
        let receive = || {
            old.set_nonblocking(false)?;
            old.set_read_timeout(Some(ANSWER))?;
            old.set_write_timeout(Some(ANSWER))?;
            check_user(&old, owner)?;
            let sockets = receive_sockets(&old)?;
            Ok((sockets, receive_intents(&old)?))
        };
        let (sockets, intents) =
            receive().map_err(wrong("the old process did not hand its listeners over"))?;
        Ok(Inherited {
            sockets,
            intents,
            old,
        })
    }

    /// Tells the old process that this one serves.
    pub(super) fn confirm(mut self) {
        if let Err(error) = self.old.write_all(&[CONFIRMED]) {
            tracing::warn!(%error, "the old process has gone without waiting");
        }
    }
}

const CONFIRMED: u8 = b'1';

/// Hands listening sockets to the new process that waits at this path. Returns when it serves.
///
/// # Errors
/// Where nobody is there, or is of another user, or has not confirmed in time: then this process has to go on.
pub(super) fn hand_over(
    path: &Path,
    sockets: &[(String, Arc<OwnedFd>)],
    intents: &[Intent],
) -> Result<(), HandoverError> {
    let wrong = |what| {
        move |source| HandoverError {
            path: path.to_owned(),
            what,
            source,
        }
    };
    let nobody =
        "no new process waits at `upgrade_socket`; start it with `wsgate run --upgrade` first";
    let mut new = until(PRESENCE, || UnixStream::connect(path)).map_err(wrong(nobody))?;
    let mut pass = || {
        new.set_read_timeout(Some(ANSWER))?;
        new.set_write_timeout(Some(ANSWER))?;
        check_user(&new, None)?;
        send_sockets(&mut new, sockets)?;
        send_intents(&mut new, intents)?;
        let mut answer = [0];
        new.read_exact(&mut answer)
    };
    pass().map_err(wrong("the new process did not confirm that it serves"))
}

/// Tries until it goes well, or the time is over.
fn until<T>(limit: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(GLANCE),
        }
    }
}

/// Sockets are given to, and taken from, processes of the same user, and root's.
fn check_user(peer: &UnixStream, or: Option<u32>) -> io::Result<()> {
    let theirs = sockopt::socket_peercred(peer)?.uid;
    if theirs == rustix::process::geteuid() || theirs.is_root() || Some(theirs.as_raw()) == or {
        return Ok(());
    }
    let message = "the process at the other end belongs to another user";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

fn send_sockets(new: &mut UnixStream, sockets: &[(String, Arc<OwnedFd>)]) -> io::Result<()> {
    let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join("\n");
    if sockets.len() > MOST_SOCKETS || names.len() > MOST_NAMES {
        let message = format!("{MOST_SOCKETS} listeners can be handed over at the most");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The sockets come with the length, the names follow.
    let length = (names.len() as u32).to_be_bytes();
    sendmsg(
        &*new,
        &[IoSlice::new(&length)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    new.write_all(names.as_bytes())
}

/// Length and JSON.
fn send_intents(new: &mut UnixStream, intents: &[Intent]) -> io::Result<()> {
    let text = serde_json::to_vec(intents)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    new.write_all(&length.to_be_bytes())?;
    new.write_all(&text)
}

fn receive_intents(mut old: &UnixStream) -> io::Result<Vec<Intent>> {
    let mut length = [0; 4];
    old.read_exact(&mut length)?;
    let mut text = Vec::new();
    let length = u64::from(u32::from_be_bytes(length));
    // What is announced is read as it comes, and takes memory only then.
    old.take(length).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn receive_sockets(mut old: &UnixStream) -> io::Result<Vec<(String, OwnedFd)>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let got = recvmsg(
        old,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(wrong("too many sockets"));
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    old.read_exact(&mut length[got.bytes..])?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MOST_NAMES {
        return Err(wrong("a list of addresses that is too long"));
    }
    let mut names = vec![0; length];
    old.read_exact(&mut names)?;
    let names = String::from_utf8(names).map_err(|_| wrong("addresses that are not UTF-8"))?;
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    if names.len() != sockets.len() {
        return Err(wrong("not as many sockets as addresses"));
    }
    Ok(names.into_iter().zip(sockets).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn path(name: &str) -> PathBuf {
        let unique = format!(
            "wsgate-{name}-{}-{}",
            std::process::id(),
            rand::random::<u32>()
        );
        std::env::temp_dir().join(unique)
    }

    #[test]
    fn sockets_pass_and_are_confirmed() {
        let path = path("pass");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let sockets = [
            (address.to_string(), Arc::new(OwnedFd::from(listener))),
            (
                "unix:/a b".to_owned(),
                Arc::new(OwnedFd::from(
                    TcpListener::bind("127.0.0.1:0").expect("a port"),
                )),
            ),
        ];
        let new = thread::spawn({
            let path = path.clone();
            move || Inherited::receive(&path, None)
        });
        let intents = [Intent {
            upstream: "chat".to_owned(),
            server: None,
            since: 1,
            by: "alice".to_owned(),
        }];
        let old = thread::spawn({
            let (path, intents) = (path.clone(), intents.clone());
            move || hand_over(&path, &sockets, &intents)
        });
        let inherited = new.join().expect("no panic").expect("it is handed over");
        let names: Vec<_> = inherited
            .sockets
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(names, [address.to_string(), "unix:/a b".to_owned()]);
        assert_eq!(inherited.intents, intents);
        assert!(!old.is_finished(), "it waits for the confirmation");
        let mut sockets = Vec::new();
        let mut inherited = inherited;
        std::mem::swap(&mut sockets, &mut inherited.sockets);
        inherited.confirm();
        old.join().expect("no panic").expect("it is confirmed");
        let (_, socket) = sockets.swap_remove(0);
        let listener = TcpListener::from(socket);
        let client = std::net::TcpStream::connect(address).expect("it listens still");
        listener.accept().expect("a connection");
        drop(client);
        assert!(!path.exists());
    }

    #[test]
    fn who_does_not_confirm_has_nothing() {
        let path = path("unconfirmed");
        let new = thread::spawn({
            let path = path.clone();
            move || Inherited::receive(&path, None).map(drop)
        });
        let error = hand_over(&path, &[], &[]).expect_err("it went away");
        assert!(error.to_string().contains("did not confirm"), "{error}");
        new.join()
            .expect("no panic")
            .expect("nothing was handed over, and that went well");
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [
            &b""[..],
            b"\0\0",
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01a",
            b"\0\0\0\x02\xff\xff",
        ] {
            let path = path("nonsense");
            let new = thread::spawn({
                let path = path.clone();
                move || Inherited::receive(&path, None).map(drop)
            });
            let mut old = until(PRESENCE, || UnixStream::connect(&path)).expect("it waits");
            old.write_all(nonsense).expect("it is read");
            drop(old);
            assert!(new.join().expect("no panic").is_err(), "{nonsense:?}");
        }
    }
}
