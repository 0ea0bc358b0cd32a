//! File descriptors, memory for sockets, or local ports that run out: told from faults of servers, counted, and said once.

use crate::metrics::{Metrics, Resource};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A resource of the system that has run out, so that no further connection can be made. No client and no server is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhaustion {
    /// Of file descriptors, in this process or in the system.
    Descriptors,
    /// Of memory for sockets.
    Memory,
    /// Of local ports for connections to one address of a server.
    LocalPorts,
    /// Of local addresses: a `source` that is not this machine's.
    Source,
}

/// Why somebody who was to be asked has not given a good answer.
#[derive(Debug)]
pub(crate) enum ProbeError {
    /// There was nothing to ask with: that says nothing of who was to be asked.
    Exhausted(Exhaustion, io::Error),
    /// The failure, as a sentence.
    Failed(String),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match Exhaustion::of(&error) {
            Some(shortage) => ProbeError::Exhausted(shortage, error),
            None => ProbeError::Failed(error.to_string()),
        }
    }
}

impl From<String> for ProbeError {
    fn from(error: String) -> Self {
        ProbeError::Failed(error)
    }
}

/// A `source` that no interface of this machine has.
#[derive(Debug)]
struct ForeignSource(IpAddr);

impl fmt::Display for ForeignSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the source {} is not an address of this machine", self.0)
    }
}

impl std::error::Error for ForeignSource {}

/// How often the log is told of a shortage, for as long as it lasts.
const REMINDER: Duration = Duration::from_secs(60);

impl Exhaustion {
    /// Whether an error is one: accept(2), socket(2), bind(2), connect(2).
    pub fn of(error: &io::Error) -> Option<Exhaustion> {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<ForeignSource>())
        {
            return Some(Exhaustion::Source);
        }
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Exhaustion::Descriptors),
            Errno::NOBUFS | Errno::NOMEM => Some(Exhaustion::Memory),
            // connect(2) has the one, bind(2) to port 0 the other.
            Errno::ADDRNOTAVAIL | Errno::ADDRINUSE => Some(Exhaustion::LocalPorts),
            _ => None,
        }
    }

    /// Tells exhaustion from other errors of connect(2) to a server, from `source` or an address that the system chose: the system has one
    /// error for "no port is left" and for "no address of mine leads there", as where IPv6 is off.
    pub(crate) fn of_connect(
        error: io::Error,
        source: Option<IpAddr>,
        server: SocketAddr,
    ) -> io::Error {
        let is_ambiguous = Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL);
        if !is_ambiguous || has_way_to(server, source) {
            return error;
        }
        let sentence = "this machine has no address from which it could be reached";
        io::Error::new(io::ErrorKind::AddrNotAvailable, sentence)
    }

    /// Tells exhaustion from other errors of bind(2) to `source`.
    pub(crate) fn of_bind(error: io::Error, source: IpAddr) -> io::Error {
        match Errno::from_io_error(&error) {
            Some(Errno::ADDRNOTAVAIL) => {
                io::Error::new(io::ErrorKind::AddrNotAvailable, ForeignSource(source))
            }
            _ => error,
        }
    }

    /// Whether a connection to another server would meet the same: ports are counted by the server's address.
    pub fn is_for_every_server(self) -> bool {
        match self {
            Exhaustion::Descriptors | Exhaustion::Memory => true,
            Exhaustion::LocalPorts | Exhaustion::Source => false,
        }
    }

    const fn resource(self) -> Resource {
        match self {
            Exhaustion::Descriptors => Resource::FileDescriptors,
            Exhaustion::Memory => Resource::Memory,
            Exhaustion::LocalPorts => Resource::LocalPorts,
            Exhaustion::Source => Resource::Source,
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Exhaustion::Descriptors => {
                "raise the hard limit of file descriptors (LimitNOFILE of systemd); a WebSocket needs two"
            }
            Exhaustion::Memory => "give the machine more memory, or fewer connections",
            Exhaustion::LocalPorts => {
                "no local port is free toward a server; give the upstream more addresses in `source`, or more server \
                 addresses, or widen net.ipv4.ip_local_port_range"
            }
            Exhaustion::Source => {
                "give the machine that address, or correct `source` of the upstream"
            }
        }
    }

    /// Counts it, and says so in the log: once, however many connections it is about.
    pub fn report(self, metrics: &Metrics, error: &io::Error) {
        metrics.exhausted(self.resource());
        self.say(error);
    }

    /// Says so in the log, once a minute for each kind.
    pub(crate) fn say(self, error: &io::Error) {
        static SAID: [Mutex<Option<Instant>>; 4] = [const { Mutex::new(None) }; 4];
        let mut said = SAID[self as usize].lock();
        if said.is_none_or(|said| said.elapsed() >= REMINDER) {
            *said = Some(Instant::now());
            let advice = self.advice();
            tracing::error!(%error, "new connections wait, or are refused, until others end: {advice}");
        }
    }
}

/// Whether this machine has an address from which it could reach a server. Connecting a datagram socket sends nothing and
/// takes no port of TCP.
fn has_way_to(server: SocketAddr, source: Option<IpAddr>) -> bool {
    let any = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0));
    let connected = socket.and_then(|socket| socket.connect(server));
    let error = connected
        .err()
        .and_then(|error| Errno::from_io_error(&error));
    error != Some(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_an_error_is() {
        let of = |errno: Errno| Exhaustion::of(&errno.into());
        for (errno, shortage) in [
            (Errno::MFILE, Some(Exhaustion::Descriptors)),
            (Errno::NFILE, Some(Exhaustion::Descriptors)),
            (Errno::NOBUFS, Some(Exhaustion::Memory)),
            (Errno::ADDRNOTAVAIL, Some(Exhaustion::LocalPorts)),
            (Errno::ADDRINUSE, Some(Exhaustion::LocalPorts)),
            (Errno::CONNREFUSED, None),
            (Errno::TIMEDOUT, None),
            (Errno::CONNABORTED, None),
            (Errno::NETUNREACH, None),
        ] {
            assert_eq!(of(errno), shortage, "{errno}");
        }
    }

    #[test]
    fn an_address_of_another_machine_is_no_lack_of_ports() {
        // RFC 5737: addresses for documentation, which no machine has.
        let source = [192, 0, 2, 1].into();
        let error = Exhaustion::of_bind(Errno::ADDRNOTAVAIL.into(), source);
        assert_eq!(Exhaustion::of(&error), Some(Exhaustion::Source));
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
        // From there this one cannot be reached, and so there is no port to run out of.
        let server = ([127, 0, 0, 1], 9).into();
        let error = Exhaustion::of_connect(Errno::ADDRNOTAVAIL.into(), Some(source), server);
        assert_eq!(Exhaustion::of(&error), None, "{error}");
        let error = Exhaustion::of_connect(Errno::ADDRNOTAVAIL.into(), None, server);
        assert_eq!(
            Exhaustion::of(&error),
            Some(Exhaustion::LocalPorts),
            "{error}"
        );
    }
}
