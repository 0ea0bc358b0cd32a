//! The plain requests that a server has: long polls, streams of events, uploads. A drain waits for them up to its deadline, and
//! ends them then.

use crate::upstream::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// The plain requests of one server.
#[derive(Debug)]
pub(super) struct PlainRequests {
    open: AtomicUsize,
    /// Changes when all requests under way are to end.
    end: watch::Sender<()>,
}

impl Default for PlainRequests {
    fn default() -> Self {
        PlainRequests {
            open: AtomicUsize::new(0),
            end: watch::Sender::new(()),
        }
    }
}

/// A plain request counts against its server as long as this lives.
#[derive(Debug)]
pub(crate) struct PlainPermit {
    server: Arc<Server>,
    end: watch::Receiver<()>,
}

impl PlainPermit {
    /// Changes when the request has to end, because the deadline of a drain of its server is over.
    pub(crate) fn end(&self) -> watch::Receiver<()> {
        self.end.clone()
    }
}

impl Drop for PlainPermit {
    fn drop(&mut self) {
        let requests = &self.server.plain_requests;
        requests.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// A plain request goes to this server.
    pub(crate) fn begin_plain_request(self: &Arc<Self>) -> PlainPermit {
        let requests = &self.plain_requests;
        requests.open.fetch_add(1, Ordering::Relaxed);
        PlainPermit {
            end: requests.end.subscribe(),
            server: self.clone(),
        }
    }

    /// Plain requests under way.
    pub fn plain_requests(&self) -> usize {
        self.plain_requests.open.load(Ordering::Relaxed)
    }

    /// Ends the plain requests under way.
    pub(crate) fn end_plain_requests(&self) {
        self.plain_requests.end.send_modify(|()| {});
    }
}
