//! Health checks: asking servers whether they serve, and what follows where they don't.
//!
//! Pingora's load balancing has checks over TCP and HTTP; what decides here is an upgrade that succeeds, the version that
//! an answer names, and a server that comes back only after it has stood, so both questions are asked by the means of the
//! handshake itself, over the same sockets. When enough checks were against a server is
//! [`deploy::Health`](crate::deploy::Health)'s to say.

use crate::deploy::{Control, Health, HealthChange, Target, Trigger};
use crate::drain::{Cause, State};
use crate::duration::Shown;
use crate::frame::close;
use crate::handshake;
use crate::handshake::Strictness;
use crate::metrics::Metrics;
use crate::tls::Offer;
use crate::transport::error_text::words;
use crate::transport::exhaustion::ProbeError;
use crate::transport::socket::Socket;
use crate::upstream::settings::{Check, HealthCheck};
use crate::upstream::{HealthStatus, Pool, Pools, Server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v1::client::HttpSession;
use rand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

/// Checks the servers of all pools that want it.
pub(crate) struct Checks {
    pools: Arc<Pools>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
}

/// A server that is being checked, and how.
struct Checked {
    server: Arc<Server>,
    settings: HealthCheck,
    task: AbortHandle,
}

impl Checks {
    /// `control` drains a server that fails its checks.
    pub(crate) fn new(pools: Arc<Pools>, control: Arc<Control>, metrics: Arc<Metrics>) -> Self {
        Checks {
            pools,
            control,
            metrics,
        }
    }

    /// Checks for as long as it is polled, in tasks of the runtime that polls it. A reload changes what is checked.
    pub(crate) async fn run(self) {
        let mut changes = self.pools.watch();
        let mut running: HashMap<(u32, u32), Checked> = HashMap::new();
        loop {
            let mut before = std::mem::take(&mut running);
            for pool in self.pools.current() {
                let members = pool.members();
                let Some(health) = &members.settings.health else {
                    continue;
                };
                for server in &members.servers {
                    let key = (pool.index, server.number);
                    let known = before.remove(&key).filter(|known| {
                        known.settings == *health && Arc::ptr_eq(&known.server, server)
                    });
                    let checked = known.unwrap_or_else(|| {
                        let patient = HealthChecker {
                            pool: pool.clone(),
                            server: server.clone(),
                            control: self.control.clone(),
                            metrics: self.metrics.clone(),
                            settings: health.clone(),
                        };
                        Checked {
                            server: server.clone(),
                            settings: health.clone(),
                            task: tokio::spawn(patient.run()).abort_handle(),
                        }
                    });
                    running.insert(key, checked);
                }
            }
            before.into_values().for_each(|gone| gone.task.abort());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A server under observation.
struct HealthChecker {
    pool: Arc<Pool>,
    server: Arc<Server>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    settings: HealthCheck,
}

/// The longest pause between two checks, as a multiple of the interval.
const LATEST: f64 = 1.1;

impl HealthChecker {
    async fn run(self) {
        let settings = &self.settings;
        let mut health = Health::new(self.server.health() == HealthStatus::Good);
        let mut version: Option<String> = None;
        let mut drain: Option<JoinHandle<()>> = None;
        let (upstream, server) = (self.pool.name.as_str(), &self.server.address);
        loop {
            let answer =
                match timeout(settings.timeout, ask(&self.pool, &self.server, settings)).await {
                    Ok(Err(ProbeError::Exhausted(shortage, error))) => {
                        // It vouches for nothing either: what was known ages.
                        shortage.report(&self.metrics, &error);
                        sleep(settings.interval).await;
                        continue;
                    }
                    Ok(Err(ProbeError::Failed(error))) => Err(error),
                    Ok(Ok(version)) => Ok(version),
                    Err(_) => Err(format!("no answer within {}", Shown(settings.timeout))),
                };
            if let Err(error) = &answer {
                tracing::debug!(upstream, %server, error, "check failed");
            }
            let due = Instant::now() + settings.interval.mul_f64(LATEST) + settings.timeout;
            self.pool
                .handle_check(&self.server, answer.is_ok().then_some(due));
            match health.handle_check(answer.is_ok(), settings.thresholds) {
                Some(HealthChange::Down) => {
                    let error = answer.as_ref().err();
                    tracing::warn!(upstream, %server, error, "server fails its checks and takes no new connections");
                    self.pool.set_health(&self.server, HealthStatus::Bad);
                    drain = Some(self.drain_once_ready());
                }
                Some(HealthChange::Up) => {
                    tracing::info!(upstream, %server, "server passes its checks and takes connections");
                    self.pool.set_health(&self.server, HealthStatus::Good);
                    if let Some(drain) = drain.take() {
                        drain.abort();
                        self.cancel();
                    }
                }
                None => {}
            }
            if let Ok(Some(new)) = answer
                && let Some(old) = version.replace(new.clone())
                && old != new
            {
                tracing::info!(upstream, %server, old, new, "server was deployed anew");
                self.control.start(self.trigger(Cause::Deploy));
            }
            // Health checks of several wsgate processes must not come in step.
            let jitter = rand::thread_rng().gen_range(0.9..LATEST);
            sleep(settings.interval.mul_f64(jitter)).await;
        }
    }

    fn trigger(&self, cause: Cause) -> Trigger {
        Trigger {
            cause,
            target: Target::Server(self.pool.server_id(&self.server)),
        }
    }

    /// Its clients go as soon as another server can take them: as long as there is none, they are better off where they
    /// are.
    fn drain_once_ready(&self) -> JoinHandle<()> {
        let (pool, server, control) =
            (self.pool.clone(), self.server.clone(), self.control.clone());
        let trigger = self.trigger(Cause::Health);
        tokio::spawn(async move {
            pool.ready(Some(&server)).await;
            control.start(trigger);
        })
    }

    /// The server is back: its drain is cancelled, and the clients that are still connected stay.
    fn cancel(&self) {
        let selection = self.trigger(Cause::Health).target.selection();
        for (id, progress) in self.control.drains() {
            let is_ours = progress.cause == Cause::Health
                && progress.selection == selection
                && progress.state == State::Running;
            if is_ours {
                self.control.cancel(id);
            }
        }
    }
}

/// The version that a good answer names, or what is wrong.
pub(crate) async fn ask(
    pool: &Pool,
    server: &Server,
    health: &HealthCheck,
) -> Result<Option<String>, ProbeError> {
    let members = pool.members();
    let (address, name) = (&server.address, server.name.as_deref());
    let settings = &members.settings;
    let (tls, sources) = (settings.tls.as_ref(), &settings.sources);
    let socket = Socket::open(address, name, tls, settings.tcp, sources, Offer::Http1).await?;
    let (path, host) = match &health.check {
        Check::Tcp => return Ok(None),
        Check::Http { path, host, .. } | Check::WebSocket { path, host } => (path, host),
    };
    let host = host.clone().unwrap_or_else(|| server.address.to_string());
    let wrong = |error: Box<pingora::Error>| words(&error);
    let mut request = RequestHeader::build(Method::GET, path.as_bytes(), None).map_err(wrong)?;
    request.set_version(Version::HTTP_11);
    let mut header = |name: &'static str, value: &str| {
        request
            .insert_header(name, value.to_owned())
            .map_err(|error| error.to_string())
    };
    header("Host", &host)?;
    header(
        "User-Agent",
        concat!("wsgate/", env!("CARGO_PKG_VERSION"), " (health check)"),
    )?;
    let is_websocket = matches!(health.check, Check::WebSocket { .. });
    if is_websocket {
        let key: [u8; 16] = rand::random();
        header("Connection", "Upgrade")?;
        header("Upgrade", "websocket")?;
        header("Sec-WebSocket-Version", handshake::VERSION)?;
        header("Sec-WebSocket-Key", &STANDARD.encode(key))?;
    } else {
        header("Connection", "close")?;
    }
    let head = request.clone();
    let mut session = HttpSession::new(Box::new(socket));
    session
        .write_request_header(Box::new(request))
        .await
        .map_err(wrong)?;
    session.read_response().await.map_err(wrong)?;
    let response = session.resp_header().cloned();
    let response = response.ok_or_else(|| "no answer".to_owned())?;
    match &health.check {
        Check::Tcp => {}
        Check::Http { status, .. } => {
            if response.status.as_u16() != *status {
                let got = response.status.as_u16();
                return Err(format!("status {got}, not {status}").into());
            }
        }
        Check::WebSocket { .. } => {
            check_switch(&head, &response)?;
            // The server is to see a client that leaves as it should.
            let farewell = close::Frame::new(Some(1000), "", Some(rand::random()));
            let mut stream = session.into_inner();
            let _ = stream.write_all(farewell.as_bytes()).await;
            let _ = stream.flush().await;
        }
    }
    let version = health.version_header.as_ref();
    Ok(version.and_then(|name| {
        let value = response.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    }))
}

fn check_switch(head: &RequestHeader, response: &ResponseHeader) -> Result<(), String> {
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("status {}, not 101", response.status.as_u16()));
    }
    let strictness = Strictness::Enforce;
    let request = handshake::check_request(&head.method, head.version, &head.headers, strictness)
        .map_err(|refusal| refusal.to_string())?;
    handshake::check_switch(&request, &response.headers, strictness)
        .map(drop)
        .map_err(|bad| bad.to_string())
}
